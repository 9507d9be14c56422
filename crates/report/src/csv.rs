//! The cells as comma-separated values.

use std::borrow::Cow;

use crate::results::{Cell, Results};

const COLUMNS: [&str; 30] = [
    "scale",
    "backend",
    "data",
    "protocol",
    "experts",
    "multiplier",
    "target_experts",
    "top_k",
    "cpt_fraction",
    "transition",
    "recipe",
    "seed",
    "pretrain_tokens",
    "cpt_tokens",
    "loss_fixed_e",
    "loss_upcycled",
    "loss_fixed_me",
    "loss_before",
    "loss_after",
    "logit_difference",
    "largest_logit_difference",
    "changed_sources",
    "twin_coselection",
    "gap_closure",
    "train_flops_fixed_e",
    "train_flops",
    "train_flops_fixed_me",
    "wall_seconds_fixed_e",
    "wall_seconds",
    "wall_seconds_fixed_me",
];

/// The cells as CSV with a header line, in the order of `results.cells`. Losses are in nats a token, `gap_closure` and
/// `transition` are fractions, and empty where there is none. Fields are quoted as RFC 4180 says; lines end with `\n`; numbers have the
/// digits that give the same number back.
pub fn csv(results: &Results) -> String {
    let mut csv = COLUMNS.join(",") + "\n";
    for cell in &results.cells {
        let fields = fields(cell);
        let fields: Vec<_> = fields.iter().map(|field| quoted(field)).collect();
        csv += &fields.join(",");
        csv.push('\n');
    }
    csv
}

/// The values of a row, in the order of the columns.
fn fields(cell: &Cell) -> [String; COLUMNS.len()] {
    let setting = &cell.setting;
    [
        setting.scale.clone(),
        cell.backend.clone(),
        setting.data.clone(),
        setting.protocol.clone(),
        setting.experts.to_string(),
        setting.multiplier.to_string(),
        setting.target_experts.to_string(),
        setting.top_k.to_string(),
        setting.cpt_fraction.to_string(),
        setting
            .transition
            .map_or(String::new(), |tau| tau.to_string()),
        cell.recipe.clone(),
        cell.seed.to_string(),
        cell.pretrain_tokens.to_string(),
        cell.cpt_tokens.to_string(),
        cell.loss_fixed_e.to_string(),
        cell.loss_upcycled.to_string(),
        cell.loss_fixed_me.to_string(),
        cell.loss_before.to_string(),
        cell.loss_after.to_string(),
        cell.logit_difference.to_string(),
        cell.largest_logit_difference.to_string(),
        cell.changed_sources.to_string(),
        cell.twin_coselection.to_string(),
        cell.gap_closure
            .map_or(String::new(), |eta| eta.to_string()),
        cell.train_flops_fixed_e.to_string(),
        cell.train_flops.to_string(),
        cell.train_flops_fixed_me.to_string(),
        cell.wall_seconds_fixed_e.to_string(),
        cell.wall_seconds.to_string(),
        cell.wall_seconds_fixed_me.to_string(),
    ]
}

fn quoted(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn numbers_survive() {
        let results = sample::results();
        let csv = csv(&results);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 17);
        for (line, cell) in lines[1..].iter().zip(&results.cells) {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), COLUMNS.len());
            assert_eq!(fields[15].parse::<f64>().unwrap(), cell.loss_upcycled);
            assert_eq!(fields[25].parse::<f64>().unwrap(), cell.train_flops);
        }
    }

    #[test]
    fn header_is_a_promise() {
        let header = "scale,backend,data,protocol,experts,multiplier,target_experts,top_k,cpt_fraction,transition,recipe,seed,\
                      pretrain_tokens,cpt_tokens,loss_fixed_e,loss_upcycled,loss_fixed_me,loss_before,loss_after,\
                      logit_difference,largest_logit_difference,changed_sources,twin_coselection,\
                      gap_closure,train_flops_fixed_e,train_flops,train_flops_fixed_me,\
                      wall_seconds_fixed_e,wall_seconds,wall_seconds_fixed_me\n";
        assert_eq!(csv(&sample::empty()), header);
    }

    #[test]
    fn odd_fields_are_quoted_and_missing_ones_empty() {
        let results = sample::odd();
        let csv = csv(&results);
        assert!(csv.contains("\"<b>\"\"paper\"\", 'quoted'"));
        let first: Vec<&str> = csv.lines().nth(1).unwrap().rsplit(',').collect();
        assert_eq!(first[6], "");
    }
}
