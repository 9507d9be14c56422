//! A scale: the shape of a model and how long and fast it is trained.

use serde::{Deserialize, Serialize};
use upcycle_lm::LmConfig;
use upcycle_moe::BalancingConfig;
use upcycle_train::OptimizerConfig;

/// The shape of a model before upcycling, and its training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Name in reports.
    pub name: String,
    /// The model. A vocabulary of 0 is that of the data.
    pub model: LmConfig,
    /// Its training.
    pub training: TrainingScale,
    /// AdamW and clipping.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Load balancing.
    #[serde(default)]
    pub balancing: BalancingConfig,
}

/// How long and fast a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingScale {
    /// Steps of pre-training, tau.
    pub pretrain_steps: u64,
    /// Sequences of a forward pass.
    pub rows: usize,
    /// Forward passes of a step.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Highest learning rate.
    pub peak_lr: f64,
    /// Steps of warmup.
    pub warmup_steps: u64,
    /// Steps between evaluations.
    pub evaluation_steps: u64,
    /// Validation sequences.
    pub evaluation_rows: usize,
}

fn one() -> usize {
    1
}

impl Scale {
    /// Tokens of a training step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.training.rows * self.training.accumulation * self.model.context) as u64
    }

    /// Shortens (or lengthens) pre-training to about `tokens` tokens, and warmup and evaluation with it.
    pub fn with_pretrain_tokens(mut self, tokens: u64) -> Self {
        // A shape without tokens is refused elsewhere.
        let steps = (tokens / self.tokens_per_step().max(1)).max(1);
        let training = &mut self.training;
        let scaled = |value: u64| {
            let scaled = value as f64 * steps as f64 / training.pretrain_steps.max(1) as f64;
            (scaled.round() as u64).max(1)
        };
        (training.warmup_steps, training.evaluation_steps) = (
            scaled(training.warmup_steps).min(training.warmup_steps),
            scaled(training.evaluation_steps),
        );
        training.pretrain_steps = steps;
        self
    }
}
