//! How many copies every expert gets.

use std::path::PathBuf;

use rand::{Rng, RngCore, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use upcycle_moe::ExpertSources;

use crate::{
    check::Fault,
    error::OperatorError,
    seed,
    utility::{Projections, Score, Utility},
};

/// Distributes copies over the experts of a layer; each keeps at least itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Selection {
    /// Every expert equally often; a remainder goes to experts drawn by seed.
    Uniform {},
    /// Extra copies go to the experts with the best scores, best first, at most `cap` extra copies each (the paper,
    /// section 3: cap 3).
    Greedy {
        /// What experts are scored by.
        score: Score,
        /// On which matrices.
        #[serde(default)]
        on: Projections,
        /// Extra copies an expert may get.
        #[serde(default = "three")]
        cap: usize,
    },
    /// Experts are as many as their share of the scores, by largest remainders.
    Proportional {
        /// What experts are scored by.
        score: Score,
        /// On which matrices.
        #[serde(default)]
        on: Projections,
    },
    /// Extra copies are drawn with probabilities `p_e ~ (s_e / sum s)^(1 / temperature)`.
    Sampled {
        /// What experts are scored by.
        score: Score,
        /// On which matrices.
        #[serde(default)]
        on: Projections,
        /// 1 draws in proportion to the scores; towards 0 the best expert wins, far above 1 all are alike.
        #[serde(default = "one")]
        temperature: f64,
    },
    /// Extra copies are drawn with equal probabilities.
    Random {},
    /// These counts.
    Explicit {
        /// Experts that every source becomes: one list for all layers, or one for each MoE layer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        counts: Vec<Vec<usize>>,
        /// A JSON file with `counts`, which is read with the recipe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
    },
}

fn three() -> usize {
    3
}

fn one() -> f64 {
    1.0
}

impl Selection {
    /// The scores that it needs.
    pub fn utility(&self) -> Option<Utility> {
        match *self {
            Self::Greedy { score, on, .. }
            | Self::Proportional { score, on }
            | Self::Sampled { score, on, .. } => Some(Utility { score, on }),
            Self::Uniform {} | Self::Random {} | Self::Explicit { .. } => None,
        }
    }

