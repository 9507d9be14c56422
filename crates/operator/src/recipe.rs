//! A recipe: every choice of the operator, as it stands in a TOML file.

use serde::{Deserialize, Serialize};

use crate::{
    boost::BoostRecipe,
    check::{Fault, that},
    dense::DenseSource,
    error::OperatorError,
    experts::ExpertInit,
    grows::Grows,
    measurement::Measurement,
    optimizer::OptimizerPolicy,
    router::{RouterExtension, TieBreakKind},
    selection::Selection,
};

/// Every choice of the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name in reports.
    pub name: String,
    /// Whether it is the paper's method, as reports have to say.
    #[serde(default, skip_serializing_if = "is_false")]
    pub of_paper: bool,
    /// What there is more of afterwards.
    #[serde(default, skip_serializing_if = "Grows::is_experts")]
    pub grows: Grows,
    /// Which experts are copied.
    pub selection: Selection,
    /// What the weights of replicas are.
    #[serde(default)]
    pub experts: ExpertInit,
    /// What the router does with replicas.
    pub router: RouterExtension,
    /// What happens to the optimizer's state.
    pub optimizer: OptimizerPolicy,
    /// Higher learning rates for some steps afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boost: Option<BoostRecipe>,
    /// How a dense model becomes a MoE model; other models have no use for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseSource>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Recipe {
    /// Checks the values of all fields.
    ///
    /// # Errors
    /// The first field with an impossible value.
    pub fn validate(&self) -> Result<(), OperatorError> {
        let name_is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = that(
            !self.name.is_empty() && self.name.chars().all(name_is_plain),
            "name",
            "must be letters, digits, `-`, `_` and `.`",
        );
        let dense = self.dense.as_ref().map_or(Ok(()), DenseSource::validate);
        name.and_then(|()| self.selection.validate())
            .and_then(|()| self.experts.validate())
            .and_then(|()| self.router.validate())
            .and_then(|()| self.optimizer.validate())
            .and_then(|()| self.validate_shuffle())
            .and_then(|()| self.boost.map_or(Ok(()), |boost| boost.validate()))
            .and_then(|()| self.grows.validate(self))
            .and(dense)
            .map_err(|(field, problem)| OperatorError::Recipe {
                field,
                problem: problem.into(),
            })
    }

    /// Moments stay where they are when neurons move.
    fn validate_shuffle(&self) -> Result<(), Fault> {
        let moved = matches!(self.experts, ExpertInit::Shuffle { .. });
        let anew = matches!(
            self.optimizer,
            OptimizerPolicy::Reset {} | OptimizerPolicy::ResetNew {}
        );
        that(
            anew || !moved,
            "optimizer.kind",
            "must be `reset` or `reset-new` with shuffled experts, whose moments would be those of other neurons",
        )
    }

    /// Whether replicas get no tokens before balancing has raised their biases.
    pub fn sleeps(&self) -> bool {
        matches!(self.router, RouterExtension::Dormant { .. })
    }

    /// What has to be known of the model.
    pub fn measurements(&self) -> Vec<Measurement> {
        let scores = self.selection.utility().into_iter();
        let mut needed: Vec<_> = scores
            .flat_map(|utility| utility.score.measurements())
            .copied()
            .collect();
        if let RouterExtension::TwoLevel {
            tie_break: TieBreakKind::Centroids,
            ..
        } = self.router
        {
            needed.push(Measurement::RoutedTokens);
        }
        needed
    }

    /// What is to be said when a measurement is missing.
    pub(crate) fn missing(&self, measurement: Measurement) -> OperatorError {
        OperatorError::MissingEvidence {
            recipe: self.name.clone(),
            what: measurement.name(),
            fix: measurement.remedy(),
        }
    }
}
