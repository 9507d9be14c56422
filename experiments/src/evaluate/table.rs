//! Results as a table for the terminal.

use upcycle_report::{in_columns, number};

use super::Column;

const DECIMALS: usize = 4;

/// A row for each number of each task, a column for each checkpoint: value and standard error.
pub(super) fn table(columns: &[Column]) -> String {
    let Some(first) = columns.first() else {
        return String::new();
    };
    let mut rows = vec![
        ["task", "items", "metric", "chance"]
            .map(String::from)
            .to_vec(),
    ];
    rows[0].extend(columns.iter().map(|column| column.checkpoint.clone()));
    for (place, task) in first.tasks.iter().enumerate() {
        for (index, metric) in task.metrics.iter().enumerate() {
            let chance = metric.chance.unwrap_or(f64::NAN);
            let mut row = vec![
                task.task.clone(),
                task.items.to_string(),
                metric.name.name().to_owned(),
                number::fixed(chance, DECIMALS),
            ];
            if index > 0 {
                row[..2].fill(String::new());
            }
            let metrics = columns
                .iter()
                .map(|column| &column.tasks[place].metrics[index]);
            row.extend(metrics.map(|metric| {
                let value = number::fixed(metric.value, DECIMALS);
                match metric.standard_error {
                    Some(error) => format!("{value} ± {}", number::fixed(error, DECIMALS)),
                    None => value,
                }
            }));
            rows.push(row);
        }
    }
    in_columns(&rows, &[0, 2])
}

#[cfg(test)]
mod tests {
    use upcycle_tasks::{Metric, MetricKind, Outcome};

    use super::*;

    #[test]
    fn checkpoints_stand_side_by_side() {
        let column = |checkpoint: &str, value| Column {
            checkpoint: checkpoint.into(),
            tasks: vec![Outcome {
                task: "knowledge".into(),
                items: 100,
                metrics: vec![
                    Metric {
                        name: MetricKind::Acc,
                        value,
                        standard_error: Some(0.05),
                        chance: Some(0.25),
                    },
                    Metric {
                        name: MetricKind::AnswerBitsPerByte,
                        value: 2.0,
                        standard_error: None,
                        chance: None,
                    },
                ],
            }],
        };
        let table = table(&[column("runs/a", 0.5), column("runs/b", 0.75)]);
        let expected = "\
task       items  metric                chance           runs/a           runs/b
knowledge    100  acc                   0.2500  0.5000 ± 0.0500  0.7500 ± 0.0500
                  answer_bits_per_byte       –           2.0000           2.0000";
        assert_eq!(table, expected);
    }
}
