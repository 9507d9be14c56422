//! Means, ratios and their standard errors.

/// A number and how far it may be off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    /// None for a single item.
    pub(crate) standard_error: Option<f64>,
}

impl Estimate {
    /// Mean of some values; the standard error is their sample standard deviation over the root of
    /// their number.
    pub(crate) fn mean(values: &[f64]) -> Estimate {
        let ones = vec![1.0; values.len()];
        Estimate::ratio(values, &ones)
    }

    /// Sum of values over sum of weights; the standard error is that of the linearised ratio,
    /// which for weights of one is the mean's.
    pub(crate) fn ratio(values: &[f64], weights: &[f64]) -> Estimate {
        let weight: f64 = weights.iter().sum();
        let value = values.iter().sum::<f64>() / weight;
        let count = values.len() as f64;
        let residues = values
            .iter()
            .zip(weights)
            .map(|(v, w)| (v - value * w).powi(2));
        let squares: f64 = residues.sum();
        let error = (count / (count - 1.0) * squares).sqrt() / weight;
        Estimate {
            value,
            standard_error: (values.len() > 1).then_some(error),
        }
    }

    /// The same times a factor.
    pub(crate) fn times(self, factor: f64) -> Estimate {
        Estimate {
            value: factor * self.value,
            standard_error: self.standard_error.map(|error| factor.abs() * error),
        }
    }

    /// The exponential; its standard error is to first order.
    pub(crate) fn exp(self) -> Estimate {
        let value = self.value.exp();
        Estimate {
            value,
            standard_error: self.standard_error.map(|error| value * error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_errors_are_those_of_means() {
        // Deviations -1.5, -0.5, 0.5, 1.5: variance 5 / 3.
        let mean = Estimate::mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean.value, 2.5);
        let error = mean.standard_error.unwrap_or_default();
        assert!((error - (5.0_f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        // Of shares: sqrt(p (1 - p) / (n - 1)).
        let share = Estimate::mean(&[1.0, 0.0, 0.0, 0.0]);
        let error = share.standard_error.unwrap_or_default();
        assert!((error - (0.25_f64 * 0.75 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::mean(&[3.0]).standard_error, None);
    }

    #[test]
    fn ratios_are_of_sums() {
        let ratio = Estimate::ratio(&[1.0, 5.0], &[1.0, 2.0]);
        assert_eq!(ratio.value, 2.0);
        // Residues -1 and 1, twice their squares, over 3.
        let error = ratio.standard_error.unwrap_or_default();
        assert!((error - 2.0 / 3.0).abs() < 1e-12);
        let twice = ratio.times(-2.0);
        assert_eq!(twice.value, -4.0);
        assert!((twice.standard_error.unwrap_or_default() - 4.0 / 3.0).abs() < 1e-12);
        let power = ratio.exp();
        assert!((power.value - 2_f64.exp()).abs() < 1e-12);
    }
}