    /// Checks the values of all fields.
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        if let Some(utility) = self.utility()
            && !utility.score.of_matrices()
            && utility.on != Projections::Average
        {
            return Err((
                "selection.on",
                "is for scores of weights and gradients; leave it out",
            ));
        }
        match self {
            Self::Greedy { cap: 0, .. } => Err(("selection.cap", "must be at least 1")),
            Self::Sampled { temperature, .. }
                if !(temperature.is_finite() && *temperature > 0.0) =>
            {
                Err(("selection.temperature", "must be a positive number"))
            }
            Self::Explicit { counts, .. } if counts.is_empty() => Err((
                "selection.counts",
                "is missing: give a list of counts for each MoE layer, or `file`, a JSON file with it",
            )),
            _ => Ok(()),
        }
    }

    /// Explicit counts must be for all layers at once or for each.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<(), OperatorError> {
        match self {
            Self::Explicit { counts, .. } if counts.len() > 1 && counts.len() != layers => {
                Err(OperatorError::Recipe {
                    field: "selection.counts",
                    problem: format!(
                        "has {} lists, the model has {layers} MoE layers; give one list for all layers or one for each",
                        counts.len()
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Number of experts that each of `experts` of MoE layer `layer` becomes; sums to `target`, at least 1 each.
    ///
    /// `scores` are those of [`utility`](Self::utility), one for each expert, or none.
    ///
    /// # Errors
    /// If the target is not above `experts` or cannot be reached.
    pub fn counts(
        &self,
        layer: usize,
        experts: usize,
        target: usize,
        scores: &[f64],
        seed: u64,
    ) -> Result<Vec<usize>, OperatorError> {
        if target <= experts {
            return Err(OperatorError::TargetNotAbove { target, experts });
        }
        if self.utility().is_some() {
            check_scores(layer, experts, scores)?;
        }
        let extra = target - experts;
        let mut rng = seed::rng(seed);
        match self {
            Self::Uniform {} => Ok(uniform(experts, target, &mut rng)),
            Self::Greedy { cap, .. } => greedy(experts, target, *cap, scores),
            Self::Proportional { .. } => {
                check_sum(layer, scores)?;
                Ok(proportional(target, scores))
            }
            Self::Sampled { temperature, .. } => {
                check_sum(layer, scores)?;
                // The largest share has weight 1, so that no power underflows everywhere.
                let best = scores.iter().fold(0.0_f64, |best, &score| best.max(score));
                let weight = |score: &f64| (score / best).powf(1.0 / temperature);
                let weights: Vec<f64> = scores.iter().map(weight).collect();
                Ok(draw(extra, &weights, &mut rng))
            }
            Self::Random {} => Ok(draw(extra, &vec![1.0; experts], &mut rng)),
            Self::Explicit { counts, .. } => explicit(counts, layer, experts, target),
        }
    }
}

impl Selection {
    /// The counts of all groups, each of which grows to its share of the target. `of` is the group of every expert.
    pub(crate) fn counts_in_groups(
        &self,
        layer: usize,
        target: usize,
        of: &ExpertSources,
        scores: &[f64],
        seed: u64,
    ) -> Result<Vec<usize>, OperatorError> {
        let (experts, groups) = (of.experts(), of.count());
        if !target.is_multiple_of(groups) {
            return Err(OperatorError::UnevenGroups { target, groups });
        }
        let (members, size) = of.members();
        let members: Vec<&[usize]> = members.chunks(size).collect();
        let target_size = target / groups;
        if let Self::Explicit { .. } = self {
            let counts = self.counts(layer, experts, target, scores, seed)?;
            let sum = |group: &&[usize]| group.iter().map(|&expert| counts[expert]).sum::<usize>();
            let sums = members.iter().map(sum);
            return match sums.enumerate().find(|(_, sum)| *sum != target_size) {
                None => Ok(counts),
                Some((group, sum)) => Err(OperatorError::Recipe {
                    field: "selection.counts",
                    problem: format!(
                        "the counts of MoE layer {layer} give group {group} of its experts {sum}, all {groups} groups must have {target_size}"
                    ),
                }),
            };
        }
        if self.utility().is_some() {
            check_scores(layer, experts, scores)?;
        }
        let mut all = vec![0; experts];
        for (group, members) in members.into_iter().enumerate() {
            let scores = members.iter().filter_map(|&expert| scores.get(expert));
            let scores: Vec<f64> = scores.copied().collect();
            let seed = seed::part(seed, group).next_u64();
            let counts = self.counts(layer, size, target_size, &scores, seed);
            let counts = counts.map_err(|error| OperatorError::InGroup {
                group,
                source: Box::new(error),
            })?;
            for (&expert, count) in members.iter().zip(counts) {
                all[expert] = count;
            }
        }
        Ok(all)
    }
}

fn uniform(experts: usize, target: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut counts = vec![target / experts; experts];
    let mut order: Vec<usize> = (0..experts).collect();
    order.shuffle(rng);
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
    let most = experts.saturating_mul(cap.saturating_add(1));
    if target > most {
        return Err(OperatorError::CapTooSmall {
            cap,
            experts,
            most,
            target,
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

/// Largest remainders of `target * s_e / sum s`, where an expert whose quota is below 1 gets 1 and leaves the division.
fn proportional(target: usize, scores: &[f64]) -> Vec<usize> {
    let mut open: Vec<usize> = (0..scores.len()).collect();
    let quota = |open: &[usize], expert: usize| {
        let seats = target - (scores.len() - open.len());
        let sum: f64 = open.iter().map(|&expert| scores[expert]).sum();
        seats as f64 * scores[expert] / sum
    };
    loop {
        let above: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&expert| quota(&open, expert) >= 1.0)
            .collect();
        if above.len() == open.len() {
            break;
        }
        open = above;
    }
    let mut counts = vec![1; scores.len()];
    let mut remainders = Vec::with_capacity(open.len());
    for &expert in &open {
        let quota = quota(&open, expert);
        counts[expert] = quota as usize;
        remainders.push((expert, quota.fract()));
    }
    remainders.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let left = target - counts.iter().sum::<usize>();
    for (expert, _) in remainders.into_iter().cycle().take(left) {
        counts[expert] += 1;
    }
    counts
}

/// One of each expert, and `extra` drawn by weights of which the largest is 1.
fn draw(extra: usize, weights: &[f64], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let ends: Vec<f64> = weights
        .iter()
        .scan(0.0, |end, weight| {
            *end += weight;
            Some(*end)
        })
        .collect();
    let total = ends.last().copied().unwrap_or(0.0);
    let mut counts = vec![1; weights.len()];
    for _ in 0..extra {
        let point = rng.random::<f64>() * total;
        // Rounding may carry the point to the very end.
        let expert = ends
            .partition_point(|end| *end <= point)
            .min(ends.len() - 1);
        counts[expert] += 1;
    }
    counts
}

fn explicit(
    counts: &[Vec<usize>],
    layer: usize,
    experts: usize,
    target: usize,
) -> Result<Vec<usize>, OperatorError> {
    let fail = |problem| {
        Err(OperatorError::Recipe {
            field: "selection.counts",
            problem,
        })
    };
    let counts = match counts {
        [all] => all,
        each => match each.get(layer) {
            Some(counts) => counts,
            None => return fail(format!("has no list for MoE layer {layer}")),
        },
    };
    if counts.len() != experts {
        return fail(format!(
            "has {} counts for MoE layer {layer}, the model has {experts} experts",
            counts.len()
        ));
    }
    if let Some(expert) = counts.iter().position(|&count| count == 0) {
        return fail(format!(
            "expert {expert} of MoE layer {layer} would be lost; every count must be at least 1"
        ));
    }
    let sum = counts
        .iter()
        .fold(0_usize, |sum, count| sum.saturating_add(*count));
    if sum != target {
        return fail(format!(
            "the counts of MoE layer {layer} sum to {sum}, the target is {target}"
        ));
    }
    Ok(counts.clone())
}

fn check_scores(layer: usize, experts: usize, scores: &[f64]) -> Result<(), OperatorError> {
    if scores.len() != experts {
        return Err(OperatorError::EvidenceMismatch {
            what: "utility scores of a layer",
            found: scores.len(),
            expected: experts,
        });
    }
    match scores
        .iter()
        .position(|score| !score.is_finite() || *score < 0.0)
    {
        Some(expert) => Err(OperatorError::BadScore {
            layer,
            expert,
            score: scores[expert],
        }),
        None => Ok(()),
    }
}

fn check_sum(layer: usize, scores: &[f64]) -> Result<(), OperatorError> {
    if scores.iter().any(|&score| score > 0.0) {
        Ok(())
    } else {
        Err(OperatorError::AllScoresZero { layer })
    }
}
