//! The operator on the records of a model and its optimizer.

use burn::{
    module::{Param, ParamId},
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend};
use upcycle_lm::{FeedForwardRecord, LmConfig, LmRecord, TwoLevel};
use upcycle_moe::{ExpertSources, MoeLayerRecord, TieBreakRecord};

use crate::{
    error::OperatorError,
    evidence::{Evidence, RoutedTokens},
    optimizer,
    plan::{LayerPlan, ReplicationPlan},
    recipe::{OptimizerPolicy, Recipe, RouterExtension, TieBreakKind},
    tie_break::Directions,
};

/// The operator `U_m`: a recipe, a target and a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Upcycle {
    /// Every choice.
    pub recipe: Recipe,
    /// Experts a layer afterwards, mE.
    pub target_experts: usize,
    /// Source of all randomness.
    pub seed: u64,
}

/// A grown model, as records.
pub struct Upcycled<B: MoeAutodiffBackend> {
    /// Its configuration.
    pub config: LmConfig,
    /// Its parameters.
    pub model: LmRecord<B>,
    /// The state of its optimizer.
    pub optimizer: AdamWRecord<B>,
    /// What was copied.
    pub plan: ReplicationPlan,
}

impl Upcycle {
    /// Decides which experts are copied.
    ///
    /// # Errors
    /// If the target cannot be reached, or the recipe needs evidence that is missing or of another model.
    pub fn plan(
        &self,
        config: &LmConfig,
        evidence: &Evidence,
    ) -> Result<ReplicationPlan, OperatorError> {
        self.recipe.validate()?;
        let moe_layers = config.moe_layers();
        if moe_layers == 0 {
            return Err(OperatorError::NoMoeLayer);
        }
        let scores = if self.recipe.needs_gradients() {
            let scores = self.require(
                evidence.gradient_squared.as_deref(),
                "squared gradient norms of all experts",
                "average gradients over some batches of the continued-pre-training split first",
            )?;
            check_layers("layers with utility scores", scores.len(), moe_layers)?;
            check_finite(scores)?;
            scores
        } else {
            &[]
        };
        let layers = (0..moe_layers)
            .map(|layer| {
                let scores = scores.get(layer).map_or(&[][..], Vec::as_slice);
                self.recipe
                    .selection
                    .counts(
                        config.experts,
                        self.target_experts,
                        scores,
                        self.layer_seed(layer, "selection"),
                    )
                    .map(|counts| LayerPlan::from_counts(&counts))
            })
            .collect::<Result<_, _>>()?;
        Ok(ReplicationPlan { layers })
    }

    /// Grows a model and the state of its optimizer. Every tensor that is not an expert's or a router's is kept as
    /// it is.
    ///
    /// # Errors
    /// If the recipe cannot be carried out or the records do not belong to `config`.
    pub fn apply<B: MoeAutodiffBackend>(
        &self,
        config: &LmConfig,
        mut model: LmRecord<B>,
        mut optimizer: AdamWRecord<B>,
        evidence: &Evidence,
        device: &B::Device,
    ) -> Result<Upcycled<B>, OperatorError> {
        if config.two_level.is_some() {
            return Err(OperatorError::AlreadyTwoLevel);
        }
        let plan = self.plan(config, evidence)?;
        if self.recipe.optimizer == OptimizerPolicy::Reset {
            optimizer.clear();
        }
        let tokens = if self.recipe.needs_routed_tokens() {
            let tokens = self.require(
                evidence.routed_tokens.as_deref(),
                "tokens with their experts",
                "run the model over some batches of the continued-pre-training split first",
            )?;
            check_layers("layers with routed tokens", tokens.len(), plan.layers.len())?;
            tokens
        } else {
            &[]
        };

        let mut records = model
            .blocks
            .iter_mut()
            .filter_map(|block| match &mut block.ffn {
                FeedForwardRecord::Moe(moe) => Some(moe),
                FeedForwardRecord::Dense(_) => None,
            });
        for (index, layer) in plan.layers.iter().enumerate() {
            let record = records.next().ok_or_else(|| {
                OperatorError::RecordMismatch(format!("it has {index} MoE layers, not more"))
            })?;
            let found = record.experts.gate_edf.dims()[0];
            if found != config.experts {
                return Err(OperatorError::RecordMismatch(format!(
                    "MoE layer {index} has {found} experts, not {}",
                    config.experts
                )));
            }
            self.grow_layer(record, &mut optimizer, index, layer, device)?;
            let directions = self.directions(index, layer, tokens.get(index), config.d_model);
            record.router.tie_break =
                directions.map(|directions| tie_break_record(directions, config.d_model, device));
        }

        let mut grown = config.clone();
        grown.experts = self.target_experts;
        if let RouterExtension::TwoLevel { strength, .. } = self.recipe.router {
            let identity = ExpertSources::identity(config.experts);
            let sources = plan
                .layers
                .iter()
                .filter_map(|layer| layer.lineage(&identity));
            grown.two_level = Some(TwoLevel {
                sources: sources.collect(),
                strength,
            });
        }
        grown
            .validate()
            .map_err(|error| OperatorError::RecordMismatch(error.to_string()))?;
        Ok(Upcycled {
            config: grown,
            model,
            optimizer,
            plan,
        })
    }

