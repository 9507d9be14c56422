//! The cells as comma-separated values.

use crate::results::{Cell, Results};

/// The name of a column and what stands there.
type Column = (&'static str, fn(&Cell) -> String);

const COLUMNS: [Column; 36] = [
    ("scale", |c| c.setting.scale.clone()),
    ("backend", |c| c.backend.clone()),
    ("data", |c| c.setting.data.clone()),
    ("protocol", |c| c.setting.protocol.clone()),
    ("experts", |c| c.setting.experts.to_string()),
    ("multiplier", |c| c.setting.multiplier.to_string()),
    ("target_experts", |c| c.setting.target_experts.to_string()),
    ("top_k", |c| c.setting.top_k.to_string()),
    ("cpt_fraction", |c| c.setting.cpt_fraction.to_string()),
    ("transition", |c| optional(c.setting.transition)),
    ("recipe", |c| c.recipe.clone()),
    ("seed", |c| c.seed.to_string()),
    ("pretrain_tokens", |c| c.pretrain_tokens.to_string()),
    ("cpt_tokens", |c| c.cpt_tokens.to_string()),
    ("loss_fixed_e", |c| c.loss_fixed_e.to_string()),
    ("loss_upcycled", |c| c.loss_upcycled.to_string()),
    ("loss_fixed_me", |c| c.loss_fixed_me.to_string()),
    ("loss_before", |c| c.loss_before.to_string()),
    ("loss_after", |c| c.loss_after.to_string()),
    ("logit_difference", |c| c.logit_difference.to_string()),
    ("largest_logit_difference", |c| {
        c.largest_logit_difference.to_string()
    }),
    ("changed_sources", |c| c.changed_sources.to_string()),
    ("twin_coselection", |c| c.twin_coselection.to_string()),
    ("gap_closure", |c| optional(c.gap_closure)),
    ("train_flops_fixed_e", |c| c.train_flops_fixed_e.to_string()),
    ("train_flops", |c| c.train_flops.to_string()),
    ("train_flops_fixed_me", |c| {
        c.train_flops_fixed_me.to_string()
    }),
    ("wall_seconds_fixed_e", |c| {
        c.wall_seconds_fixed_e.to_string()
    }),
    ("wall_seconds", |c| c.wall_seconds.to_string()),
    ("wall_seconds_fixed_me", |c| {
        c.wall_seconds_fixed_me.to_string()
    }),
    ("length", |c| optional(c.setting.length)),
    ("test_loss_fixed_e", |c| optional(c.test_loss_fixed_e)),
    ("test_loss_upcycled", |c| optional(c.test_loss_upcycled)),
    ("test_loss_fixed_me", |c| optional(c.test_loss_fixed_me)),
    ("cpt_lr", |c| optional(c.setting.cpt_lr)),
    ("grows", |c| optional(c.setting.grows)),
];

/// Nothing where there is no value.
fn optional(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// The cells as CSV with a header line, in the order of `results.cells`. Losses are in nats a token, `gap_closure` and
/// `transition` are fractions, `length` is in tokens; what there is none of is empty. Fields are quoted as RFC 4180 says; lines end with `\n`; numbers have the
/// digits that give the same number back.
pub fn csv(results: &Results) -> String {
    let mut csv = COLUMNS.map(|(name, _)| name).join(",") + "\n";
    for cell in &results.cells {
        let fields = COLUMNS.map(|(_, field)| quoted(field(cell)));
        csv += &fields.join(",");
        csv.push('\n');
    }
    csv
}

fn quoted(field: String) -> String {
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
                      length,test_loss_fixed_e,test_loss_upcycled,test_loss_fixed_me,cpt_lr,grows\n";
        assert_eq!(csv(&sample::empty()), header);
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
