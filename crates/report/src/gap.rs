//! The gap between Fixed-E and Fixed-mE, which gap closure divides by.

use crate::statistics::{SMALLEST_GAP, Summary};

/// How far Fixed-mE is ahead of Fixed-E at one place.
pub(crate) struct Gap {
    pub(crate) fixed_e: Summary,
    pub(crate) fixed_me: Summary,
}

/// A gap of no more seed spreads than this is not worth dividing by.
const CLEAR: f64 = 2.0;
/// The same in nats a token where one seed tells no spread.
const CLEAR_OF_ONE_SEED: f64 = 0.01;

impl Gap {
    /// Lead of Fixed-mE in nats a token; NaN if either has no loss.
    pub(crate) fn size(&self) -> f64 {
        self.fixed_e.mean - self.fixed_me.mean
    }

    /// Standard deviation over seeds, pooled over the two models; NaN for one seed.
    pub(crate) fn spread(&self) -> f64 {
        self.fixed_e.sd.hypot(self.fixed_me.sd) / 2_f64.sqrt()
    }

    /// Whether the gap is larger than chance makes it, so that gap closure means something.
    pub(crate) fn is_resolved(&self) -> bool {
        let spread = self.spread();
        let clear = if spread.is_nan() {
            CLEAR_OF_ONE_SEED
        } else {
            CLEAR * spread
        };
        self.size() >= SMALLEST_GAP && self.size() > clear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::summarize;

    #[test]
    fn a_gap_is_resolved_beyond_the_seed_spread() {
        let gap = |small: &[f64], big: &[f64]| Gap {
            fixed_e: summarize(small),
            fixed_me: summarize(big),
        };
        let resolved = gap(&[1.70, 1.71], &[1.60, 1.61]);
        assert!(resolved.is_resolved());
        assert!((resolved.spread() - 0.005 * 2_f64.sqrt()).abs() < 1e-12);
        assert!(!gap(&[1.70, 1.71], &[1.69, 1.70]).is_resolved());
        assert!(!gap(&[1.700, 1.700], &[1.6995, 1.6995]).is_resolved());
        assert!(gap(&[1.70], &[1.68]).is_resolved());
        assert!(!gap(&[1.70], &[1.695]).is_resolved());
        assert!(!gap(&[], &[1.6]).is_resolved());
    }
}