    /// Experts, router rows and biases of one layer, and their moments.
    fn grow_layer<B: MoeAutodiffBackend>(
        &self,
        record: &mut MoeLayerRecord<B>,
        optimizer: &mut AdamWRecord<B>,
        index: usize,
        plan: &LayerPlan,
        device: &B::Device,
    ) -> Result<(), OperatorError> {
        let indices: Vec<i32> = plan
            .source_of()
            .iter()
            .map(|&source| source as i32)
            .collect();
        let source_of = Tensor::<B::InnerBackend, 1, Int>::from_data(
            TensorData::new(indices, [plan.source_of().len()]),
            device,
        );
        let experts = &mut record.experts;
        for weight in [
            &mut experts.gate_edf,
            &mut experts.up_edf,
            &mut experts.down_efd,
        ] {
            self.grow_parameter(weight, optimizer, &source_of)?;
        }
        let router = &mut record.router;
        self.grow_parameter(&mut router.weight_ed, optimizer, &source_of)?;

        let noise = self.bias_noise::<B::InnerBackend>(index, plan, device);
        replace(&mut router.selection_bias_e, |bias| {
            let bias = bias.select(0, source_of);
            match noise {
                Some(noise) => bias + noise,
                None => bias,
            }
        });
        Ok(())
    }

    /// Selects a trained parameter and, where they are kept, its moments along the expert axis.
    fn grow_parameter<B: MoeAutodiffBackend, const D: usize>(
        &self,
        parameter: &mut Param<Tensor<B, D>>,
        optimizer: &mut AdamWRecord<B>,
        source_of: &Tensor<B::InnerBackend, 1, Int>,
    ) -> Result<(), OperatorError> {
        // An optimizer that has taken no step yet has nothing to copy.
        if self.recipe.optimizer == OptimizerPolicy::Copy && !optimizer.is_empty() {
            optimizer::grow::<B, D>(optimizer, parameter.id, parameter.dims(), source_of.clone())?;
        }
        replace(parameter, |weight| weight.select(0, source_of.clone()));
        Ok(())
    }

    /// Noise on the selection biases of new replicas; none if the recipe has none.
    fn bias_noise<B: Backend>(
        &self,
        layer: usize,
        plan: &LayerPlan,
        device: &B::Device,
    ) -> Option<Tensor<B, 1>> {
        let RouterExtension::BiasNoise { half_width } = self.recipe.router else {
            return None;
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.layer_seed(layer, "noise"));
        let noise: Vec<f32> = (0..plan.source_of().len())
            .map(|expert| {
                if plan.is_replica(expert) && half_width > 0.0 {
                    rng.random_range(-half_width..half_width)
                } else {
                    0.0
                }
            })
            .collect();
        Some(Tensor::from_floats(noise.as_slice(), device))
    }

    /// The tie-break of one layer; none if the recipe has none.
    fn directions(
        &self,
        layer: usize,
        plan: &LayerPlan,
        tokens: Option<&RoutedTokens>,
        d: usize,
    ) -> Option<Directions> {
        let RouterExtension::TwoLevel { tie_break, .. } = self.recipe.router else {
            return None;
        };
        let seed = self.layer_seed(layer, "tie-break");
        Some(match (tie_break, tokens) {
            (TieBreakKind::Centroids, Some(tokens)) => Directions::centroids(plan, tokens, d, seed),
            _ => Directions::random(plan, d, seed),
        })
    }

    /// A seed of its own for each layer and purpose.
    fn layer_seed(&self, layer: usize, purpose: &str) -> u64 {
        let purpose = purpose.bytes().fold(0_u64, |hash, byte| {
            hash.wrapping_mul(131).wrapping_add(byte.into())
        });
        self.seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(purpose)
            .wrapping_add((layer as u64) << 40)
    }

    fn require<'a, T: ?Sized>(
        &self,
        evidence: Option<&'a T>,
        what: &'static str,
        fix: &'static str,
    ) -> Result<&'a T, OperatorError> {
        evidence.ok_or_else(|| OperatorError::MissingEvidence {
            recipe: self.recipe.name.clone(),
            what,
            fix,
        })
    }
}

/// Replaces a parameter's value, keeping its id and whether it is trained.
///
/// The new value is made on the inner backend and tracked afresh: Burn rejects a parameter that is not a leaf, and
/// silently freezes one that is not tracked.
fn replace<B: MoeAutodiffBackend, const D: usize>(
    parameter: &mut Param<Tensor<B, D>>,
    change: impl FnOnce(Tensor<B::InnerBackend, D>) -> Tensor<B::InnerBackend, D>,
) {
    let trained = parameter.is_require_grad();
    let value = Tensor::from_inner(change(parameter.val().inner()));
    let value = if trained { value.require_grad() } else { value };
    *parameter = Param::initialized(parameter.id, value);
}

fn tie_break_record<B: Backend>(
    directions: Directions,
    d: usize,
    device: &B::Device,
) -> TieBreakRecord<B> {
    let experts = directions.offset.len();
    let state = |values: Vec<f32>| Tensor::<B, 1>::from_floats(values.as_slice(), device);
    TieBreakRecord {
        direction_ed: Param::initialized(
            ParamId::new(),
            state(directions.direction).reshape([experts, d]),
        ),
        offset_e: Param::initialized(ParamId::new(), state(directions.offset)),
        replica_bias_e: Param::initialized(ParamId::new(), Tensor::zeros([experts], device)),
    }
}

fn check_layers(what: &'static str, found: usize, expected: usize) -> Result<(), OperatorError> {
    if found == expected {
        Ok(())
    } else {
        Err(OperatorError::EvidenceMismatch {
            what,
            found,
            expected,
        })
    }
}

fn check_finite(scores: &[Vec<f64>]) -> Result<(), OperatorError> {
    for (layer, scores) in scores.iter().enumerate() {
        if let Some(expert) = scores.iter().position(|score| !score.is_finite()) {
            return Err(OperatorError::ScoreNotFinite { layer, expert });
        }
    }
    Ok(())
}
