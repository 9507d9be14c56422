//! Mixture-of-Experts layers on Burn: router, stacked experts, load balancing and routing statistics.
//!
//! Tensor names carry their shape: `T` tokens, `D` model, `F` expert hidden, `E` experts, `K` top-K, `G` sources
//! (groups of replicas).

mod balancing;
mod experts;
mod init;
mod layer;
mod router;
mod sources;
mod statistics;
mod two_level;

pub use balancing::BalancingConfig;
pub use experts::{Experts, ExpertsRecord};
pub use init::Initializer;
pub use layer::{MoeLayer, MoeLayerConfig, MoeLayerRecord};
pub use router::{Router, RouterConfig, RouterRecord, Routing, ScoreFunction};
pub use sources::{ExpertSources, Lineage, index_tensor};
pub use statistics::{RoutingCounter, RoutingStats};
pub use two_level::{Growth, TieBreak, TieBreakRecord, TwoLevelConfig};
