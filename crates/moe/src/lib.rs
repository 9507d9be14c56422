//! Mixture-of-Experts layers on Burn: router, stacked experts, load balancing and routing statistics.
//!
//! Tensor names carry their shape: `T` tokens, `D` model, `F` expert hidden, `E` experts, `K` top-K, `G` sources
//! (groups of replicas).

mod balancing;
mod dense;
mod expert_groups;
mod experts;
mod feed_forward;
mod groups;
mod init;
mod layer;
mod lineage;
#[cfg(feature = "burn-train")]
pub mod metric;
mod model;
mod pattern;
mod release;
mod router;
mod sources;
mod statistics;
mod two_level;

pub use balancing::BalancingConfig;
pub use dense::DenseModel;
pub use expert_groups::{ExpertGroups, GroupLimit, GroupStrength};
pub use experts::{Experts, ExpertsRecord, ShardError, check_blocks};
pub use feed_forward::{SharedExpert, SharedExpertRecord, SwiGlu, SwiGluRecord};
pub use init::Initializer;
pub use layer::{
    Boost, GrowthError, GrowthState, MoeLayer, MoeLayerConfig, MoeLayerRecord, Resized,
    SharedExpertConfig,
};
pub use lineage::Lineage;
pub use model::{MoeModel, MoeSite};
pub use pattern::LayerPattern;
pub use router::{Router, RouterConfig, RouterRecord, Routing, ScoreFunction};
pub use sources::{ExpertSources, index_tensor};
pub use statistics::{RoutingCounter, RoutingStats};
pub use two_level::{Growth, Release, ReleaseShape, TieBreak, TieBreakRecord, TwoLevel};
