//! What a dataset hands out.

use std::ops::Range;

use crate::DataError;

/// Rows of consecutive tokens with what should follow each of them.
///
/// All three vectors are row-major. With one choice a position's target is the token that follows
/// it; with several, `targets` and `weights` are the distribution of the token that follows, so
/// that a loss can be computed against exact probabilities instead of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Positions a row.
    pub context: usize,
    /// Token ids, `[rows * context]`.
    pub inputs: Vec<u32>,
    /// Token ids, `[rows * context * choices]`; valid ids even where a position is not scored.
    pub targets: Vec<u32>,
    /// The probability of each target, `[rows * context * choices]`; all zero where a position is
    /// not scored.
    pub weights: Vec<f32>,
    /// Targets a position: 1 for the token that follows, more for its exact distribution.
    pub choices: usize,
}

impl Batch {
    /// Some of the rows, as a batch of its own.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn part(&self, rows: Range<usize>) -> Batch {
        let positions = rows.start * self.context..rows.end * self.context;
        let targets = positions.start * self.choices..positions.end * self.choices;
        Batch {
            rows: rows.len(),
            context: self.context,
            inputs: self.inputs[positions].to_vec(),
            targets: self.targets[targets.clone()].to_vec(),
            weights: self.weights[targets].to_vec(),
            choices: self.choices,
        }
    }

    /// A batch of zeros, which scores nothing.
    pub(crate) fn zeros(rows: usize, context: usize, choices: usize) -> Result<Batch, DataError> {
        // A row's tokens need room even where there is no row.
        rows.max(1)
            .checked_mul(context)
            .and_then(|positions| positions.checked_mul(choices))
            .filter(|&targets| targets < isize::MAX as usize / size_of::<u32>())
            .ok_or(DataError::BatchTooLarge { rows, context })?;
        let positions = rows * context;
        let targets = positions * choices;
        Ok(Batch {
            rows,
            context,
            inputs: vec![0; positions],
            targets: vec![0; targets],
            weights: vec![0.0; targets],
            choices,
        })
    }

    /// How many positions are scored: those with a target of positive weight.
    pub fn scored(&self) -> f64 {
        self.weights
            .chunks(self.choices.max(1))
            .filter(|weights| weights.iter().any(|&weight| weight > 0.0))
            .count() as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_position_is_scored_once_whatever_its_choices() {
        let mut batch = Batch::zeros(2, 2, 2).unwrap();
        assert_eq!(batch.scored(), 0.0);
        batch.weights[2] = 0.5;
        batch.weights[3] = 0.5;
        batch.weights[7] = 1.0;
        assert_eq!(batch.scored(), 2.0);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let error = Batch::zeros(usize::MAX, 2, 1).unwrap_err();
        assert!(error.to_string().contains("context 2"), "{error}");
        assert!(Batch::zeros(1 << 40, 1 << 22, 1).is_err());
        assert!(Batch::zeros(0, usize::MAX, 1).is_err());
    }
}
