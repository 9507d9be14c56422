//! What the weights of a replica are, given those of its source.

mod drop;
mod matrix;
mod noise;
mod orthogonal;
mod sparse_code;
mod svd;

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use drop::Initialization;
pub use matrix::ExpertMatrices;
use matrix::Replica;
pub(crate) use matrix::{Matrix, blend};
pub(crate) use noise::normal;
pub use noise::rms;
pub(crate) use orthogonal::orthogonal;
pub(crate) use svd::perturb;

use crate::{
    check::{Fault, at_least_one, below_one, not_negative, positive, share},
    experts::sparse_code::Dictionary,
    plan::LayerPlan,
    seed,
};

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

    /// Gate, up and down projections of the grown layer, `[mE, D, F]`, `[mE, D, F]` and `[mE, F, D]`, and the replicas that
    /// could not be made and are plain copies.
    ///
    /// Every replica has a stream of random numbers of its own, so that the result depends on the seed alone.
    pub fn grow(
        &self,
        source: ExpertMatrices,
        plan: &LayerPlan,
        seed: u64,
    ) -> ([Vec<f32>; 3], Vec<usize>) {
        let all: Vec<usize> = (0..plan.experts()).collect();
        self.grow_block(source, &all, plan, 0..plan.source_of().len(), seed)
    }

    /// The experts `block` of [`grow`](Self::grow) alone. `source` has the experts `held` of the layer, which are those that the
    /// block is [made of](Self::reads), in this order.
    pub(crate) fn grow_block(
        &self,
        source: ExpertMatrices,
        held: &[usize],
        plan: &LayerPlan,
        block: Range<usize>,
        seed: u64,
    ) -> ([Vec<f32>; 3], Vec<usize>) {
        let size = source.d * source.f;
        let place = |expert: usize| held.partition_point(|&other| other < expert);
        let mut grown = [source.gate, source.up, source.down].map(|values| {
            let mut grown = Vec::with_capacity(block.len() * size);
            for &source in &plan.source_of()[block.clone()] {
                grown.extend_from_slice(&values[place(source) * size..][..size]);
            }
            grown
        });
        let dictionary = match *self {
            Self::Copy {} => return (grown, Vec::new()),
            Self::SparseCode {
                atoms,
                sparsity,
                iterations,
                ..
            } => Some(Dictionary::learn(source, atoms, sparsity, iterations, seed)),
            _ => None,
        };
        let [gate, up, down] = &mut grown;
        let originals = plan.first_replica().saturating_sub(block.start);
        let replicas = gate
            .par_chunks_mut(size)
            .zip(up.par_chunks_mut(size))
            .zip(down.par_chunks_mut(size))
            .enumerate()
            .skip(originals);
        let copied = replicas.filter_map(|(index, ((gate, up), down))| {
            let expert = block.start + index;
            let mut rng = seed::part(seed, expert);
            let own = plan.source_of()[expert];
            let neighbour = self.neighbour(own, plan).unwrap_or(own);
            let matrices = [own, neighbour].map(|expert| source.expert(place(expert)));
            let made = self.change([gate, up, down], matrices, dictionary.as_ref(), &mut rng);
            (!made).then_some(expert)
        });
        let copied = copied.collect();
        (grown, copied)
    }

    /// Experts of the layer that the experts `block` of the grown one are made of, in ascending order.
    pub(crate) fn reads(&self, plan: &LayerPlan, block: Range<usize>) -> Vec<usize> {
        if matches!(self, Self::SparseCode { .. }) {
            return (0..plan.experts()).collect();
        }
        let replicas = block.start.max(plan.first_replica())..block.end;
        let neighbours = (plan.source_of().get(replicas).unwrap_or_default().iter())
            .filter_map(|&source| self.neighbour(source, plan));
        let sources = plan.source_of()[block].iter().copied();
        let mut experts: Vec<usize> = sources.chain(neighbours).collect();
        experts.sort_unstable();
        experts.dedup();
        experts
    }

    /// The neighbour of a source, which is the next expert of the layer, where replicas take something of it.
    fn neighbour(&self, source: usize, plan: &LayerPlan) -> Option<usize> {
        let next = (source + 1) % plan.experts();
        match self {
            Self::Interpolate { .. } | Self::SvdMix { .. } | Self::SparseCode { .. } => Some(next),
            _ => None,
        }
    }

    /// Gate, up and down of one replica, the grown layer's expert `expert`, from its source and the source's neighbour,
    /// of one expert each: the same as of [`grow`](Self::grow), but for sparse codes, which need the whole layer. False if it
    /// could not be made and is a plain copy.
    pub fn replica(
        &self,
        source: ExpertMatrices,
        neighbour: ExpertMatrices,
        expert: usize,
        seed: u64,
    ) -> ([Vec<f32>; 3], bool) {
        let mut replica = [source.gate, source.up, source.down].map(<[f32]>::to_vec);
        let [gate, up, down] = &mut replica;
        let mut rng = seed::part(seed, expert);
        let matrices = [source.expert(0), neighbour.expert(0)];
        let made = self.change([gate, up, down], matrices, None, &mut rng);
        (replica, made)
    }

    /// Turns a copy of a source into what the initialisation says; false if that cannot be done, for weights that are not
    /// finite or all zero, and some matrix is still the copy.
    fn change(
        &self,
        replica: Replica,
        [own, neighbour]: [[Matrix; 3]; 2],
        dictionary: Option<&Dictionary>,
        rng: &mut ChaCha8Rng,
    ) -> bool {
        let mut made = true;
        match *self {
            Self::Copy {} => {}
            Self::Noise { std } => {
                for (to, matrix) in replica.into_iter().zip(own) {
                    let std = std * rms(matrix.values);
                    to.iter_mut().for_each(|value| *value += std * normal(rng));
                }
            }
            Self::Drop { share, init } => drop::drop_neurons(replica, own, share, init, rng),
            Self::Shuffle { share } => drop::shuffle_neurons(replica, own, share, rng),
            Self::Interpolate { weight } => {
                for (to, other) in replica.into_iter().zip(neighbour) {
                    blend(to, other.values, weight);
                }
            }
            Self::Orthogonal {} => {
                for (to, matrix) in replica.into_iter().zip(own) {
                    made &= orthogonal(to, matrix.values, rng);
                }
            }
            Self::Scale { factor } => {
                for to in replica {
                    to.iter_mut().for_each(|value| *value *= factor);
                }
            }
            Self::SvdPerturb {
                values,
                vectors,
                drop,
            } => {
                for (to, matrix) in replica.into_iter().zip(own) {
                    made &= perturb(to, matrix, [values, vectors, drop], rng);
                }
            }
            Self::SvdMix { weight } => {
                for ((to, own), neighbour) in replica.into_iter().zip(own).zip(neighbour) {
                    made &= svd::mix(to, own, neighbour, weight);
                }
            }
            Self::SparseCode { mix, .. } => match dictionary {
                Some(dictionary) => dictionary.mix(replica, own, neighbour, mix),
                None => made = false,
            },
        }
        made
    }
}
