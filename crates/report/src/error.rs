//! What can go wrong with a report.

use std::path::PathBuf;

use upcycle_files::FileError;

use crate::plot::PlotError;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A figure could not be drawn.
    #[error("cannot draw the figures of the report")]
    Plot(#[from] PlotError),
    /// A PNG could not be made.
    #[error("cannot make {}", path.display())]
    Png {
        /// The file that was to be written.
        path: PathBuf,
        /// Why not.
        source: PlotError,
    },
    /// The results do not fit into JSON.
    #[error("cannot write the results as JSON to {}", path.display())]
    Json {
        /// The file that was to be written.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file of rows is not what it should be.
    #[error("{0}")]
    Rows(String),
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
}
