//! What can be wrong with a checkpoint or with what is asked of it.

use std::path::PathBuf;

use thiserror::Error;
use upcycle_files::FileError;
use upcycle_operator::OperatorError;

/// Something that cannot be done; no checkpoint is then left under the final name.
#[derive(Debug, Error)]
pub enum HfError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A tensor is not what it should be.
    #[error("{path}: tensor `{tensor}` {problem}")]
    Tensor {
        /// The file that it is in, or should be.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The operator refuses.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// Writing was told to end.
    #[error("stopped; {folder} keeps what is copied, and `--resume` goes on with it")]
    Interrupted {
        /// What is there of the new checkpoint.
        folder: PathBuf,
    },
    /// What was asked for is impossible.
    #[error("{0}")]
    Impossible(String),
}

impl HfError {
    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
