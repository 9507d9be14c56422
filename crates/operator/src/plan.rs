//! Which expert every expert of the grown model is copied from.

use serde::{Deserialize, Serialize};
use upcycle_moe::ExpertSources;

/// The sources of one MoE layer's experts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// Source of every expert of the grown layer; the first E are the identity.
    source_of: Vec<usize>,
    experts: usize,
}

/// The sources of all MoE layers' experts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationPlan {
    /// One plan for each MoE layer.
    pub layers: Vec<LayerPlan>,
}

impl LayerPlan {
    /// From the number of experts that each source becomes (`r_e >= 1`).
    ///
    /// The first E experts stay in place. Replicas follow set by set: first the second copy of every source that has
    /// one, then the third, so that with uniform counts each set is a complete copy of the layer.
    pub fn from_counts(counts: &[usize]) -> Self {
        let sets = counts.iter().copied().max().unwrap_or(0);
        let mut source_of: Vec<usize> = (0..counts.len()).collect();
        for set in 1..sets {
            source_of.extend((0..counts.len()).filter(|&source| counts[source] > set));
        }
        Self {
            source_of,
            experts: counts.len(),
        }
    }

    /// Experts before growing, E.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Source of every expert of the grown layer, `[mE]`.
    pub fn source_of(&self) -> &[usize] {
        &self.source_of
    }

    /// Whether an expert of the grown layer is a new replica.
    pub fn is_replica(&self, expert: usize) -> bool {
        expert >= self.experts
    }

    /// Number of experts that each source becomes, `[E]`.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.experts];
        for &source in &self.source_of {
            counts[source] += 1;
        }
        counts
    }

    /// The origin of every expert of the grown layer, given the origins before growing.
    pub fn lineage(&self, before: &ExpertSources) -> Option<ExpertSources> {
        let origins = self
            .source_of
            .iter()
            .map(|&source| before.source_of()[source]);
        ExpertSources::new(origins.collect())
    }
}
