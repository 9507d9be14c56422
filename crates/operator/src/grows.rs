//! What a growth makes more of.

use serde::{Deserialize, Serialize};

use crate::{
    check::{Fault, that},
    error::OperatorError,
    experts::ExpertInit,
    optimizer::OptimizerPolicy,
    recipe::Recipe,
    router::RouterExtension,
    selection::Selection,
};

/// What a growth makes m times as much of, where m is [`Upcycle::target_experts`](crate::Upcycle::target_experts) over the
/// experts before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grows {
    /// Experts. A token takes as many as before (the paper).
    #[default]
    Experts,
    /// Experts, and the experts of a token, K. Of evenly copied experts a token then takes all copies of those that it took
    /// before, so with gates that sum to 1 nothing changes; but for groups of experts that are as strong as their two best, of
    /// which then both may be the same.
    ExpertsAndTopK,
    /// The hidden width of every expert, whose number stays. Every neuron is copied, and the down projections of all copies
    /// are divided by their number, so nothing changes.
    Width,
}

impl Grows {
    /// Whether it is the paper's way, which files need not name.
    pub(crate) fn is_experts(&self) -> bool {
        *self == Self::Experts
    }

    /// Experts, experts of a token and hidden width of an expert, `[E, K, F]`, after a growth to `target` experts, or, where
    /// their width grows, to the parameters of as many.
    ///
    /// # Errors
    /// If the factor would not lead to a whole number.
    pub fn shape(self, [e, k, f]: [usize; 3], target: usize) -> Result<[usize; 3], OperatorError> {
        let times = |what: &str, size: usize| {
            let grown = size.checked_mul(target).filter(|it| it.is_multiple_of(e));
            grown.map(|it| it / e).ok_or_else(|| {
                OperatorError::GrownModel(format!(
                    "{what} grows from {size} as {e} experts do to {target}, which is not to a whole number; choose a multiple of {e}"
                ))
            })
        };
        match self {
            Self::Experts => Ok([target, k, f]),
            Self::ExpertsAndTopK => Ok([target, times("top-K", k)?, f]),
            Self::Width => Ok([e, k, times("the width of experts", f)?]),
        }
    }

    /// Checks that a recipe's other fields go with what it grows.
    pub(crate) fn validate(self, recipe: &Recipe) -> Result<(), Fault> {
        if self == Self::Experts {
            return Ok(());
        }
        that(
            recipe.dense.is_none(),
            "grows",
            "must be `experts` in a recipe with a `dense` section, which makes the first experts",
        )?;
        that(
            matches!(recipe.selection, Selection::Uniform {}),
            "selection.kind",
            "must be `uniform`: copies are chosen or run together, and there have to be equally many of each",
        )?;
        that(
            matches!(recipe.router, RouterExtension::Copy {}),
            "router.kind",
            "must be `copy`: copies are chosen or run together, so that there is nothing to tell apart",
        )?;
        that(
            self == Self::ExpertsAndTopK || recipe.experts == ExpertInit::Copy {},
            "experts.kind",
            "must be `copy` where the width of experts grows",
        )?;
        let alike = recipe.experts == ExpertInit::Copy {};
        that(
            !alike || recipe.optimizer == OptimizerPolicy::ResetNew {},
            "optimizer.kind",
            "must be `reset-new`: copies that run together get the same gradients, and part only by other moments",
        )
    }
}
