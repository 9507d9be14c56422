//! The operator `U_m`: a recipe, a target, and what is decided before any parameter is touched.

use upcycle_moe::{ExpertSources, Growth, GrowthState, Release, TwoLevel};

use crate::{
    dense::DenseSource,
    error::OperatorError,
    evidence::{Evidence, LayerEvidence},
    grows::Grows,
    layer::LayerGrowth,
    measurement::Measurement,
    plan::{LayerPlan, ReplicationPlan},
    recipe::Recipe,
    router::RouterExtension,
    seed::LayerSeed,
};

/// The operator `U_m`: every choice, and how many experts there are to be.
///
/// [`grow`](Self::grow) transforms a model and its optimizer in memory; [`choose`](Self::choose) and
/// [`layer`](Self::layer) are what it is made of, for other drivers.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcycle {
    /// Every choice.
    pub recipe: Recipe,
    /// Experts a layer afterwards, mE. With a recipe that [grows](crate::Grows) the width of experts, as many of before would
    /// have the parameters of those afterwards.
    pub target_experts: usize,
    /// Source of all randomness.
    pub seed: u64,
    /// Optimizer steps that the model was trained for (tau), which a release of two-level selection counts from.
    pub step: u64,
}

/// Which experts are copied, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The copies.
    pub plan: ReplicationPlan,
    /// Utility of every expert of every MoE layer; empty for selections without scores.
    pub scores: Vec<Vec<f64>>,
}

impl Choice {
    /// The same choice for the shards of dense networks: every network is there as a whole, and none is the original.
    ///
    /// # Errors
    /// If shards of a network would be copied unevenly.
    pub fn of_networks(mut self) -> Result<Self, OperatorError> {
        for plan in &mut self.plan.layers {
            DenseSource::check_counts(&plan.counts())?;
            *plan = plan.clone().without_originals();
        }
        Ok(self)
    }
}

/// Far above any model, far below what overflows.
const MOST_EXPERTS: usize = 1 << 24;

impl Upcycle {
    /// An operator with seed 0 for a model that has taken no step.
    pub fn new(recipe: Recipe, target_experts: usize) -> Self {
        Self {
            recipe,
            target_experts,
            seed: 0,
            step: 0,
        }
    }

    /// The same operator with another seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same operator, applied after `step` optimizer steps.
    #[must_use]
    pub fn at_step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// Checks all that can be said of a model without evidence: the recipe's fields, the target, what its layers know of
    /// earlier growths.
    ///
    /// # Errors
    /// The first thing that cannot be, with what would be right.
    pub fn check(&self, layers: &[GrowthState]) -> Result<(), OperatorError> {
        let experts = self.checked(layers)?;
        let scores = |_| Ok::<_, OperatorError>(vec![1.0; experts]);
        let choice = self.choose(experts, &groups(layers), scores)?;
        self.two_levels(layers, &choice.plan).map(|_| ())
    }

    /// Checks that so many devices can hold the experts of a grown layer, equally many each.
    ///
    /// # Errors
    /// If they cannot, with what would be right.
    pub fn check_members(&self, members: usize) -> Result<(), OperatorError> {
        let target = self.target_experts;
        match self.recipe.grows == Grows::Width || target.is_multiple_of(members) {
            true => Ok(()),
            false => Err(OperatorError::UnevenBlocks { target, members }),
        }
    }

    /// Decides which experts are copied.
    ///
    /// # Errors
    /// If the target cannot be reached, or the recipe needs evidence that is missing or of another model.
    pub fn plan(
        &self,
        layers: &[GrowthState],
        evidence: &Evidence,
    ) -> Result<Choice, OperatorError> {
        let experts = self.checked(layers)?;
        evidence.check(layers.len(), experts)?;
        self.choose(experts, &groups(layers), |layer| {
            let scores = self.scores(evidence.layer(layer), layer, experts);
            scores.map_err(|missing| self.recipe.missing(missing))
        })
    }

    /// Utility of every expert of MoE layer `layer`, of `experts`; empty for selections without scores.
    ///
    /// # Errors
    /// The measurement that is missing.
    pub fn scores(
        &self,
        evidence: &LayerEvidence,
        layer: usize,
        experts: usize,
    ) -> Result<Vec<f64>, Measurement> {
        let Some(utility) = self.recipe.selection.utility() else {
            return Ok(Vec::new());
        };
        let seed = LayerSeed::new(self.seed, experts, layer).of("score");
        utility.scores(evidence, experts, seed)
    }

