//! Cells as lines of text.

const GAP: &str = "  ";

/// Lines of cells, some columns at the left and all others at the right. Every row has as many cells as the first.
pub fn in_columns(rows: &[Vec<String>], at_left: &[usize]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..first.len()).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(place, (cell, &width))| match at_left.contains(&place) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_the_left_and_numbers_at_the_right() {
        let rows = [["name", "n"], ["é", "10"], ["longer", "–"]];
        let rows = rows.map(|row| row.map(String::from).to_vec());
        assert_eq!(
            in_columns(&rows, &[0]),
            "name     n\né       10\nlonger   –"
        );
        assert_eq!(in_columns(&[], &[0]), "");
    }
}
