//! Makes replicas on the host.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    ExpertInit, drop,
    matrix::{ExpertMatrices, Matrix, Replica, blend},
    noise::{normal, rms},
    orthogonal::orthogonal,
    sparse_code::Dictionary,
    svd::{self, perturb},
};
use crate::{plan::LayerPlan, seed};

impl ExpertInit {
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
