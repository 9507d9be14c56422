//! What can go wrong in a stage.

use std::path::PathBuf;

use thiserror::Error;
use upcycle_data::DataError;
use upcycle_files::FileError;
use upcycle_lm::{ConfigError, GenerateError};
use upcycle_operator::OperatorError;
use upcycle_team::TeamError;

/// A stage that did not finish.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint that cannot be used.
    #[error("checkpoint {path}: {problem}")]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Parameters from or for elsewhere.
    #[error("{0}")]
    Weights(String),
    /// The loss or the gradients are not finite.
    #[error(
        "{what} is not finite at step {step}; a lower `peak_lr` or a longer `warmup_steps` usually helps"
    )]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// The step, from 0.
        step: u64,
    },
    /// A stage that had to end.
    #[error("{source}. {kept}")]
    Stopped {
        /// Why.
        source: Box<TrainError>,
        /// Where the last good checkpoint is.
        kept: String,
    },
    /// A grown model that cannot be used.
    #[error(
        "the loss right after growing is not finite; the recipe's strengths, scales or noise are too large, or the model was broken before"
    )]
    NotFiniteAfterGrowing,
    /// Growing between the batches of a step.
    #[error("step {step} has batches already; grow before the first, or after its update")]
    GrownInAStep {
        /// The step, from 0.
        step: u64,
    },
    /// Something that should not have happened, in this program or in Burn.
    #[error("it broke off: {0}")]
    Panicked(String),
    /// An update without gradients.
    #[error("step {step} has no batch; accumulate at least one before the update")]
    NothingAccumulated {
        /// The step, from 0.
        step: u64,
    },
    /// Data that the model was not trained on.
    #[error(
        "the model was not trained on the data `{data}`; give the data and tokenizer that it was trained with, or set `other_data` if that is meant"
    )]
    OtherData {
        /// What was given.
        data: String,
    },
    /// The model cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A field of the training configuration has an impossible value.
    #[error("training field `{field}`: {problem}")]
    Spec {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A text cannot be continued.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The operator cannot be applied.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// Devices that cannot train a model together.
    #[error("{0}")]
    Devices(String),
    /// Another device of the training failed or was lost.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// The stage was told to end without another word.
    #[error("the stage was cancelled; its last checkpoint is kept")]
    Cancelled,
    /// The stage was told to end.
    #[error("stopped at step {step}, with a checkpoint; the same command goes on from there")]
    Interrupted {
        /// Steps done.
        step: u64,
    },
    /// A growth was told to end.
    #[error("stopped before anything was written; the same command begins again")]
    InterruptedGrowth,
    /// Precision that the device does not have.
    #[error("the device has no bfloat16 arithmetic; use `precision = \"f32\"`")]
    NoBf16,
}

impl TrainError {
    /// Whether all devices of a training end with this error at once, so that nobody has to be told: it follows from the job,
    /// or from what they have summed or been told.
    pub(crate) fn is_of_all(&self) -> bool {
        match self {
            Self::Spec { .. } | Self::Devices(_) | Self::Config(_) | Self::OtherData { .. } => true,
            Self::NotFinite { .. } | Self::Cancelled | Self::Interrupted { .. } => true,
            Self::Stopped { source, .. } => source.is_of_all(),
            _ => false,
        }
    }
}
