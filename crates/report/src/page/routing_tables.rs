//! The table of routing health.

use crate::group::Group;
use crate::model::in_order;
use crate::number::{fixed, percent};
use crate::page::markup::{Table, swatched, text};
use crate::plot::palette::Palette;
use crate::results::RoutingRow;
use crate::statistics::summarize;

/// Routing of the final models with the longest CPT, means over layers and seeds; none if there is no routing row.
pub(crate) fn routing(group: &Group, palette: &Palette) -> Option<Table> {
    let rows = group.longest_routing();
    let setting = &rows.first()?.setting;
    let caption = format!(
        "Routing of the final models ({}), means over layers and seeds: {}",
        setting.place_name(setting.place()),
        group.label
    );
    let head = [
        "model",
        "max violation",
        "normalized entropy",
        "dead experts a layer",
        "distinct sources a token",
        "twin co-selection",
    ];
    let mut table = Table::new(caption, 1, head);
    for model in in_order(rows.iter().map(|row| row.model())) {
        let mean = |quantity: fn(&RoutingRow) -> f64| {
            let own = rows.iter().filter(|row| row.model() == model);
            summarize(own.map(|row| quantity(row))).mean
        };
        table.row([
            swatched(&model.label(group.setting), palette.look(model)),
            text(fixed(mean(|r| r.max_violation), 2)),
            text(fixed(mean(|r| r.normalized_entropy), 3)),
            text(fixed(mean(|r| r.dead_experts as f64), 2)),
            text(fixed(mean(|r| r.distinct_sources), 2)),
            text(percent(mean(|r| r.twin_coselection))),
        ]);
    }
    Some(table)
}
