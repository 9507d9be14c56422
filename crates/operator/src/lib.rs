//! Expert upcycling: grow a Mixture-of-Experts model from E to more experts a layer at the same top-K
//! (*Expert Upcycling*, arXiv 2604.19835).
//!
//! A [`Recipe`] says how: a [`Selection`] decides how often each expert is copied ([`ReplicationPlan`]), a
//! [`RouterExtension`] what the router does with the replicas, an [`OptimizerPolicy`] what happens to Adam's moments.
//! [`Upcycle::apply`] transforms the records of a model and its optimizer.

mod apply;
mod centroids;
mod error;
mod evidence;
mod optimizer;
mod plan;
mod recipe;
mod selection;
mod tie_break;

pub use apply::{Upcycle, Upcycled};
pub use error::OperatorError;
pub use evidence::{Evidence, RoutedTokens, gradient_squared};
pub use plan::{LayerPlan, ReplicationPlan};
pub use recipe::{OptimizerPolicy, Recipe, RouterExtension, TieBreakKind};
pub use selection::Selection;
