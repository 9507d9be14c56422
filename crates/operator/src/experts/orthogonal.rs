//! Random vectors orthogonal to a given one.

use rand::Rng;

use super::noise::normal;

/// Writes a random vector orthogonal to `source` and of its norm; false for a source of one value or of norm zero, which has
/// none and is written itself.
pub(crate) fn orthogonal(to: &mut [f32], source: &[f32], rng: &mut impl Rng) -> bool {
    let random: Vec<f64> = source.iter().map(|_| f64::from(normal(rng))).collect();
    let squared: f64 = source.iter().map(|&w| f64::from(w).powi(2)).sum();
    let along: f64 = source
        .iter()
        .zip(&random)
        .map(|(&w, r)| f64::from(w) * r)
        .sum::<f64>()
        / squared;
    let rest: Vec<f64> = random
        .iter()
        .zip(source)
        .map(|(r, &w)| r - along * f64::from(w))
        .collect();
    let scale = (squared / rest.iter().map(|r| r * r).sum::<f64>()).sqrt();
    if source.len() < 2 || !scale.is_finite() || squared == 0.0 {
        to.copy_from_slice(source);
        return false;
    }
    for (to, rest) in to.iter_mut().zip(rest) {
        *to = (rest * scale) as f32;
    }
    true
}
