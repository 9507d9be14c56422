//! What can be wrong with a recipe or its inputs.

use thiserror::Error;
use upcycle_team::TeamError;

/// An upcycling that cannot be done; nothing has been changed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum OperatorError {
    /// The target is not larger than the source.
    #[error("target of {target} experts: must be above the model's {experts}")]
    TargetNotAbove {
        /// Experts asked for.
        target: usize,
        /// Experts of the model.
        experts: usize,
    },
    /// The model has no experts.
    #[error(
        "the model has no MoE layer, so there is no expert to copy; a recipe with a `[dense]` section makes experts of its feed-forward layers (`Upcycle::grow_dense`)"
    )]
    NoMoeLayer,
    /// MoE layers of different sizes.
    #[error(
        "MoE layer {layer} has {found} experts and layer 0 has {experts}; one target cannot be that of both"
    )]
    UnequalLayers {
        /// The layer, from 0.
        layer: usize,
        /// Its experts.
        found: usize,
        /// Experts of the first layer.
        experts: usize,
    },
    /// A dense model and a target that its recipe cannot reach.
    #[error("a dense model cannot become this MoE model: {0}")]
    Dense(String),
    /// Groups of experts that would not be equal.
    #[error(
        "target of {target} experts: the router chooses among {groups} groups, which must stay equal; choose a multiple of {groups}"
    )]
    UnevenGroups {
        /// Experts asked for.
        target: usize,
        /// Groups.
        groups: usize,
    },
    /// Experts that devices cannot share evenly.
    #[error(
        "target of {target} experts: {members} devices hold equally many experts of every layer; choose a multiple of {members}, or another number of devices for the experts"
    )]
    UnevenBlocks {
        /// Experts asked for.
        target: usize,
        /// Devices that hold the experts of a layer.
        members: usize,
    },
    /// Another device of the team failed.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// What is wrong with one group of experts.
    #[error("group {group} of the experts: {source}")]
    InGroup {
        /// The group, from 0.
        group: usize,
        /// What is wrong.
        source: Box<OperatorError>,
    },
    /// Greedy selection cannot reach the target.
    #[error(
        "recipe field `selection.cap` = {cap}: {experts} experts with at most {cap} extra copies each give no more than {most}, the target is {target}; raise the cap or lower the target"
    )]
    CapTooSmall {
        /// Extra copies an expert.
        cap: usize,
        /// Experts of the model.
        experts: usize,
        /// Experts that the cap allows.
        most: usize,
        /// Experts asked for.
        target: usize,
    },
    /// A recipe needs what was not measured.
    #[error("recipe `{recipe}` needs {what}, which were not given; {fix}")]
    MissingEvidence {
        /// Name of the recipe.
        recipe: String,
        /// What is missing.
        what: &'static str,
        /// How to get it.
        fix: &'static str,
    },
    /// Evidence of another model.
    #[error("{what}: found {found}, the model has {expected}")]
    EvidenceMismatch {
        /// What does not fit.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What the model has.
        expected: usize,
    },
    /// A score is not a number, or negative.
    #[error(
        "utility of expert {expert} in MoE layer {layer} is {score}, it must be a number of at least 0; has the model diverged?"
    )]
    BadScore {
        /// MoE layer, from 0.
        layer: usize,
        /// Expert, from 0.
        expert: usize,
        /// Its score.
        score: f64,
    },
    /// Nothing to choose by.
    #[error(
        "the utility of every expert in MoE layer {layer} is 0, so copies cannot be shared out by it; use the selection `uniform`"
    )]
    AllScoresZero {
        /// MoE layer, from 0.
        layer: usize,
    },
    /// A model with two-level selection and a recipe without.
    #[error(
        "the model has two-level selection, which the router extension of recipe `{recipe}` would break; use `router.kind = \"two-level\"`, or release it first by training with a recipe that has `router.release`"
    )]
    TwoLevelModel {
        /// Name of the recipe.
        recipe: String,
    },
    /// A release that is under way.
    #[error(
        "the model's two-level selection is being released until step {until}; train it to there before it is grown again"
    )]
    ReleaseUnderWay {
        /// The step.
        until: u64,
    },
    /// A release that would last no step.
    #[error(
        "recipe field `router.release.over`: its share of the {step} steps before the operator is not one step; raise it, or train the model first"
    )]
    ReleaseWithoutSteps {
        /// Steps that the model was trained for.
        step: u64,
    },
    /// A grown model that cannot be built.
    #[error("the grown model cannot be built: {0}")]
    GrownModel(String),
    /// Parts of a model disagree.
    #[error("the model's parts do not fit each other: {0}")]
    ModelMismatch(String),
    /// The optimizer's record lacks a parameter or has another shape for it.
    #[error(
        "the optimizer's record does not fit the model: {0}; use a recipe with `optimizer.kind = \"reset\"`"
    )]
    OptimizerMismatch(String),
    /// No recipe of a name.
    #[error("there is no recipe `{name}`; known are {known}")]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// Names of those there are.
        known: String,
    },
    /// A text that is no recipe.
    #[error("{0}")]
    RecipeFile(String),
    /// A field of the recipe has an impossible value.
    #[error("recipe field `{field}`: {problem}")]
    Recipe {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}
