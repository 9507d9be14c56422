//! The operator on the records of a model and its optimizer.

use burn::{
    module::{Param, ParamId},
    tensor::backend::Backend,
};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend};
use upcycle_lm::{LmConfig, LmRecord, Release, TwoLevel, TwoLevelGrowth};
use upcycle_moe::{ExpertsRecord, Initializer, MoeLayerRecord, TieBreakRecord};

use crate::{
    dense::DenseSource,
    error::OperatorError,
    evidence::{Evidence, LayerEvidence},
    experts::{ExpertInit, ExpertMatrices},
    optimizer::OptimizerPolicy,
    plan::{LayerPlan, ReplicationPlan},
    recipe::Recipe,
    record::{device as on_device, host, moe_layers_mut, replace},
    router::{RouterExtension, RouterRows, TieBreakKind},
    tie_break::Directions,
    utility::Measurement,
};

/// The operator `U_m`: a recipe, a target and a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcycle {
    /// Every choice.
    pub recipe: Recipe,
    /// Experts a layer afterwards, mE.
    pub target_experts: usize,
    /// Source of all randomness; every growth of a model should have its own, or replicas of replicas split as they did.
    pub seed: u64,
}

/// What the operator works on.
pub struct Source<B: MoeAutodiffBackend> {
    /// The model's configuration.
    pub config: LmConfig,
    /// Its parameters.
    pub model: LmRecord<B>,
    /// The state of its optimizer; empty if it has taken no step.
    pub optimizer: AdamWRecord<B>,
    /// Steps that it was trained for (tau).
    pub step: u64,
}

/// A grown model, as records.
pub struct Upcycled<B: MoeAutodiffBackend> {
    /// Its configuration.
    pub config: LmConfig,
    /// Its parameters.
    pub model: LmRecord<B>,
    /// The state of its optimizer.
    pub optimizer: AdamWRecord<B>,
    /// What was copied, and why.
    pub choice: Choice,
}

/// Which experts are copied, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The copies.
    pub plan: ReplicationPlan,
    /// Utility of every expert of every MoE layer; empty for selections without scores.
    pub scores: Vec<Vec<f64>>,
}

impl Upcycle {
    /// Checks all that can be said of a model after `step` steps without evidence: the recipe's fields, the target, the
    /// grown model.
    ///
    /// # Errors
    /// The first thing that cannot be, with what would be right.
    pub fn check(&self, config: &LmConfig, step: u64) -> Result<(), OperatorError> {
        let experts = self.checked_source(config)?.experts;
        let plan = self.plan_by(config, |_| Ok(vec![1.0; experts]))?.plan;
        self.grown(config, &plan, step).map(|_| ())
    }

    /// Decides which experts are copied.
    ///
    /// # Errors
    /// If the target cannot be reached, or the recipe needs evidence that is missing or of another model.
    pub fn plan(&self, config: &LmConfig, evidence: &Evidence) -> Result<Choice, OperatorError> {
        let source = self.checked_source(config)?;
        self.plan_by(config, |layer| match self.recipe.selection.utility() {
            Some(utility) => {
                let evidence = self.layer_evidence(evidence, layer)?;
                let seed = self.layer_seed(layer, "score");
                utility
                    .scores(evidence, source.experts, seed)
                    .map_err(|missing| self.missing(missing))
            }
            None => Ok(Vec::new()),
        })
    }

    fn plan_by(
        &self,
        config: &LmConfig,
        scores: impl Fn(usize) -> Result<Vec<f64>, OperatorError>,
    ) -> Result<Choice, OperatorError> {
        let source = self.sharded(config)?;
        let mut choice = self.choose(source.moe_layers(), source.experts, 1, scores)?;
        if config.moe_layers() == 0 {
            for plan in &mut choice.plan.layers {
                DenseSource::check_counts(&plan.counts())?;
                *plan = plan.clone().without_originals();
            }
        }
        Ok(choice)
    }

    /// Decides which experts are copied in a model of so many MoE layers and experts a layer, from the scores of each
    /// layer, see [`Selection::utility`](crate::Selection::utility).
    ///
    /// With more than one of `groups`, of which each is `experts / groups` consecutive experts, every group grows alike
    /// by copies of its own.
    ///
    /// # Errors
    /// If the target cannot be reached, with these scores or these groups.
    pub fn choose<E: From<OperatorError>>(
        &self,
        layers: usize,
        experts: usize,
        groups: usize,
        scores: impl Fn(usize) -> Result<Vec<f64>, E>,
    ) -> Result<Choice, E> {
        let selection = &self.recipe.selection;
        selection.check_layers(layers)?;
        let mut choice = Choice {
            plan: ReplicationPlan { layers: Vec::new() },
            scores: Vec::new(),
        };
        for layer in 0..layers {
            let scores = scores(layer)?;
            let seed = self.layer_seed(layer, "selection");
            let target = self.target_experts;
            let counts = match groups {
                1 => selection.counts(layer, experts, target, &scores, seed)?,
                _ => selection.counts_in_groups(layer, [experts, target, groups], &scores, seed)?,
            };
            choice.plan.layers.push(LayerPlan::from_counts(&counts));
            choice.scores.push(scores);
        }
        Ok(choice)
    }

