//! Which layers of a model are MoE.

use serde::{Deserialize, Serialize};

/// Which layers are dense and which are MoE.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerPattern {
    /// Every layer is MoE.
    #[default]
    AllMoe,
    /// Dense and MoE layers alternate, dense first.
    Interleaved,
    /// The first and the last layer are dense, the others MoE.
    DenseEnds,
    /// Every layer is dense.
    AllDense,
    /// These layers are MoE, counted from 0.
    List(Vec<usize>),
}

impl LayerPattern {
    /// Whether layer `index` of `layers` is MoE.
    pub fn is_moe(&self, index: usize, layers: usize) -> bool {
        match self {
            Self::AllMoe => true,
            Self::Interleaved => index % 2 == 1,
            Self::DenseEnds => index != 0 && index + 1 != layers,
            Self::AllDense => false,
            Self::List(moe) => moe.contains(&index),
        }
    }
}
