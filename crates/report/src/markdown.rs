//! Gap closure as Markdown tables, for logs of experiments.

use crate::group::{Group, Seeds, groups};
use crate::number::{MISSING, mean_interval};
use crate::page::comparisons::{lead, loss_difference, seeds_of, validation};
use crate::results::Results;
use crate::statistics::Summary;

/// For every setting a table of gap closure in per cent, recipes down and budgets across: mean difference over mean gap with its
/// 95 % interval (Fieller), then the same on the test split where it was evaluated. With a recipe to compare with, a table of
/// leads over it in points, paired by seed; where a gap is not resolved, also of differences of validation losses, which need
/// none.
pub fn markdown(results: &Results, over: Option<&str>) -> String {
    let tables = groups(results).into_iter().map(|group| table(&group, over));
    tables.collect::<Vec<_>>().join("\n")
}

fn table(group: &Group, over: Option<&str>) -> String {
    let places = group.places();
    let seeds = seeds_of(group);
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let mut text = format!("{}, seeds {}:\n\n", group.label, seeds.join(", "));
    let names = places.iter().map(|&place| {
        let name = group.setting.place_name(place);
        match group.gap(place).is_resolved() {
            true => name,
            false => name + " (gap not resolved)",
        }
    });
    text += &row("η in %".to_owned(), names);
    text += &row("---".to_owned(), places.iter().map(|_| "---".to_owned()));
    for recipe in group.recipes() {
        let cells = places
            .iter()
            .map(|&place| eta(&group.seeds(recipe, place), seeds.len()));
        text += &row(format!("`{recipe}`"), cells);
    }
    let others = group.recipes().into_iter();
    let others: Vec<&str> = others.filter(|recipe| Some(*recipe) != over).collect();
    let Some(over) = over.filter(|over| group.recipes().contains(over)) else {
        return text;
    };
    for &recipe in &others {
        let leads = places
            .iter()
            .map(|&place| in_points(&lead(group, recipe, over, place), seeds.len()));
        text += &row(format!("`{recipe}` less `{over}`"), leads);
    }
    if places.iter().all(|&place| group.gap(place).is_resolved()) {
        return text;
    }
    for recipe in others {
        let differences = places.iter().map(|&place| {
            let difference = loss_difference(group, recipe, over, place, validation);
            interval(&difference, seeds.len(), 1e3, 2)
        });
        text += &row(
            format!("`{recipe}` less `{over}`, loss in 0.001 nats"),
            differences,
        );
    }
    text
}

fn row(first: String, others: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = [first].into_iter().chain(others).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn eta(seeds: &Seeds, all: usize) -> String {
    let mut text = in_points(&seeds.eta(), all);
    if let Some(test) = seeds.test_eta() {
        text += &format!("; test {}", in_points(&test, all));
    }
    text
}

/// A mean of gap closures in points.
fn in_points(summary: &Summary, all: usize) -> String {
    interval(summary, all, 100.0, 1)
}

/// A mean with its interval, and the number of seeds where it is not that of `all`.
fn interval(summary: &Summary, all: usize, unit: f64, decimals: usize) -> String {
    if summary.n == 0 {
        return MISSING.to_owned();
    }
    let mut text = mean_interval(summary, unit, decimals);
    if summary.n < all {
        text += &format!(", n = {}", summary.n);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn recipes_down_and_budgets_across() {
        let mut results = sample::seeds(3);
        results
            .cells
            .retain(|cell| cell.setting.cpt_fraction >= 0.5);
        for cell in &mut results.cells {
            let own = if cell.recipe == "distinct" {
                0.5
            } else {
                -0.25
            };
            sample::set_eta(cell, own);
            cell.test_loss_upcycled = None;
        }
        let expected = "tiny, 8 to 16 experts, top-2, seeds 0, 1, 2:\n\
                        \n\
                        | η in % | CPT 50\u{a0}% | CPT 100\u{a0}% |\n\
                        | --- | --- | --- |\n\
                        | `paper` | −25.0 (−25.0 to −25.0) | −25.0 (−25.0 to −25.0) |\n\
                        | `distinct` | 50.0 (50.0 to 50.0) | 50.0 (50.0 to 50.0) |\n\
                        | `distinct` less `paper` | 75.0 (75.0 to 75.0) | 75.0 (75.0 to 75.0) |\n";
        assert_eq!(markdown(&results, Some("paper")), expected);
    }

    #[test]
    fn losses_are_compared_where_a_gap_is_not_resolved() {
        let mut results = sample::seeds(3);
        results
            .cells
            .retain(|cell| cell.setting.cpt_fraction >= 0.5);
        for cell in &mut results.cells {
            if cell.setting.cpt_fraction == 0.5 {
                cell.loss_fixed_me = cell.loss_fixed_e;
            }
            let own = if cell.recipe == "distinct" { 0.25 } else { 0.5 };
            cell.loss_upcycled = own + cell.seed as f64;
        }
        let line = "| `distinct` less `paper`, loss in 0.001 nats | −250.00 (−250.00 to −250.00) | −250.00 (−250.00 to \
                    −250.00) |\n";
        let text = markdown(&results, Some("paper"));
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_test_split_stands_beside() {
        let text = markdown(&sample::seeds(1), None);
        assert!(text.contains("; test ") && !text.contains("less"), "{text}");
    }
}
