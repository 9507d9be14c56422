//! Random numbers of the operator: a stream of its own for each growth, layer and purpose.

use rand_chacha::ChaCha8Rng;
use upcycle_digest::Digest;

/// What all random numbers of one layer in one growth come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerSeed {
    seed: u64,
    experts: usize,
    layer: usize,
}

impl LayerSeed {
    /// `experts` before a growth tell it from other growths of the same model: replicas of replicas would otherwise split as
    /// their sources did.
    pub(crate) fn new(seed: u64, experts: usize, layer: usize) -> Self {
        Self {
            seed,
            experts,
            layer,
        }
    }

    /// The seed of one purpose.
    pub(crate) fn of(self, purpose: &str) -> u64 {
        Digest::new("growth")
            .number(self.seed)
            .number(self.experts as u64)
            .number(self.layer as u64)
            .bytes(purpose.as_bytes())
            .seed()
    }
}

/// The stream of a seed.
pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    Digest::new("of a growth").number(seed).rng()
}

/// The stream of one part, such as an expert or a group, of what a seed is for.
pub(crate) fn part(seed: u64, part: usize) -> ChaCha8Rng {
    Digest::new("part of a growth")
        .number(seed)
        .number(part as u64)
        .rng()
}
