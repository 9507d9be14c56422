//! What could not be done to a file.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A file or folder that something could not be done to.
#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err` on I/O results.
    pub fn of(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}
