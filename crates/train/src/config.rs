//! Specifications of stages: everything that determines their result, and nothing else.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use upcycle_data::Split;
use upcycle_kernels::{AdamW, Precision};
use upcycle_moe::BalancingConfig;
use upcycle_operator::Recipe;

use crate::{error::TrainError, schedule::Schedule};

/// How a model is trained over one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// Learning rate; its end is the end of the stage.
    pub schedule: Schedule,
    /// AdamW and clipping.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Tokens of a step.
    pub batch: BatchConfig,
    /// Which tokens.
    pub data: DataSchedule,
    /// Load balancing.
    #[serde(default)]
    pub balancing: BalancingConfig,
    /// Precision of matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// Validation.
    pub evaluation: EvaluationConfig,
}

/// How a step is computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LearnerConfig {
    /// AdamW and clipping.
    pub optimizer: OptimizerConfig,
    /// Load balancing.
    pub balancing: BalancingConfig,
    /// Precision of matrix products.
    pub precision: Precision,
    /// How activations share memory.
    pub passes: PassConfig,
}

/// How the activations of a batch share memory. Computing them again changes no bit on a CPU, but for the order in which gradients
/// of several losses of the routing are added. Micro-batches change the order of sums; an auxiliary or separation loss, which is
/// made of means over a batch, becomes the mean of those of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassConfig {
    /// Parts of a batch that are computed one after the other; at most one a sequence.
    pub micro_batches: NonZeroUsize,
    /// Whether layers compute their activations again in the backward pass instead of keeping them (activation
    /// checkpointing).
    pub recompute: bool,
}

impl Default for PassConfig {
    fn default() -> Self {
        Self {
            micro_batches: NonZeroUsize::MIN,
            recompute: false,
        }
    }
}

/// AdamW and clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; spares normalisation scales.
    pub weight_decay: f32,
    /// Largest global gradient norm; larger gradients are scaled down to it.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.05,
            clip_norm: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// The optimizer for gradients of this global norm.
    pub fn adamw(&self, gradient_norm: f64) -> AdamW {
        AdamW {
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            gradient_scale: (self.clip_norm / gradient_norm).min(1.0) as f32,
        }
    }
}

/// Tokens of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Sequences of a forward pass.
    pub rows: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Forward passes of a step, whose gradients are averaged.
    #[serde(default = "one")]
    pub accumulation: usize,
}

fn one() -> usize {
    1
}

impl BatchConfig {
    /// Tokens of a step.
    pub fn tokens(&self) -> u64 {
        (self.rows * self.context * self.accumulation) as u64
    }
}

/// Which tokens a step sees: pre-training up to tau, continued pre-training from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSchedule {
    /// First step of continued pre-training (tau); none if the stage ends before it.
    pub cpt_from: Option<u64>,
    /// Seed of the order of the data.
    pub seed: u64,
}

/// Which batches a recipe's measurements are taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureConfig {
    /// Number of batches, of the continued-pre-training split.
    pub batches: usize,
    /// Seed of the order of the data.
    pub data_seed: u64,
    /// Sequences of a batch.
    pub rows: usize,
    /// Tokens of a sequence.
    pub context: usize,
}

impl DataSchedule {
    /// Split and batch index of forward pass `pass` of step `step`.
    pub fn position(&self, step: u64, pass: usize, accumulation: usize) -> (Split, u64) {
        let (split, step) = match self.cpt_from {
            Some(tau) if step >= tau => (Split::Cpt, step - tau),
            _ => (Split::Pretrain, step),
        };
        (split, step * accumulation as u64 + pass as u64)
    }
}

/// Validation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Steps between evaluations; the end of a stage is always evaluated.
    pub every: u64,
    /// Validation sequences, the same for all.
    pub rows: usize,
    /// Sequences of the test split on which the model is evaluated at the end of the stage, once; 0 for no test.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub test_rows: usize,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl TrainSpec {
    /// How a step is computed.
    pub fn learner(&self) -> LearnerConfig {
        LearnerConfig {
            optimizer: self.optimizer.clone(),
            balancing: self.balancing.clone(),
            precision: self.precision,
            passes: PassConfig::default(),
        }
    }

    /// Checks the values of all fields.
    ///
    /// # Errors
    /// The first field with an impossible value.
    pub fn validate(&self) -> Result<(), TrainError> {
        let fail = |field, problem: &str| {
            Err(TrainError::Spec {
                field,
                problem: problem.into(),
            })
        };
        if !(self.schedule.peak_lr.is_finite() && self.schedule.peak_lr > 0.0) {
            return fail("peak_lr", "must be a positive number");
        }
        for (field, value) in [
            ("batch.rows", self.batch.rows),
            ("batch.context", self.batch.context),
            ("batch.accumulation", self.batch.accumulation),
            ("evaluation.rows", self.evaluation.rows),
        ] {
            if value == 0 {
                return fail(field, "must be at least 1");
            }
        }
        if self.evaluation.every == 0 {
            return fail("evaluation.every", "must be at least 1 step");
        }
        for (field, value) in [
            ("optimizer.beta_1", self.optimizer.beta_1),
            ("optimizer.beta_2", self.optimizer.beta_2),
        ] {
            if !(0.0..1.0).contains(&value) {
                return fail(field, "must lie between 0 and 1");
            }
        }
        if !(self.optimizer.epsilon > 0.0 && self.optimizer.weight_decay >= 0.0) {
            return fail(
                "optimizer",
                "epsilon must be positive and weight_decay not negative",
            );
        }
        for (field, value) in [
            ("balancing.bias_rate", self.balancing.bias_rate),
            ("balancing.auxiliary_loss", self.balancing.auxiliary_loss),
            ("balancing.z_loss", self.balancing.z_loss),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return fail(field, "must be a number, and not negative");
            }
        }
        if self.optimizer.clip_norm.is_nan() || self.optimizer.clip_norm <= 0.0 {
            return fail("optimizer.clip_norm", "must be a positive number");
        }
        Ok(())
    }
}

/// How a model is upcycled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpcycleSpec {
    /// Every choice of the operator.
    pub recipe: Recipe,
    /// Experts a layer afterwards.
    pub target_experts: usize,
    /// Seed of the operator.
    pub seed: u64,
    /// Batches of continued pre-training over which gradients are averaged and tokens collected.
    pub evidence_batches: usize,
    /// Seed of the order of the data.
    pub data_seed: u64,
    /// Tokens of a batch.
    pub batch: BatchConfig,
    /// Precision of matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// Validation sequences for the loss before and after.
    pub evaluation_rows: usize,
}
