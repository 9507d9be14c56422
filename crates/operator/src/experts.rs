//! What the weights of a replica are, given those of its source.

mod drop;
mod make;
mod matrix;
mod noise;
mod orthogonal;
mod sparse_code;
mod svd;

use serde::{Deserialize, Serialize};

pub use drop::Initialization;
pub use matrix::ExpertMatrices;
pub(crate) use matrix::{Matrix, blend};
pub(crate) use noise::normal;
pub use noise::rms;
pub(crate) use orthogonal::orthogonal;
pub(crate) use svd::perturb;

use crate::check::{Fault, at_least_one, below_one, not_negative, positive, share};

/// How the weights of a replica come from its source. The originals keep theirs.
///
/// The neighbour of a source is the next expert of the layer; that of the last is the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ExpertInit {
    /// The same weights (the paper).
    Copy {},
    /// `w + std * rms(w) * N(0, 1)`.
    Noise {
        /// Standard deviation of the noise, in units of the matrix's root mean square.
        std: f32,
    },
    /// Drop-upcycling ([Nakamura et al., 2025](https://arxiv.org/abs/2502.19261)): a share of the intermediate neurons
    /// starts anew, the same in gate, up and down.
    Drop {
        /// Share of neurons.
        share: f32,
        /// Distribution of their new weights.
        init: Initialization,
    },
    /// A share of the intermediate neurons changes places, the same in gate, up and down: the function is kept.
    Shuffle {
        /// Share of neurons.
        share: f32,
    },
    /// `(1 - weight) * w + weight * w_neighbour`.
    Interpolate {
        /// Weight of the neighbour.
        weight: f32,
    },
    /// A random matrix without the part along the source, at the source's norm; for each matrix.
    Orthogonal {},
    /// `factor * w`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// The singular value decomposition `U S V^T` of each matrix, perturbed.
    SvdPerturb {
        /// Relative noise of singular values.
        #[serde(default)]
        values: f32,
        /// Angle of a random rotation among the singular vectors of either side, about this many radians.
        #[serde(default)]
        vectors: f32,
        /// Share of the components that is left out, smallest first.
        #[serde(default)]
        drop: f32,
    },
    /// The leading singular components of the source, and the trailing ones of its neighbour.
    SvdMix {
        /// Share of components that are the neighbour's.
        weight: f32,
    },
    /// Neurons in a sparse code over a dictionary that is learned from the layer's neurons; the code moves towards that
    /// of the neighbour's neuron, and what the code does not explain is kept. Where several devices hold the experts of a
    /// layer, each has all of them in the host's memory while it grows the layer.
    SparseCode {
        /// Dictionary entries.
        #[serde(default = "atoms")]
        atoms: usize,
        /// Weight of the L1 norm of codes, in units of the largest correlation of a neuron with an entry.
        #[serde(default = "sparsity")]
        sparsity: f32,
        /// Weight of the neighbour's code.
        #[serde(default = "mix")]
        mix: f32,
        /// Steps of the learning and of the coding.
        #[serde(default = "iterations")]
        iterations: usize,
    },
}

fn atoms() -> usize {
    512
}

fn sparsity() -> f32 {
    0.1
}

fn mix() -> f32 {
    0.3
}

fn iterations() -> usize {
    100
}

impl Default for ExpertInit {
    fn default() -> Self {
        Self::Copy {}
    }
}

impl ExpertInit {
    /// Checks the values of all fields.
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        match *self {
            Self::Copy {} | Self::Orthogonal {} => Ok(()),
            Self::Noise { std } => not_negative("experts.std", std),
            Self::Drop { share: s, .. } | Self::Shuffle { share: s } => share("experts.share", s),
            Self::Interpolate { weight } | Self::SvdMix { weight } => {
                share("experts.weight", weight)
            }
            Self::Scale { factor } => positive("experts.factor", factor),
            Self::SvdPerturb {
                values,
                vectors,
                drop,
            } => {
                not_negative("experts.values", values)?;
                not_negative("experts.vectors", vectors)?;
                below_one("experts.drop", drop)
            }
            Self::SparseCode {
                atoms,
                sparsity,
                mix,
                iterations,
            } => {
                at_least_one("experts.atoms", atoms)?;
                below_one("experts.sparsity", sparsity)?;
                share("experts.mix", mix)?;
                at_least_one("experts.iterations", iterations)
            }
        }
    }
}
