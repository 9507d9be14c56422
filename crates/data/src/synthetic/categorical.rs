//! Draws from a finite distribution.

/// A distribution over `0..outcomes`, sampled from 32 random bits.
pub(crate) struct Categorical {
    /// Cumulated probabilities of all outcomes but the last, in units of 2^-32.
    thresholds: Vec<u64>,
}

impl Categorical {
    /// Outcomes in proportion to `weights`, of which there must be at least one positive.
    pub(crate) fn new(weights: impl Iterator<Item = f64>) -> Categorical {
        let mut sum = 0.0;
        let cumulated: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        let last = cumulated.len().saturating_sub(1);
        let thresholds = cumulated[..last]
            .iter()
            .map(|part| (part / sum * 2_f64.powi(32)).round() as u64)
            .collect();
        Categorical { thresholds }
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.thresholds.len() + 1
    }

    pub(crate) fn sample(&self, bits: u32) -> usize {
        let bits = u64::from(bits);
        self.thresholds
            .partition_point(|&threshold| threshold <= bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_shared_out_in_proportion() {
        let distribution = Categorical::new([1.0, 2.0, 1.0].into_iter());
        assert_eq!(distribution.outcomes(), 3);
        for (bits, outcome) in [
            (0, 0),
            ((1 << 30) - 1, 0),
            (1 << 30, 1),
            ((3 << 30) - 1, 1),
            (3 << 30, 2),
            (u32::MAX, 2),
        ] {
            assert_eq!(distribution.sample(bits), outcome);
        }
    }

    #[test]
    fn vanishing_outcomes_are_never_drawn() {
        let distribution = Categorical::new([1.0, 0.0].into_iter());
        assert_eq!(distribution.sample(u32::MAX), 0);
        assert_eq!(Categorical::new([3.0].into_iter()).sample(u32::MAX), 0);
    }
}