    /// Decides which experts are copied in a model of so many experts a layer, from the scores of each layer, see
    /// [`Selection::utility`](crate::Selection::utility).
    ///
    /// `groups` has an entry for each MoE layer: the group of every expert, where a token chooses among groups; all are as
    /// large. Every group grows alike by copies of its own.
    ///
    /// # Errors
    /// If the target cannot be reached, with these scores or these groups.
    pub fn choose<E: From<OperatorError>>(
        &self,
        experts: usize,
        groups: &[Option<ExpertSources>],
        scores: impl Fn(usize) -> Result<Vec<f64>, E>,
    ) -> Result<Choice, E> {
        let selection = &self.recipe.selection;
        let layers = groups.len();
        selection.check_layers(layers)?;
        let mut choice = Choice {
            plan: ReplicationPlan { layers: Vec::new() },
            scores: Vec::new(),
        };
        if self.recipe.grows == Grows::Width {
            choice.plan.layers = vec![LayerPlan::from_counts(&vec![1; experts]); layers];
            choice.scores = vec![Vec::new(); layers];
            return Ok(choice);
        }
        for (layer, groups) in groups.iter().enumerate() {
            let scores = scores(layer)?;
            let seed = LayerSeed::new(self.seed, experts, layer).of("selection");
            let target = self.target_experts;
            let counts = match groups {
                None => selection.counts(layer, experts, target, &scores, seed)?,
                Some(of) => selection.counts_in_groups(layer, target, of, &scores, seed)?,
            };
            choice.plan.layers.push(LayerPlan::from_counts(&counts));
            choice.scores.push(scores);
        }
        Ok(choice)
    }

    /// MoE layer `index`, grown by `plan`: what is computed of its parameters.
    pub fn layer<'a>(&'a self, index: usize, plan: &'a LayerPlan) -> LayerGrowth<'a> {
        LayerGrowth {
            recipe: &self.recipe,
            plan,
            index,
            seed: LayerSeed::new(self.seed, plan.experts(), index),
        }
    }

    /// Decides which experts are copied of dense networks cut into `experts` each, in `layers` layers: every network as a
    /// whole, and none is the original.
    pub(crate) fn plan_dense(
        &self,
        layers: usize,
        experts: usize,
    ) -> Result<Choice, OperatorError> {
        self.check_target(experts)?;
        let none = |_| Ok::<_, OperatorError>(Vec::new());
        self.choose(experts, &vec![None; layers], none)?
            .of_networks()
    }

    /// Experts of every layer, once the recipe and the target make sense.
    fn checked(&self, layers: &[GrowthState]) -> Result<usize, OperatorError> {
        self.recipe.validate()?;
        let experts = layers.first().ok_or(OperatorError::NoMoeLayer)?.experts();
        if let Some(index) = layers.iter().position(|layer| layer.experts() != experts) {
            return Err(OperatorError::UnequalLayers {
                layer: index,
                found: layers[index].experts(),
                experts,
            });
        }
        self.check_target(experts)?;
        Ok(experts)
    }

    fn check_target(&self, experts: usize) -> Result<(), OperatorError> {
        let target = self.target_experts;
        if target <= experts {
            return Err(OperatorError::TargetNotAbove { target, experts });
        }
        if target > MOST_EXPERTS {
            let problem = format!("{target} experts are more than {MOST_EXPERTS}");
            return Err(OperatorError::GrownModel(problem));
        }
        Ok(())
    }

    /// Two-level selection of the grown layers: one growth more each, or none.
    pub(crate) fn two_levels(
        &self,
        layers: &[GrowthState],
        plan: &ReplicationPlan,
    ) -> Result<Vec<Option<TwoLevel>>, OperatorError> {
        let layers = layers.iter().zip(&plan.layers);
        layers
            .map(|(layer, plan)| self.two_level(layer.two_level.as_ref(), plan))
            .collect()
    }

    fn two_level(
        &self,
        before: Option<&TwoLevel>,
        plan: &LayerPlan,
    ) -> Result<Option<TwoLevel>, OperatorError> {
        let RouterExtension::TwoLevel {
            strength,
            separation,
            release,
            ..
        } = self.recipe.router
        else {
            return match before {
                Some(_) => Err(OperatorError::TwoLevelModel {
                    recipe: self.recipe.name.clone(),
                }),
                None => Ok(None),
            };
        };
        let mut two_level = before.cloned().unwrap_or_default();
        if let Some(release) = two_level.release {
            let until = release.end();
            return Err(OperatorError::ReleaseUnderWay { until });
        }
        two_level.growths.push(Growth {
            sources: plan.sources().clone(),
            strength,
        });
        two_level.separation = separation;
        if let Some(recipe) = release {
            let step = self.step;
            let steps = recipe.steps_after(step);
            if steps == 0 {
                return Err(OperatorError::ReleaseWithoutSteps { step });
            }
            two_level.release = Some(Release {
                shape: recipe.shape,
                from: step,
                steps,
            });
        }
        Ok(Some(two_level))
    }
}

/// The group of every expert, for each layer; none where there are no groups.
fn groups(layers: &[GrowthState]) -> Vec<Option<ExpertSources>> {
    let groups = layers.iter().map(|layer| layer.groups.as_ref());
    groups.map(|groups| Some(groups?.of.clone())).collect()
}