    /// Grows a model and the state of its optimizer. Every tensor that is not an expert's or a router's is kept as
    /// it is.
    ///
    /// # Errors
    /// If the recipe cannot be carried out or the records do not belong to the configuration.
    pub fn apply<B: MoeAutodiffBackend>(
        &self,
        source: Source<B>,
        evidence: &Evidence,
        device: &B::Device,
    ) -> Result<Upcycled<B>, OperatorError> {
        let Source {
            config,
            mut model,
            mut optimizer,
            step,
        } = source;
        let choice = self.plan(&config, evidence)?;
        let grown = self.grown(&config, &choice.plan, step)?;
        if matches!(self.recipe.optimizer, OptimizerPolicy::Reset {}) {
            optimizer.clear();
        }
        if config.moe_layers() == 0
            && let Some(dense) = &self.recipe.dense
        {
            dense.cut(&self.sharded(&config)?, &mut model, &mut optimizer, device)?;
        }

        let mut records = moe_layers_mut(&mut model.blocks);
        for (index, layer) in choice.plan.layers.iter().enumerate() {
            let record = records.next().ok_or_else(|| {
                OperatorError::RecordMismatch(format!("it has {index} MoE layers, not more"))
            })?;
            let found = record.experts.gate_edf.dims()[0];
            if found != layer.experts() {
                return Err(OperatorError::RecordMismatch(format!(
                    "MoE layer {index} has {found} experts, not {}",
                    layer.experts()
                )));
            }
            let directions = self.directions(index, layer, evidence, config.d_model)?;
            let seed = |purpose| self.layer_seed(index, purpose);
            self.grow_experts(
                &mut record.experts,
                &mut optimizer,
                layer,
                seed("experts"),
                device,
            )?;
            self.grow_router(record, &mut optimizer, layer, seed("noise"), device)?;
            if let Some(directions) = directions {
                let tie_break = tie_break_record(directions, config.d_model, device);
                record.router.tie_breaks.push(tie_break);
            }
        }

        if records.next().is_some() {
            return Err(OperatorError::RecordMismatch(format!(
                "it has more MoE layers than {}",
                choice.plan.layers.len()
            )));
        }

        drop(records);
        Ok(Upcycled {
            config: grown,
            model,
            optimizer,
            choice,
        })
    }

    /// The shape of the grown model, but for its two-level selection.
    ///
    /// # Errors
    /// If a dense model cannot become it.
    pub fn shape(&self, config: &LmConfig) -> Result<LmConfig, OperatorError> {
        let mut grown = self.sharded(config)?;
        grown.experts = self.target_experts;
        grown.two_level = None;
        Ok(grown)
    }

    /// The configuration of the grown model.
    fn grown(
        &self,
        config: &LmConfig,
        plan: &ReplicationPlan,
        step: u64,
    ) -> Result<LmConfig, OperatorError> {
        let mut grown = self.shape(config)?;
        grown.two_level = self.two_level(config, plan, step)?;
        grown
            .validate()
            .map_err(|error| OperatorError::GrownModel(error.to_string()))?;
        Ok(grown)
    }

    /// The configuration that is grown, once the recipe and the target make sense.
    fn checked_source(&self, config: &LmConfig) -> Result<LmConfig, OperatorError> {
        self.recipe.validate()?;
        if config.moe_layers() == 0 && self.recipe.dense.is_some() {
            DenseSource::check(&self.recipe)?;
        }
        let source = self.sharded(config)?;
        let (target, experts) = (self.target_experts, source.experts);
        if target <= experts {
            return Err(OperatorError::TargetNotAbove { target, experts });
        }
        // A target beyond all models is better said before copies are shared out.
        self.shape(config)?
            .validate()
            .map_err(|error| OperatorError::GrownModel(error.to_string()))?;
        Ok(source)
    }

    /// The configuration that is grown: the model's own, or that of a dense model with its networks cut into experts.
    fn sharded(&self, config: &LmConfig) -> Result<LmConfig, OperatorError> {
        if config.moe_layers() > 0 {
            return Ok(config.clone());
        }
        let dense = self
            .recipe
            .dense
            .as_ref()
            .ok_or(OperatorError::NoMoeLayer)?;
        dense.config(config, self.target_experts)
    }

