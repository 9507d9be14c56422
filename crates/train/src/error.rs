//! What can go wrong in a stage.

use std::path::{Path, PathBuf};

use thiserror::Error;
use upcycle_data::DataError;
use upcycle_lm::ConfigError;
use upcycle_operator::OperatorError;

/// A stage that did not finish.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Reading or writing failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
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
        "{what} is not finite at step {step}; {kept}. A lower `peak_lr` or a longer `warmup_steps` usually helps"
    )]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// The step, from 0.
        step: u64,
        /// Where the last good checkpoint is.
        kept: String,
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
    /// The operator cannot be applied.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The stage was told to end.
    #[error("the stage was cancelled; its last checkpoint is kept")]
    Cancelled,
    /// Precision that the device does not have.
    #[error("the device has no bfloat16 arithmetic; use `precision = \"f32\"`")]
    NoBf16,
}

impl TrainError {
    /// For `map_err` on I/O results.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
