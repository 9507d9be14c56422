//! A claim on upcycling and what a sweep says of it.

use crate::number::fixed;
use crate::statistics::Summary;

/// What a sweep says of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Held,
    DidNotHold,
    /// The interval contains both, or there is one seed.
    Open,
}

impl Verdict {
    /// Of a claim that a quantity is above `bound`, with all of its 95 % interval.
    pub(super) fn above(summary: &Summary, bound: f64) -> Self {
        match summary.interval {
            Some((low, _)) if low > bound => Self::Held,
            Some((_, high)) if high < bound => Self::DidNotHold,
            _ => Self::Open,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::DidNotHold => "did not hold",
            Self::Open => "cannot be told",
        }
    }
}

/// A claim, what was measured, and the verdict.
pub(super) struct Claim {
    pub(super) text: &'static str,
    pub(super) here: String,
    pub(super) verdict: Verdict,
}

/// `mean (low to high)` in units.
pub(super) fn told(summary: &Summary, unit: f64, decimals: usize) -> String {
    let text = |value: f64| fixed(unit * value, decimals);
    let mean = text(summary.mean);
    match summary.interval {
        Some((low, high)) => format!("{mean} ({} to {})", text(low), text(high)),
        None => mean,
    }
}
