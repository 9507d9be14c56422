//! What more experts cost at the same top-K.

use anyhow::Result;
use serde::Serialize;

use super::{BenchArgs, median, model::Model, steps::seconds};

/// Pairs of expert counts to compare, fewer first.
const PAIRS: [[usize; 2]; 2] = [[32, 64], [16, 256]];
/// Forward passes of a step.
const ACCUMULATIONS: [usize; 2] = [1, 8];

/// Model S with more experts over model S with fewer.
#[derive(Debug, Serialize)]
pub struct Table {
    rows: Vec<Row>,
}

/// One pair, at one number of forward passes a step.
#[derive(Debug, Serialize)]
struct Row {
    experts: [usize; 2],
    accumulation: usize,
    /// Time of forward and backward passes, more experts over fewer, round by round.
    gradient_ratios: Vec<f64>,
    /// Time of the whole step, round by round.
    step_ratios: Vec<f64>,
}

/// Measures all pairs, fewer and more experts in turn.
pub fn measure(args: &BenchArgs) -> Result<Table> {
    let mut rows = Vec::new();
    for experts in PAIRS {
        for accumulation in ACCUMULATIONS {
            let mut row = Row {
                experts,
                accumulation,
                gradient_ratios: Vec::new(),
                step_ratios: Vec::new(),
            };
            for _ in 0..args.rounds {
                let [fewer, more] = experts.map(|experts| {
                    let mut job = args.job(&Model::s());
                    job.workload.model.experts = experts;
                    job.workload.batch.accumulation = accumulation;
                    job.workload.steps = job.workload.steps.div_ceil(accumulation);
                    job.elsewhere().map(|(measured, _)| seconds(&measured))
                });
                let ((gradient, update), (more_gradient, more_update)) = (fewer?, more?);
                row.gradient_ratios.push(more_gradient / gradient);
                row.step_ratios
                    .push((more_gradient + more_update) / (gradient + update));
            }
            rows.push(row);
        }
    }
    Ok(Table { rows })
}

impl Table {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines =
            vec!["S  time with more experts over time with fewer, same top-K".to_owned()];
        for row in &self.rows {
            let [fewer, more] = row.experts;
            lines.push(format!(
                "   {more} over {fewer}, {} passes a step: forward and backward {:.2}, step {:.2}",
                row.accumulation,
                median(row.gradient_ratios.iter().copied()),
                median(row.step_ratios.iter().copied())
            ));
        }
        lines
    }
}
