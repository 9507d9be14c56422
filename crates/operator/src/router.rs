//! Router rows and selection biases of replicas.

use rand::Rng;
use serde::{Deserialize, Serialize};
use upcycle_moe::ReleaseShape;

use crate::{
    check::{Fault, not_negative, positive, share, that},
    experts::{Matrix, blend, normal, orthogonal, perturb, rms},
    plan::LayerPlan,
    seed,
};

/// What the router does with replicas: rows `w` of its weight and selection biases `b`. Biases are copied, never zeroed
/// but for `new`; what a kind does not name is copied.
///
/// The neighbour of a source is the next expert of the layer; that of the last is the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RouterExtension {
    /// The same rows and biases.
    Copy {},
    /// `w + std * rms(w) * N(0, 1)`.
    Noise {
        /// Standard deviation of the noise, in units of the root mean square of all rows.
        std: f32,
        /// Which rows.
        #[serde(default)]
        on: Rows,
    },
    /// `(1 - weight) * w + weight * w_neighbour`, on replicas.
    Interpolate {
        /// Weight of the neighbour.
        weight: f32,
        /// Whether the last expert has the first as neighbour; it has none otherwise, and its replicas are copies.
        #[serde(default = "yes")]
        circular: bool,
    },
    /// `b + shift + U(-half_width, half_width)` on replicas (the paper, section 3).
    ///
    /// Not function-preserving for K > 1: twins have equal scores, so both win.
    BiasNoise {
        /// Half-width of the noise.
        #[serde(default = "half_width")]
        half_width: f32,
        /// Added to all replicas.
        #[serde(default)]
        shift: f32,
    },
    /// `factor * w`, on replicas. The published code has this twice, as "scaled copy" and as "temperature".
    #[serde(alias = "temperature")]
    Scale {
        /// The factor.
        factor: f32,
    },
    /// A random row of the size of the others, and a bias of 0, on replicas: for new experts, which have no source.
    New {},
    /// A random row orthogonal to the source's, at its norm, on replicas.
    Orthogonal {},
    /// `(1 - strength) * w + strength * mean of all rows`, on replicas.
    Adversarial {
        /// Weight of the mean.
        strength: f32,
    },
    /// Replica rows from a perturbed singular value decomposition of all rows, a new one for each set of replicas.
    Svd {
        /// Relative noise of singular values.
        #[serde(default)]
        values: f32,
        /// Angle of a random rotation among singular vectors, about this many radians.
        #[serde(default)]
        vectors: f32,
    },
    /// `w + strength * v_j` with one direction a replica set j, originals included, which all experts of the set share:
    /// each token prefers one whole set, inside which a softmax is as before (PAPER section 1).
    ///
    /// Close to function-preserving for a large strength, softmax gates and uniform replication, with a plain router.
    /// With K = 1 and gates that do not depend on the other experts, a small strength is enough.
    Hyperplane {
        /// Length of the offset: the standard deviation, in logits, of the difference between two sets.
        strength: f32,
    },
    /// `b - bias` on replicas: they are not selected until balancing has raised their bias again.
    ///
    /// Exact where `bias` is above the range of the scores (1 for sigmoid and softmax) and gates are made of the selected
    /// experts alone; replicas get no gradient until they wake.
    Dormant {
        /// How far behind they start.
        bias: f32,
    },
    /// Two-level selection: K distinct sources, then one replica of each by a token-dependent tie-break. Exact at tau.
    TwoLevel {
        /// Where the tie-break's directions come from.
        tie_break: TieBreakKind,
        /// Weight `c` of the tie-break `c * tanh(v . x + o)`.
        strength: f32,
        /// Weight of the loss that teaches the router the split of the tie-break, so that it can be released: the mean
        /// of `sigmoid(l_other - l_chosen)` over the replicas of selected sources.
        #[serde(default)]
        separation: f32,
        /// When it ends; it is kept for good without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<ReleaseRecipe>,
    },
}

/// Rows that are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Those of new replicas.
    #[default]
    Replicas,
    /// All, originals included.
    All,
}

