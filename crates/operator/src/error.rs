//! What can be wrong with a recipe or its inputs.

use thiserror::Error;

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
    #[error("the model has no MoE layer, so there is no expert to copy")]
    NoMoeLayer,
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
    /// A score is not a number.
    #[error(
        "utility of expert {expert} in MoE layer {layer} is not finite; the model has probably diverged"
    )]
    ScoreNotFinite {
        /// MoE layer, from 0.
        layer: usize,
        /// Expert, from 0.
        expert: usize,
    },
    /// A model that has been upcycled with two-level selection already.
    #[error(
        "the model already has two-level selection, which cannot be grown again; start from the checkpoint before it was upcycled and ask for the larger target at once"
    )]
    AlreadyTwoLevel,
    /// Model record and configuration disagree.
    #[error("the model's record does not fit its configuration: {0}")]
    RecordMismatch(String),
    /// The optimizer's record lacks a parameter or has another shape for it.
    #[error(
        "the optimizer's record does not fit the model: {0}; use a recipe with `optimizer = \"reset\"`"
    )]
    OptimizerMismatch(String),
    /// A field of the recipe has an impossible value.
    #[error("recipe field `{field}`: {problem}")]
    Recipe {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}
