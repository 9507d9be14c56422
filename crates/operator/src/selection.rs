//! How many copies every expert gets.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::OperatorError;

/// Distributes copies over the experts of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Selection {
    /// Every expert equally often; a remainder goes to experts drawn by seed.
    Uniform {},
    /// Extra copies go to the experts with the largest squared gradient norm, best first, at most `cap` extra copies
    /// each (the paper, section 3: cap 3).
    GradientSquared {
        /// Extra copies an expert may get.
        cap: usize,
    },
}

impl Selection {
    /// Whether it needs a score for every expert.
    pub fn needs_scores(&self) -> bool {
        matches!(self, Self::GradientSquared { .. })
    }

    /// Number of experts that each of `experts` becomes; sums to `target`, at least 1 each.
    ///
    /// `scores` are used where [`needs_scores`](Self::needs_scores), one for each expert.
    ///
    /// # Errors
    /// If the target is not above `experts` or cannot be reached.
    pub fn counts(
        &self,
        experts: usize,
        target: usize,
        scores: &[f64],
        seed: u64,
    ) -> Result<Vec<usize>, OperatorError> {
        if target <= experts {
            return Err(OperatorError::TargetNotAbove { target, experts });
        }
        match *self {
            Self::Uniform {} => Ok(uniform(experts, target, seed)),
            Self::GradientSquared { cap } => greedy(experts, target, cap, scores),
        }
    }
}

fn uniform(experts: usize, target: usize, seed: u64) -> Vec<usize> {
    let mut counts = vec![target / experts; experts];
    let mut order: Vec<usize> = (0..experts).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for &expert in order.iter().take(target % experts) {
        counts[expert] += 1;
    }
    counts
}

fn greedy(
    experts: usize,
    target: usize,
    cap: usize,
    scores: &[f64],
) -> Result<Vec<usize>, OperatorError> {
    let most = experts * (1 + cap);
    if target > most {
        return Err(OperatorError::CapTooSmall {
            cap,
            experts,
            most,
            target,
        });
    }
    if scores.len() != experts {
        return Err(OperatorError::EvidenceMismatch {
            what: "utility scores of a layer",
            found: scores.len(),
            expected: experts,
        });
    }
    let mut order: Vec<usize> = (0..experts).collect();
    // A stable sort: among equal scores the lower index comes first.
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut counts = vec![1; experts];
    let mut left = target - experts;
    for expert in order {
        let extra = left.min(cap);
        counts[expert] += extra;
        left -= extra;
    }
    Ok(counts)
}
