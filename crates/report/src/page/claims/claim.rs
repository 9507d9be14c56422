//! A claim on upcycling and what a sweep says of it.

use crate::statistics::{Test, holm};

/// A claim, what was measured, and how it was tested: it holds where the quantity is above its bound.
pub(super) struct Claim {
    pub(super) text: &'static str,
    pub(super) here: String,
    pub(super) test: Test,
}

/// Verdicts are wrong about any claim of a table in at most this share of tables.
const LEVEL: f64 = 0.05;

/// What the sweep says of each claim, with its p-value corrected for the number of claims (Holm).
pub(super) fn verdicts(claims: &[Claim]) -> Vec<(&'static str, f64)> {
    let p: Vec<f64> = claims.iter().map(|claim| claim.test.two_sided()).collect();
    let verdict = |claim: &Claim, p: f64| match claim.test.above < claim.test.below {
        _ if p >= LEVEL => "cannot be told",
        true => "held",
        false => "did not hold",
    };
    let corrected = holm(&p).into_iter();
    let told = claims.iter().zip(corrected);
    told.map(|(claim, p)| (verdict(claim, p), p)).collect()
}