    /// Two-level selection of the grown model: one growth more, or none.
    fn two_level(
        &self,
        config: &LmConfig,
        plan: &ReplicationPlan,
        step: u64,
    ) -> Result<Option<TwoLevel>, OperatorError> {
        let before = config.two_level.clone();
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
        let mut two_level = before.unwrap_or_default();
        if let Some(release) = two_level.release {
            return Err(OperatorError::ReleaseUnderWay {
                until: release.from + release.steps,
            });
        }
        two_level.growths.push(TwoLevelGrowth {
            sources: plan
                .layers
                .iter()
                .map(|layer| layer.sources().clone())
                .collect(),
            strength,
        });
        two_level.separation = separation;
        if let Some(recipe) = release {
            let steps = (recipe.over * step as f64).round() as u64;
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

    /// Experts of one layer, and their moments.
    fn grow_experts<B: MoeAutodiffBackend>(
        &self,
        record: &mut ExpertsRecord<B>,
        optimizer: &mut AdamWRecord<B>,
        plan: &LayerPlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<(), OperatorError> {
        let weights = [
            &mut record.gate_edf,
            &mut record.up_edf,
            &mut record.down_efd,
        ];
        let before = weights.each_ref().map(|weight| weight.val().inner());
        let [_, d, f] = before[0].dims();
        let after = if self.recipe.experts == (ExpertInit::Copy {}) {
            let source_of = plan.sources().source_of_tensor(device);
            before
                .clone()
                .map(|weight| weight.select(0, source_of.clone()))
        } else {
            let [gate, up, down] = before.clone().map(host);
            let matrices = ExpertMatrices {
                gate: &gate,
                up: &up,
                down: &down,
                d,
                f,
            };
            let experts = plan.source_of().len();
            let [gate, up, down] = self.recipe.experts.grow(matrices, plan, seed);
            [
                on_device(gate, [experts, d, f], device),
                on_device(up, [experts, d, f], device),
                on_device(down, [experts, f, d], device),
            ]
        };
        for ((weight, before), after) in weights.into_iter().zip(before).zip(after) {
            let policy = &self.recipe.optimizer;
            policy.grow(optimizer, weight.id, &before, &after, plan)?;
            replace(weight, after);
        }
        Ok(())
    }

    /// Router rows and biases of one layer, and the rows' moments.
    fn grow_router<B: MoeAutodiffBackend>(
        &self,
        record: &mut MoeLayerRecord<B>,
        optimizer: &mut AdamWRecord<B>,
        plan: &LayerPlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<(), OperatorError> {
        let router = &mut record.router;
        let before = router.weight_ed.val().inner();
        let [_, d] = before.dims();
        let rows = RouterRows {
            weight: host(before.clone()),
            bias: host(router.selection_bias_e.val()),
            d,
            // A norm without or with a young scale.
            input_rms: 1.0,
        };
        let grown = self.recipe.router.extend(&rows, plan, seed);
        let experts = plan.source_of().len();
        let after = on_device(grown.weight, [experts, d], device);
        let policy = &self.recipe.optimizer;
        policy.grow(optimizer, router.weight_ed.id, &before, &after, plan)?;
        replace(&mut router.weight_ed, after);
        let bias = on_device(grown.bias, [experts], device);
        replace(&mut router.selection_bias_e, bias);
        Ok(())
    }

    /// The tie-break of one layer; none if the recipe has none.
    fn directions(
        &self,
        layer: usize,
        plan: &LayerPlan,
        evidence: &Evidence,
        d: usize,
    ) -> Result<Option<Directions>, OperatorError> {
        let RouterExtension::TwoLevel { tie_break, .. } = self.recipe.router else {
            return Ok(None);
        };
        let seed = self.layer_seed(layer, "tie-break");
        Ok(Some(match tie_break {
            TieBreakKind::Random => Directions::random(plan, d, seed),
            TieBreakKind::Centroids => {
                let evidence = self.layer_evidence(evidence, layer)?;
                let tokens = evidence.tokens.as_ref();
                let tokens = tokens.ok_or_else(|| self.missing(Measurement::RoutedTokens))?;
                Directions::centroids(plan, tokens, d, seed)
            }
        }))
    }

    /// A seed of its own for each layer and purpose.
    pub fn layer_seed(&self, layer: usize, purpose: &str) -> u64 {
        let purpose = purpose.bytes().fold(0_u64, |hash, byte| {
            hash.wrapping_mul(131).wrapping_add(byte.into())
        });
        self.seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(purpose)
            .wrapping_add((layer as u64) << 40)
    }

    fn layer_evidence<'a>(
        &self,
        evidence: &'a Evidence,
        layer: usize,
    ) -> Result<&'a LayerEvidence, OperatorError> {
        static NOTHING: LayerEvidence = LayerEvidence::NOTHING;
        if evidence.layers.is_empty() {
            return Ok(&NOTHING);
        }
        evidence
            .layers
            .get(layer)
            .ok_or(OperatorError::EvidenceMismatch {
                what: "MoE layers with evidence",
                found: evidence.layers.len(),
                expected: layer + 1,
            })
    }

    fn missing(&self, measurement: Measurement) -> OperatorError {
        OperatorError::MissingEvidence {
            recipe: self.recipe.name.clone(),
            what: measurement.name(),
            fix: measurement.remedy(),
        }
    }
}

fn tie_break_record<B: Backend>(
    directions: Directions,
    d: usize,
    device: &B::Device,
) -> TieBreakRecord<B> {
    let experts = directions.offset.len();
    let direction_ed = on_device(directions.direction, [experts, d], device);
    let offset_e = on_device(directions.offset, [experts], device);
    TieBreakRecord {
        direction_ed: Param::initialized(ParamId::new(), direction_ed),
        offset_e: Param::initialized(ParamId::new(), offset_e),
        replica_bias_e: Initializer::state([experts], device),
    }
}