/// Where the directions of a tie-break come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TieBreakKind {
    /// Random directions: replicas of a source split its tokens by random hyperplanes.
    Random,
    /// Centroids of the tokens that were routed to the source: replicas split them by content.
    Centroids,
}

/// When two-level selection becomes a plain top K.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRecipe {
    /// How the hold on twins ends.
    pub shape: ReleaseShape,
    /// Duration in steps. What twins need to part is a number of steps, whatever the model's pre-training took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Duration as a share of the steps before the operator (the unit of CPT fractions), in place of `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<f64>,
}

impl ReleaseRecipe {
    /// Steps that it lasts after an operator at `step`.
    pub fn steps_after(&self, step: u64) -> u64 {
        let share = self.over.map(|over| (over * step as f64).round() as u64);
        self.steps.or(share).unwrap_or(0)
    }

    fn validate(&self) -> Result<(), Fault> {
        that(
            self.steps.is_some() != self.over.is_some(),
            "router.release",
            "needs its duration as either `steps` or `over`, a share of the steps before the operator",
        )?;
        that(
            self.steps != Some(0),
            "router.release.steps",
            "must be at least 1",
        )?;
        that(
            self.over
                .is_none_or(|over| over > 0.0 && over <= f64::from(MOST)),
            "router.release.over",
            "must be a share of the steps before the operator, above 0 and at most 1e6",
        )
    }
}

fn yes() -> bool {
    true
}

fn half_width() -> f32 {
    1e-3
}

/// Far above any sensible value, far below what overflows.
const MOST: f32 = 1e6;

/// The rows and selection biases of a router.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterRows {
    /// Rows, `[E, D]`.
    pub weight: Vec<f32>,
    /// Selection biases, `[E]`.
    pub bias: Vec<f32>,
    /// Width of a row, D.
    pub d: usize,
    /// Root mean square of the router's inputs.
    pub input_rms: f32,
}

impl RouterRows {
    /// The same experts in another order.
    #[must_use]
    pub fn in_order(&self, order: &[usize]) -> Self {
        let rows = order.iter().flat_map(|&expert| self.row(expert));
        Self {
            weight: rows.copied().collect(),
            bias: order.iter().map(|&expert| self.bias[expert]).collect(),
            ..*self
        }
    }

    fn row(&self, expert: usize) -> &[f32] {
        &self.weight[expert * self.d..][..self.d]
    }
}

