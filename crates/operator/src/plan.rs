//! Which expert every expert of the grown model is copied from.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use upcycle_moe::ExpertSources;

/// The sources of one MoE layer's experts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// Source of every expert of the grown layer; the first E are the identity.
    sources: ExpertSources,
    /// Experts from here on are new replicas.
    first_replica: usize,
}

/// The sources of all MoE layers' experts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationPlan {
    /// One plan for each MoE layer.
    pub layers: Vec<LayerPlan>,
}

impl LayerPlan {
    /// From the number of experts that each source becomes, see [`ExpertSources::of_counts`].
    pub fn from_counts(counts: &[usize]) -> Self {
        Self {
            sources: ExpertSources::of_counts(counts),
            first_replica: counts.len(),
        }
    }

    /// The same plan, with every expert a new replica: of a dense network no expert is the original.
    pub(crate) fn without_originals(mut self) -> Self {
        self.first_replica = 0;
        self
    }

    /// Experts before growing, E.
    pub fn experts(&self) -> usize {
        self.sources.count()
    }

    /// Source of every expert of the grown layer, `[mE]`.
    pub fn source_of(&self) -> &[usize] {
        self.sources.source_of()
    }

    /// The first expert of the grown layer that is a new replica; all further ones are, too.
    pub fn first_replica(&self) -> usize {
        self.first_replica
    }

    /// Number of experts that each source becomes, `[E]`.
    pub fn counts(&self) -> Vec<usize> {
        self.sources.replicas()
    }

    /// Replica sets: the originals and the second, third, ... copies.
    pub fn sets(&self) -> usize {
        self.counts().into_iter().max().unwrap_or(0)
    }

    /// Experts of replica set `set`, of which 0 is the originals.
    pub fn set(&self, set: usize) -> Range<usize> {
        let counts = self.counts();
        let end = |sets: usize| counts.iter().map(|&count| count.min(sets)).sum();
        end(set)..end(set + 1)
    }

    /// The source of every expert of the grown layer.
    pub fn sources(&self) -> &ExpertSources {
        &self.sources
    }
}

impl ReplicationPlan {
    /// The source of every expert, for each MoE layer.
    pub fn sources(&self) -> Vec<ExpertSources> {
        let layers = self.layers.iter();
        layers.map(|layer| layer.sources().clone()).collect()
    }
}
