//! The gap between Fixed-E and Fixed-mE, which gap closure divides by.

use crate::statistics::{SMALLEST_GAP, Summary, Test};

/// How far Fixed-mE is ahead of Fixed-E at one place.
pub(crate) struct Gap {
    pub(crate) fixed_e: Summary,
    pub(crate) fixed_me: Summary,
    /// Lead of Fixed-mE, paired by seed.
    pub(crate) lead: Summary,
}

/// A gap is told from none at this level (two-sided).
const LEVEL: f64 = 0.05;
/// A gap of one seed that is no larger than this, in nats a token, is not worth dividing by.
const CLEAR_OF_ONE_SEED: f64 = 0.01;

impl Gap {
    /// Lead of Fixed-mE in nats a token; NaN if either has no loss.
    pub(crate) fn size(&self) -> f64 {
        self.lead.mean
    }

    /// Standard deviation over seeds, pooled over the two models; NaN for one seed.
    pub(crate) fn spread(&self) -> f64 {
        self.fixed_e.sd.hypot(self.fixed_me.sd) / 2_f64.sqrt()
    }

    /// Whether the gap is larger than chance makes it, so that gap closure means something.
    pub(crate) fn is_resolved(&self) -> bool {
        let clear = match self.lead.n {
            1 => self.size() > CLEAR_OF_ONE_SEED,
            _ => Test::of(&self.lead, 0.0).two_sided() < LEVEL,
        };
        self.size() >= SMALLEST_GAP && clear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::summarize;

    #[test]
    fn a_gap_is_resolved_where_its_paired_interval_is_above_zero() {
        let gap = |small: &[f64], big: &[f64]| Gap {
            fixed_e: summarize(small),
            fixed_me: summarize(big),
            lead: summarize(small.iter().zip(big).map(|(small, big)| small - big)),
        };
        let resolved = gap(&[1.70, 1.71], &[1.60, 1.61]);
        assert!(resolved.is_resolved());
        assert!((resolved.spread() - 0.005 * 2_f64.sqrt()).abs() < 1e-12);
        // Seeds may differ by more than the gap, as long as the gap is there in each.
        assert!(gap(&[1.70, 1.75, 1.80], &[1.68, 1.731, 1.779]).is_resolved());
        assert!(!gap(&[1.70, 1.71], &[1.69, 1.67]).is_resolved());
        assert!(!gap(&[1.700, 1.700], &[1.6995, 1.6995]).is_resolved());
        assert!(gap(&[1.70], &[1.68]).is_resolved());
        assert!(!gap(&[1.70], &[1.695]).is_resolved());
        assert!(!gap(&[], &[1.6]).is_resolved());
    }
}
