//! The table of training cost.

use maud::Markup;

use crate::group::{Group, Seeds};
use crate::model::Model;
use crate::number::{MISSING, duration, flops, saved};
use crate::page::markup::{self, Table, text};
use crate::plot::palette::Palette;
use crate::results::Cell;
use crate::statistics::saving;

/// FLOPs and seconds of Upcycled beside Fixed-mE, means over seeds.
pub(crate) fn costs(group: &Group, palette: &Palette) -> Table {
    let big = Model::FixedMe.label(group.setting);
    let head = [
        "at".to_owned(),
        "recipe".to_owned(),
        "FLOPs, Upcycled".to_owned(),
        format!("FLOPs, {big}"),
        "saved".to_owned(),
        "time, Upcycled".to_owned(),
        format!("time, {big}"),
        "saved".to_owned(),
    ];
    let caption = format!("Training cost, means over seeds: {}", group.label);
    let mut table = Table::new(caption, 2, head);
    for seeds in group.comparisons() {
        let names = [
            text(group.setting.place_name(seeds.place)),
            markup::recipe(seeds.recipe, palette),
        ];
        let computed = pair(&seeds, flops, |c| c.train_flops, |c| c.train_flops_fixed_me);
        let timed = pair(
            &seeds,
            duration,
            |c| c.wall_seconds,
            |c| c.wall_seconds_fixed_me,
        );
        table.row(names.into_iter().chain(computed).chain(timed));
    }
    table
}

/// Cost of Upcycled, cost of Fixed-mE, share saved.
fn pair(
    seeds: &Seeds,
    shown: fn(f64) -> String,
    upcycled: fn(&Cell) -> f64,
    fixed_me: fn(&Cell) -> f64,
) -> [Markup; 3] {
    let cost = seeds.summary(upcycled).mean;
    let reference = seeds.summary(fixed_me).mean;
    let saved = saving(cost, reference).map_or(MISSING.to_owned(), saved);
    [shown(cost), shown(reference), saved].map(text)
}

#[cfg(test)]
mod tests {
    use maud::Render;

    use super::*;
    use crate::group::groups;
    use crate::sample;

    #[test]
    fn shares_have_one_decimal_and_no_sign() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            cell.train_flops = 0.98 * cell.train_flops_fixed_me;
            cell.wall_seconds = 1.005 * cell.wall_seconds_fixed_me;
        }
        let groups = groups(&results);
        let table = costs(&groups[0], &Palette::new(&results))
            .render()
            .into_string();
        assert!(table.contains("<td>2.0\u{a0}%</td>"), "{table}");
        assert!(table.contains("<td>0.5\u{a0}% more</td>"), "{table}");
    }
}
