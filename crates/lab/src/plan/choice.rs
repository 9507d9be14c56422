//! Which recipe a budget is grown by.

use upcycle_lm::LmConfig;
use upcycle_moe::ScoreFunction;
use upcycle_operator::Recipe;

use super::times::{Budget, Times};
use crate::{error::LabError, presets};

/// A recipe of a sweep, or several of which each budget takes one.
pub(super) struct Choice {
    /// Name in the results.
    pub(super) name: String,
    /// Recipes by the budgets from which on they are taken, ascending.
    by_steps: Vec<(Least, Recipe)>,
}

/// Steps at the stable learning rate from which on a recipe is taken, by the scores of the router.
#[derive(Clone, Copy)]
struct Least {
    sigmoid: u64,
    softmax: u64,
}

/// What `auto` is made of. Replicas that are let go before they have parted cost more than the rest of a short budget makes up
/// for, with softmax scores less than with sigmoids, and a boost pays once it has ended and some more steps are left
/// (docs/results.md, "Which recipe for which budget").
const AUTO: [(Least, &str); 3] = [
    (
        Least {
            sigmoid: 0,
            softmax: 0,
        },
        "exact",
    ),
    (
        Least {
            sigmoid: 750,
            softmax: 250,
        },
        "short-release",
    ),
    (
        Least {
            sigmoid: 1300,
            softmax: 1300,
        },
        "boosted-release",
    ),
];

impl Least {
    fn of(self, score: ScoreFunction) -> u64 {
        match score {
            ScoreFunction::Sigmoid => self.sigmoid,
            ScoreFunction::Softmax | ScoreFunction::TopKSoftmax => self.softmax,
        }
    }
}

/// A recipe of a file must not have the name of a built-in one that it is not.
fn check_own_name(value: &str, recipe: &Recipe) -> Result<(), LabError> {
    let name = &recipe.name;
    let is_other = presets::recipe(name).is_ok_and(|built_in| built_in != *recipe);
    if value == name || !is_other && name != presets::AUTO {
        return Ok(());
    }
    let problem = format!(
        "{value} has the name `{name}` of a built-in recipe, and is another one; give the file a `name` of its own"
    );
    Err(LabError::Sweep {
        field: "recipes",
        problem,
    })
}

impl Choice {
    /// The recipe with a name, or in the TOML file of a path; or `auto`.
    pub(super) fn named(name: &str) -> Result<Self, LabError> {
        if name != presets::AUTO {
            let recipe = presets::recipe(name)?;
            check_own_name(name, &recipe)?;
            return Ok(Self {
                name: recipe.name.clone(),
                by_steps: vec![(AUTO[0].0, recipe)],
            });
        }
        let recipes = AUTO.map(|(steps, name)| Ok((steps, presets::recipe(name)?)));
        Ok(Self {
            name: name.to_owned(),
            by_steps: recipes.into_iter().collect::<Result<_, LabError>>()?,
        })
    }

    /// Each recipe with its budgets, for a model of this shape; none without a budget.
    pub(super) fn by_budget<'a>(
        &'a self,
        times: &'a Times,
        model: &LmConfig,
    ) -> Vec<(&'a Recipe, Vec<&'a Budget>)> {
        // With K = 1 a copy is exact, and the separation loss does harm before replicas have parted.
        let recipes = match model.top_k {
            1 => &self.by_steps[..1],
            _ => &self.by_steps,
        };
        let place = |budget: &Budget| {
            let stable = budget.decay_from - times.tau;
            recipes
                .iter()
                .rposition(|(least, _)| least.of(model.score) <= stable)
        };
        let parts = recipes.iter().enumerate().map(|(index, (_, recipe))| {
            let own = |budget: &&Budget| place(budget) == Some(index);
            (recipe, times.budgets.iter().filter(own).collect())
        });
        parts
            .filter(|(_, budgets): &(_, Vec<_>)| !budgets.is_empty())
            .collect()
    }
}
