//! The cells as comma-separated values.

use crate::group::{Group, groups};
use crate::results::{Cell, Results};

/// The name of a column, and what stands there for a cell whose gap is resolved or not.
type Column = (&'static str, fn(&Cell, bool) -> String);

const COLUMNS: [Column; 38] = [
    ("scale", |c, _| c.setting.scale.clone()),
    ("backend", |c, _| c.backend.clone()),
    ("data", |c, _| c.setting.data.clone()),
    ("protocol", |c, _| c.setting.protocol.clone()),
    ("experts", |c, _| c.setting.experts.to_string()),
    ("multiplier", |c, _| c.setting.multiplier.to_string()),
    ("target_experts", |c, _| {
        c.setting.target_experts.to_string()
    }),
    ("top_k", |c, _| c.setting.top_k.to_string()),
    ("cpt_fraction", |c, _| c.setting.cpt_fraction.to_string()),
    ("transition", |c, _| optional(c.setting.transition)),
    ("recipe", |c, _| c.recipe.clone()),
    ("seed", |c, _| c.seed.to_string()),
    ("pretrain_tokens", |c, _| c.pretrain_tokens.to_string()),
    ("cpt_tokens", |c, _| c.cpt_tokens.to_string()),
    ("loss_fixed_e", |c, _| c.loss_fixed_e.to_string()),
    ("loss_upcycled", |c, _| c.loss_upcycled.to_string()),
    ("loss_fixed_me", |c, _| c.loss_fixed_me.to_string()),
    ("loss_before", |c, _| c.loss_before.to_string()),
    ("loss_after", |c, _| c.loss_after.to_string()),
    ("logit_difference", |c, _| c.logit_difference.to_string()),
    ("largest_logit_difference", |c, _| {
        c.largest_logit_difference.to_string()
    }),
    ("changed_sources", |c, _| c.changed_sources.to_string()),
    ("twin_coselection", |c, _| c.twin_coselection.to_string()),
    ("gap_closure", |c, _| optional(c.gap_closure)),
    ("train_flops_fixed_e", |c, _| {
        c.train_flops_fixed_e.to_string()
    }),
    ("train_flops", |c, _| c.train_flops.to_string()),
    ("train_flops_fixed_me", |c, _| {
        c.train_flops_fixed_me.to_string()
    }),
    ("wall_seconds_fixed_e", |c, _| {
        c.wall_seconds_fixed_e.to_string()
    }),
    ("wall_seconds", |c, _| c.wall_seconds.to_string()),
    ("wall_seconds_fixed_me", |c, _| {
        c.wall_seconds_fixed_me.to_string()
    }),
    ("length", |c, _| optional(c.setting.length)),
    ("test_loss_fixed_e", |c, _| optional(c.test_loss_fixed_e)),
    ("test_loss_upcycled", |c, _| optional(c.test_loss_upcycled)),
    ("test_loss_fixed_me", |c, _| optional(c.test_loss_fixed_me)),
    ("cpt_lr", |c, _| optional(c.setting.cpt_lr)),
    ("grows", |c, _| optional(c.setting.grows)),
    ("gap_resolved", |_, resolved| resolved.to_string()),
    ("kernels", |c, _| optional(c.kernels.as_ref())),
];

/// Nothing where there is no value.
fn optional(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// The cells as CSV with a header line, in the order of `results.cells`. Losses are in nats a token, `gap_closure` and
/// `transition` are fractions, `length` is in tokens; what there is none of is empty. Where `gap_resolved` is `false`, the gap of
/// that place, over all its seeds, is not told from chance, and gap closure is noise. Fields are quoted as RFC 4180 says; lines
/// end with `\n`; numbers have the digits that give the same number back.
pub fn csv(results: &Results) -> String {
    let mut csv = COLUMNS.map(|(name, _)| name).join(",") + "\n";
    let groups = groups(results);
    for cell in &results.cells {
        let is_resolved = |group: &Group| group.gap(cell.setting.place()).is_resolved();
        let mut groups = groups.iter();
        let resolved = groups
            .find(|group| group.holds(cell))
            .is_some_and(is_resolved);
        let fields = COLUMNS.map(|(_, field)| quoted(field(cell, resolved)));
        csv += &fields.join(",");
        csv.push('\n');
    }
    csv
}

/// A cell, in quotes where it needs them.
pub(crate) fn quoted(field: String) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
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
                      wall_seconds_fixed_e,wall_seconds,wall_seconds_fixed_me,\
                      length,test_loss_fixed_e,test_loss_upcycled,test_loss_fixed_me,cpt_lr,grows,gap_resolved,kernels\n";
        assert_eq!(csv(&sample::empty()), header);
    }

    #[test]
    fn noise_is_called_so() {
        let mut results = sample::seeds(1);
        for cell in &mut results.cells {
            if cell.setting.cpt_fraction == 0.1 {
                cell.loss_fixed_me = cell.loss_fixed_e - 0.004;
            }
        }
        let csv = csv(&results);
        let last_but_one = |line: &str| line.rsplit(',').nth(1).map(str::to_owned);
        let resolved = csv.lines().skip(1).filter_map(last_but_one);
        let resolved: Vec<String> = resolved.collect();
        for (cell, resolved) in results.cells.iter().zip(resolved) {
            let expected = cell.setting.cpt_fraction != 0.1;
            assert_eq!(resolved, expected.to_string());
        }
    }

    #[test]
    fn odd_fields_are_quoted_and_missing_ones_empty() {
        let results = sample::odd();
        let csv = csv(&results);
        assert!(csv.contains("\"<b>\"\"paper\"\", 'quoted'"));
        let from_the_end = |column: &str| {
            let columns = COLUMNS.iter().rev();
            columns
                .map(|(name, _)| *name)
                .position(|name| name == column)
        };
        let first: Vec<&str> = csv.lines().nth(1).unwrap().rsplit(',').collect();
        for column in ["gap_closure", "length"] {
            assert_eq!(first[from_the_end(column).unwrap()], "");
        }
    }
}
