//! Normal noise, and its unit.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// A sample of `N(0, 1)`.
pub(crate) fn normal(rng: &mut impl Rng) -> f32 {
    StandardNormal.sample(rng)
}

/// Root mean square; 0 for nothing.
pub fn rms(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    (squares / values.len().max(1) as f64).sqrt() as f32
}
