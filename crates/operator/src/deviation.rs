//! What did not go as the recipe says.

use std::{fmt, mem::discriminant};

use serde::{Deserialize, Serialize};

/// Something that could not be done, and what was done in its place. MoE layers, experts and sources count from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Deviation {
    /// Replicas whose weights are plain copies: a decomposition did not converge, or nothing is orthogonal to zero.
    CopiedExperts {
        /// The MoE layer.
        layer: usize,
        /// Experts of the grown layer.
        experts: Vec<usize>,
    },
    /// Replicas whose router rows are plain copies, for the same reasons.
    CopiedRows {
        /// The MoE layer.
        layer: usize,
        /// Experts of the grown layer.
        experts: Vec<usize>,
    },
    /// Sources that too few different tokens were routed to, so that their replicas share tokens along random directions
    /// and not by centroids.
    RandomDirections {
        /// The MoE layer.
        layer: usize,
        /// The sources.
        sources: Vec<usize>,
    },
}

impl Deviation {
    /// Adds it to others: what is of one kind and layer is one deviation, and experts and sources are named once.
    pub fn add_to(self, others: &mut Vec<Self>) {
        let same = |other: &&mut Self| {
            discriminant(*other) == discriminant(&self) && other.layer() == self.layer()
        };
        let Some(other) = others.iter_mut().find(same) else {
            others.push(self);
            return;
        };
        let of = other.of_mut();
        of.extend(self.of());
        of.sort_unstable();
        of.dedup();
    }

    /// The MoE layer.
    pub fn layer(&self) -> usize {
        match self {
            Self::CopiedExperts { layer, .. }
            | Self::CopiedRows { layer, .. }
            | Self::RandomDirections { layer, .. } => *layer,
        }
    }

    /// Experts or sources.
    pub(crate) fn of(&self) -> &[usize] {
        match self {
            Self::CopiedExperts { experts: of, .. }
            | Self::CopiedRows { experts: of, .. }
            | Self::RandomDirections { sources: of, .. } => of,
        }
    }

    fn of_mut(&mut self) -> &mut Vec<usize> {
        match self {
            Self::CopiedExperts { experts: of, .. }
            | Self::CopiedRows { experts: of, .. }
            | Self::RandomDirections { sources: of, .. } => of,
        }
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopiedExperts { layer, experts } => write!(
                f,
                "MoE layer {layer}: experts {experts:?} are plain copies, because their source's weights could not be decomposed or are all zero"
            ),
            Self::CopiedRows { layer, experts } => write!(
                f,
                "MoE layer {layer}: router rows of experts {experts:?} are plain copies, because the rows could not be decomposed or are all zero"
            ),
            Self::RandomDirections { layer, sources } => write!(
                f,
                "MoE layer {layer}: replicas of sources {sources:?} share tokens along random directions, because too few different tokens were routed to them; measure more batches"
            ),
        }
    }
}