impl RouterExtension {
    /// Checks the values of all fields.
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        match *self {
            Self::Copy {} | Self::New {} | Self::Orthogonal {} => Ok(()),
            Self::Noise { std, .. } => not_negative("router.std", std),
            Self::Interpolate { weight, .. } => share("router.weight", weight),
            Self::BiasNoise { half_width, shift } => {
                that(
                    (0.0..=MOST).contains(&half_width),
                    "router.half_width",
                    "must be at least 0 and at most 1e6",
                )?;
                that(shift.is_finite(), "router.shift", "must be a number")
            }
            Self::Scale { factor } => positive("router.factor", factor),
            Self::Adversarial { strength } => share("router.strength", strength),
            Self::Svd { values, vectors } => {
                not_negative("router.values", values)?;
                not_negative("router.vectors", vectors)
            }
            Self::Hyperplane { strength } => not_negative("router.strength", strength),
            Self::Dormant { bias } => not_negative("router.bias", bias),
            Self::TwoLevel {
                strength,
                separation,
                release,
                ..
            } => {
                not_negative("router.strength", strength)?;
                release.map_or(Ok(()), |release| release.validate())?;
                not_negative("router.separation", separation)
            }
        }
    }

    /// The rows and biases of the grown layer, and the replicas whose rows could not be made and are plain copies.
    pub fn extend(
        &self,
        source: &RouterRows,
        plan: &LayerPlan,
        seed: u64,
    ) -> (RouterRows, Vec<usize>) {
        let mut copied = Vec::new();
        let d = source.d;
        let mut grown = RouterRows {
            weight: Vec::with_capacity(plan.source_of().len() * d),
            bias: Vec::with_capacity(plan.source_of().len()),
            d,
            input_rms: source.input_rms,
        };
        for &expert in plan.source_of() {
            grown.weight.extend_from_slice(source.row(expert));
            grown.bias.push(source.bias[expert]);
        }
        let mut rng = seed::rng(seed);
        let first = plan.first_replica();
        let new = first..plan.source_of().len();
        let weight = &mut grown.weight;
        match *self {
            Self::Copy {} | Self::TwoLevel { .. } => {}
            Self::Noise { std, on } => {
                let std = std * rms(&source.weight);
                let first = match on {
                    Rows::Replicas => first,
                    Rows::All => 0,
                };
                for value in &mut weight[first * d..] {
                    *value += std * normal(&mut rng);
                }
            }
            Self::Interpolate {
                weight: w,
                circular,
            } => {
                for expert in new {
                    let neighbour = plan.source_of()[expert] + 1;
                    if circular || neighbour < plan.experts() {
                        let other = source.row(neighbour % plan.experts());
                        blend(&mut weight[expert * d..][..d], other, w);
                    }
                }
            }
            Self::BiasNoise { half_width, shift } => {
                for bias in &mut grown.bias[first..] {
                    *bias += shift;
                    if half_width > 0.0 {
                        *bias += rng.random_range(-half_width..half_width);
                    }
                }
            }
            Self::Scale { factor } => {
                for value in &mut weight[first * d..] {
                    *value *= factor;
                }
            }
            Self::New {} => {
                let std = rms(&source.weight);
                for value in &mut weight[first * d..] {
                    *value = std * normal(&mut rng);
                }
                grown.bias[first..].fill(0.0);
            }
            Self::Orthogonal {} => {
                for expert in new {
                    let own = source.row(plan.source_of()[expert]);
                    if !orthogonal(&mut weight[expert * d..][..d], own, &mut rng) {
                        copied.push(expert);
                    }
                }
            }
            Self::Adversarial { strength } => {
                let experts = plan.experts() as f64;
                let mean: Vec<f32> = (0..d)
                    .map(|i| {
                        let column = source.weight.iter().skip(i).step_by(d);
                        (column.map(|&w| f64::from(w)).sum::<f64>() / experts) as f32
                    })
                    .collect();
                for expert in new {
                    blend(&mut weight[expert * d..][..d], &mean, strength);
                }
            }
            Self::Svd { values, vectors } => {
                let matrix = Matrix {
                    values: &source.weight,
                    rows: plan.experts(),
                    columns: d,
                };
                for set in 1..plan.sets() {
                    let mut rows = source.weight.clone();
                    if !perturb(&mut rows, matrix, [values, vectors, 0.0], &mut rng) {
                        copied.extend(plan.set(set));
                    }
                    for expert in plan.set(set) {
                        let own = plan.source_of()[expert];
                        weight[expert * d..][..d].copy_from_slice(&rows[own * d..][..d]);
                    }
                }
            }
            Self::Hyperplane { strength } => {
                let directions = set_directions(plan.sets(), d, &mut rng);
                let strength = strength / source.input_rms;
                for (set, direction) in directions.iter().enumerate() {
                    for expert in plan.set(set) {
                        let row = &mut weight[expert * d..][..d];
                        for (w, v) in row.iter_mut().zip(direction) {
                            *w += strength * v;
                        }
                    }
                }
            }
            Self::Dormant { bias } => {
                for own in &mut grown.bias[first..] {
                    *own -= bias;
                }
            }
        }
        (grown, copied)
    }
}

/// Directions of `sets` replica sets with mean 0, whose differences have about norm 1 — over inputs of unit variance
/// the difference of two sets' logits has standard deviation 1.
fn set_directions(sets: usize, d: usize, rng: &mut impl Rng) -> Vec<Vec<f32>> {
    let std = (2.0 * d as f32).powf(-0.5);
    let mut directions: Vec<Vec<f32>> = (0..sets)
        .map(|_| (0..d).map(|_| std * normal(rng)).collect())
        .collect();
    for i in 0..d {
        let mean = directions.iter().map(|v| v[i]).sum::<f32>() / sets as f32;
        directions.iter_mut().for_each(|v| v[i] -= mean);
    }
    directions
}
