//! The expert upcycling operator (arXiv 2604.19835).
//!
//! A [`Recipe`] says how: a [`Selection`] decides how often each expert is copied ([`ReplicationPlan`]), by a
//! [`Utility`] where it needs one; an [`ExpertInit`] what the weights of replicas are; a [`RouterExtension`] what the
//! router does with them; an [`OptimizerPolicy`] what happens to Adam's moments. [`Upcycle::apply`] transforms the
//! records of a model and its optimizer, [`verify`] says what that changed. [`ExpertInit::grow`],
//! [`RouterExtension::extend`] and the plan know nothing of models: they work on slices.

mod apply;
mod centroids;
mod check;
mod dense;
mod error;
mod evidence;
mod experts;
mod optimizer;
mod plan;
mod recipe;
mod record;
mod router;
mod selection;
mod tie_break;
mod utility;
mod verify;

pub use apply::{Choice, Source, Upcycle, Upcycled};
pub use dense::DenseSource;
pub use error::OperatorError;
pub use evidence::{Evidence, ExpertUse, LayerEvidence, Norms, RoutedTokens};
pub use experts::{ExpertInit, ExpertMatrices, Initialization, rms};
pub use optimizer::OptimizerPolicy;
pub use plan::{LayerPlan, ReplicationPlan};
pub use recipe::Recipe;
pub use router::{ReleaseRecipe, RouterExtension, RouterRows, Rows, TieBreakKind};
pub use selection::Selection;
pub use utility::{Measurement, Projections, Score, Utility};
pub use verify::{LayerVerification, Verification, verify};
