//! Which recipe a budget is grown by.

use upcycle_operator::Recipe;

use super::times::{Budget, Times};
use crate::{error::LabError, presets};

/// A recipe of a sweep.
pub(super) enum Choice {
    /// The same for all budgets.
    Always(Recipe),
    /// The one that suits the budget, which a plan knows.
    Auto {
        /// For budgets that leave replicas no time to part.
        short: Recipe,
        /// For all others.
        long: Recipe,
    },
}

/// Steps at the stable learning rate after the operator from which on a release pays: with fewer, replicas that are let go have
/// not parted when the decay begins (docs/results.md).
const LONG: u64 = 1000;

impl Choice {
    /// The recipe with a name, or in the TOML file of a path.
    pub(super) fn named(name: &str) -> Result<Self, LabError> {
        Ok(match name == presets::AUTO.name {
            true => Self::Auto {
                short: presets::recipe("exact")?,
                long: presets::recipe("short-release")?,
            },
            false => Self::Always(presets::recipe(name)?),
        })
    }

    /// Name in the results.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Always(recipe) => &recipe.name,
            Self::Auto { .. } => presets::AUTO.name,
        }
    }

    /// Each recipe with its budgets, for a model of so many experts a token; none without a budget.
    pub(super) fn by_budget<'a>(
        &'a self,
        times: &'a Times,
        top_k: usize,
    ) -> Vec<(&'a Recipe, Vec<&'a Budget>)> {
        // With K = 1 a copy is exact, and the separation loss does harm before replicas have parted.
        let is_long = |budget: &&Budget| top_k > 1 && budget.decay_from - times.tau >= LONG;
        let parts = match self {
            Self::Always(recipe) => vec![(recipe, times.budgets.iter().collect())],
            Self::Auto { short, long } => {
                let (longer, shorter): (Vec<_>, Vec<_>) = times.budgets.iter().partition(is_long);
                vec![(short, shorter), (long, longer)]
            }
        };
        let used = |(_, budgets): &(_, Vec<_>)| !budgets.is_empty();
        parts.into_iter().filter(used).collect()
    }
}
