//! What a router's rows say.

use serde::Serialize;
use upcycle_operator::RouterRows;

/// Statistics of the router of a MoE layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RouterStats {
    /// Mean norm of a row.
    pub mean_norm: f64,
    /// Smallest norm of a row.
    pub least_norm: f64,
    /// Largest norm of a row.
    pub largest_norm: f64,
    /// Largest cosine between two rows; 1 for twins.
    pub largest_cosine: f64,
    /// Smallest and largest bias; none if all are 0.
    pub bias: Option<[f32; 2]>,
}

impl RouterStats {
    /// Of the rows and biases of a layer.
    pub fn of(rows: &RouterRows) -> Self {
        let dot =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let each: Vec<&[f32]> = rows.weight.chunks_exact(rows.d.max(1)).collect();
        let norms: Vec<f64> = each.iter().map(|row| dot(row, row).sqrt()).collect();
        let mut largest_cosine: f64 = -1.0;
        for (i, a) in each.iter().enumerate() {
            for (j, b) in each.iter().enumerate().take(i) {
                largest_cosine = largest_cosine.max(dot(a, b) / (norms[i] * norms[j]).max(1e-30));
            }
        }
        let bias = rows.bias.iter().any(|&bias| bias != 0.0).then(|| {
            let least = rows.bias.iter().copied().fold(f32::INFINITY, f32::min);
            let most = rows.bias.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            [least, most]
        });
        Self {
            mean_norm: norms.iter().sum::<f64>() / norms.len().max(1) as f64,
            least_norm: norms.iter().copied().fold(f64::INFINITY, f64::min),
            largest_norm: norms.iter().copied().fold(0.0, f64::max),
            largest_cosine,
            bias,
        }
    }
}
