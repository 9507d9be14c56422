//! What a stage is told, and what it tells.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_kernels::Kernels;
use upcycle_lm::{GenerateConfig, LmConfig, WeightSource};
use upcycle_moe::ExpertSources;
use upcycle_operator::{Deviation, ReplicationPlan, Verification};

use crate::{
    config::{PassConfig, TrainSpec, UpcycleSpec},
    evaluate::Evaluation,
};

/// Where a stage starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// A new model.
    Initial {
        /// Its shape.
        model: Box<LmConfig>,
        /// Seed of its parameters.
        seed: u64,
    },
    /// The checkpoint in this folder.
    Checkpoint(PathBuf),
    /// A model that was trained elsewhere; its optimizer starts anew.
    Weights(Arc<dyn WeightSource>),
}

/// A training stage.
pub struct TrainJob<'a> {
    /// How.
    pub spec: &'a TrainSpec,
    /// From where.
    pub start: &'a Start,
    /// Folder for metrics and checkpoints.
    pub dir: &'a Path,
    /// On what.
    pub data: &'a Dataset,
    /// Whether the data may be other than what the model was trained on so far.
    pub other_data: bool,
    /// How activations share memory.
    pub passes: PassConfig,
    /// Whether TensorBoard's event file is kept beside `metrics.jsonl`.
    pub event_file: bool,
    /// Time between checkpoints; the end of the stage is always kept.
    pub checkpoint_interval: Duration,
    /// Ends the stage before its next step or checkpoint when it becomes true; nothing is written any more.
    pub cancelled: &'a AtomicBool,
    /// Ends the stage before its next step, with a checkpoint, when it becomes true.
    pub stop: &'a AtomicBool,
}

/// What a stage tells while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainEvent {
    /// The stage goes on from its own checkpoint.
    Resumed {
        /// Steps done before.
        step: u64,
    },
    /// The stage goes on with more micro-batches than before, since there is less memory: the order of sums is another.
    Recut {
        /// Parts of a batch now.
        micro_batches: usize,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Training loss in nats.
        loss: f64,
        /// Tokens of the step.
        tokens: u64,
        /// Seconds of the step.
        seconds: f64,
    },
    /// An evaluation is done.
    Evaluated {
        /// Steps done.
        step: u64,
        /// Validation loss in nats.
        loss: f64,
    },
}

/// Result of a training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Steps done since the model was new.
    pub step: u64,
    /// Tokens seen since the model was new.
    pub tokens: u64,
    /// Validation at the end.
    pub evaluation: Evaluation,
    /// Loss on the test split at the end, nats a token; none where the stage was not to be tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// Seconds spent in training steps, over all attempts.
    pub train_seconds: f64,
    /// What computed the products of experts in the last attempt; older results do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
}

/// An upcycling stage.
pub struct UpcycleJob<'a> {
    /// How.
    pub spec: &'a UpcycleSpec,
    /// The checkpoint to grow.
    pub from: &'a Path,
    /// Folder of the new checkpoint, which must not exist; none to write nothing and only see what it would be like.
    pub to: Option<&'a Path>,
    /// Data for evidence and losses.
    pub data: &'a Dataset,
    /// Ends the stage, with nothing written, when it becomes true.
    pub stop: &'a AtomicBool,
}

/// Result of an upcycling stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpcycleOutcome {
    /// Steps done before the operator (tau).
    pub step: u64,
    /// Tokens seen before the operator.
    pub tokens: u64,
    /// Validation right before.
    pub before: Evaluation,
    /// Validation right after, before any training.
    pub after: Evaluation,
    /// What was copied.
    pub plan: ReplicationPlan,
    /// Utility of every expert of every MoE layer; empty for selections without scores.
    pub scores: Vec<Vec<f64>>,
    /// What did not go as the recipe says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<Deviation>,
    /// What computed the products of experts; older results do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
    /// Logits and sources before and after, on some of the validation tokens.
    pub verification: Verification,
}

/// A text to continue.
pub struct GenerateJob<'a> {
    /// The model.
    pub model: &'a Start,
    /// Tokens of the text.
    pub prompt: &'a [u32],
    /// How it is continued.
    pub config: &'a GenerateConfig,
}

/// Two models to compare.
pub struct CompareJob<'a> {
    /// The model before growing.
    pub before: &'a dyn WeightSource,
    /// The model after.
    pub after: &'a dyn WeightSource,
    /// Where the experts of each MoE layer come from.
    pub sources: &'a [ExpertSources],
    /// Data whose validation split is taken; random tokens without.
    pub data: Option<&'a Dataset>,
    /// Tokens of a sequence.
    pub context: usize,
    /// Sequences.
    pub rows: usize,
}
