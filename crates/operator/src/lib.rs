//! The expert upcycling operator (arXiv 2604.19835).
//!
//! A [`Recipe`] says how: a [`Selection`] decides how often each expert is copied ([`ReplicationPlan`]), by a
//! [`Utility`] where it needs one; an [`ExpertInit`] what the weights of replicas are; a [`RouterExtension`] what the
//! router does with them; an [`OptimizerPolicy`] what happens to Adam's moments. [`Upcycle::grow`] transforms any model
//! that shows its MoE layers ([`MoeModel`](upcycle_moe::MoeModel)) and the state of its optimizer, in memory;
//! [`Evidence::gather`] measures before what the recipe needs, and [`verify`] says afterwards what growing changed.
//! What is computed for one layer ([`LayerGrowth`]) works on slices, so that other drivers can use it.
//!
//! Where several devices hold the experts of a model, all of them gather the evidence and grow together, and each makes the
//! experts that it is to hold: the result is to the bit that of one device.

mod block;
mod boost;
mod centroids;
mod check;
mod dense;
mod dense_model;
mod deviation;
mod error;
mod evidence;
mod experts;
mod forecast;
mod gather;
mod grow;
mod grow_experts;
mod grows;
mod layer;
mod layer_sums;
mod measurement;
mod members;
mod named;
mod optimizer;
mod parameter;
mod plan;
mod recipe;
mod router;
mod seed;
mod selection;
mod tie_break;
mod upcycle;
mod utility;
mod verify;

pub use boost::BoostRecipe;
pub use dense::{DenseLayer, DenseSource};
pub use deviation::Deviation;
pub use error::OperatorError;
pub use evidence::{Evidence, ExpertUse, LayerEvidence, Norms, RoutedTokens};
pub use experts::{ExpertInit, ExpertMatrices, Initialization, rms};
pub use forecast::{Forecaster, GateScore, RouterBias, RoutingForecast, RoutingRule};
pub use gather::{ForwardPass, Share};
pub use grow::Grown;
pub use grows::Grows;
pub use layer::LayerGrowth;
pub use measurement::Measurement;
pub use optimizer::{AdamState, Moments, OptimizerPolicy};
pub use plan::{LayerPlan, ReplicationPlan};
pub use recipe::Recipe;
pub use router::{ReleaseRecipe, RouterExtension, RouterRows, Rows, TieBreakKind};
pub use selection::Selection;
pub use tie_break::Directions;
pub use upcycle::{Choice, Upcycle};
pub use utility::{Projections, Score, Utility};
pub use verify::{LayerVerification, Outputs, Verification, verify};
