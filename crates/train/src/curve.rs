//! `curve.csv`: a metrics file as a table, a row a step.

use std::path::Path;

use crate::{
    error::TrainError,
    metrics::{LayerRouting, MetricsLine},
};

/// The name of a column, and what a line has for it.
type Column = (&'static str, fn(&MetricsLine) -> Option<f64>);

const COLUMNS: [Column; 10] = [
    ("loss", |line| match line {
        MetricsLine::Step { loss, .. } => Some(*loss),
        MetricsLine::Evaluation { .. } => None,
    }),
    ("validation_loss", |line| match line {
        MetricsLine::Step { .. } => None,
        MetricsLine::Evaluation { loss, .. } => Some(*loss),
    }),
    ("learning_rate", |line| match line {
        MetricsLine::Step { lr, .. } => Some(*lr),
        MetricsLine::Evaluation { .. } => None,
    }),
    ("gradient_norm", |line| match line {
        MetricsLine::Step { gradient_norm, .. } => Some(*gradient_norm),
        MetricsLine::Evaluation { .. } => None,
    }),
    ("tokens_per_second", |line| match line {
        MetricsLine::Step {
            tokens_per_second, ..
        } => *tokens_per_second,
        MetricsLine::Evaluation { .. } => None,
    }),
    ("max_violation", |line| {
        mean(line, |layer| layer.max_violation)
    }),
    ("dead_experts", |line| {
        let layers = routing(line)?;
        Some(layers.iter().map(|layer| layer.dead_experts as f64).sum())
    }),
    ("entropy", |line| mean(line, |layer| layer.entropy)),
    ("twin_cosine", |line| match line {
        MetricsLine::Evaluation { twins, .. } => twins.map(|twins| twins.cosine),
        MetricsLine::Step { .. } => None,
    }),
    ("twin_coselection", |line| match line {
        MetricsLine::Evaluation { twins, .. } => twins.map(|twins| twins.coselection),
        MetricsLine::Step { .. } => None,
    }),
];

/// Writes the lines of a metrics file as comma-separated values. Of MoE layers it has means, of dead experts the sum; what a
/// step has not is empty.
///
/// # Errors
/// If the file cannot be written.
pub fn write_curve(path: &Path, lines: &[MetricsLine]) -> Result<(), TrainError> {
    Ok(upcycle_files::write(path, csv(lines).as_bytes())?)
}

fn csv(lines: &[MetricsLine]) -> String {
    let names = COLUMNS.map(|(name, _)| name);
    let header: Vec<&str> = ["step", "tokens"].into_iter().chain(names).collect();
    let mut text = header.join(",") + "\n";
    // A step and its evaluation stand one after the other.
    for lines in lines.chunk_by(|line, next| line.step() == next.step()) {
        let place = [lines[0].step(), lines[0].tokens()].map(|number| number.to_string());
        let cells = COLUMNS.map(|(_, value)| {
            let value = lines.iter().find_map(value);
            value.map_or(String::new(), |value| value.to_string())
        });
        let row: Vec<String> = place.into_iter().chain(cells).collect();
        text += &(row.join(",") + "\n");
    }
    text
}

/// The MoE layers of an evaluation; none of other lines, and of models without.
fn routing(line: &MetricsLine) -> Option<&[LayerRouting]> {
    match line {
        MetricsLine::Evaluation { routing, .. } if !routing.is_empty() => Some(routing.as_slice()),
        _ => None,
    }
}

fn mean(line: &MetricsLine, measure: fn(&LayerRouting) -> f64) -> Option<f64> {
    let layers = routing(line)?;
    let sum: f64 = layers.iter().map(measure).sum();
    Some(sum / layers.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Twins;

    #[test]
    fn a_row_is_a_step_with_its_evaluation() {
        let step = |step| MetricsLine::Step {
            step,
            tokens: 512 * step,
            loss: 2.5,
            gradient_norm: 0.1,
            lr: 1e-3,
            seconds: 0.25,
            tokens_per_second: (step > 1).then_some(2048.0),
            time: None,
        };
        let layer = |max_violation, dead_experts| LayerRouting {
            max_violation,
            dead_experts,
            entropy: 0.75,
            twin_coselection: 0.25,
        };
        let evaluation = MetricsLine::Evaluation {
            step: 2,
            tokens: 1024,
            loss: 2.25,
            twins: Some(Twins {
                cosine: 0.9,
                coselection: 0.25,
            }),
            lr: None,
            gradient_norm: None,
            tokens_per_second: None,
            routing: vec![layer(0.5, 1), layer(1.0, 2)],
            time: None,
        };
        assert_eq!(
            csv(&[step(1), step(2), evaluation]),
            "step,tokens,loss,validation_loss,learning_rate,gradient_norm,tokens_per_second,\
             max_violation,dead_experts,entropy,twin_cosine,twin_coselection\n\
             1,512,2.5,,0.001,0.1,,,,,,\n\
             2,1024,2.5,2.25,0.001,0.1,2048,0.75,3,0.75,0.9,0.25\n"
        );
    }
}
