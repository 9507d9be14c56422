//! What a sweep found out, for people: a self-contained HTML page, a CSV file, a table for the terminal, figures.

mod claims;
mod comparisons;
mod cost_tables;
mod csv;
mod files;
mod findings;
mod loss_tables;
mod markup;
mod page;
mod paper;
mod published;
mod routing_tables;
mod terminal;

use std::io;
use std::path::{Path, PathBuf};

pub use csv::csv;
pub use terminal::table;

use crate::plot::{PlotError, figures};
use crate::results::Results;

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
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The report as one HTML page that needs nothing else: figures and styles are inside.
///
/// # Errors
///
/// When a figure cannot be drawn.
pub fn html(results: &Results) -> Result<String, ReportError> {
    Ok(page::page(results, &figures(results)?))
}

/// Writes `report.html`, `results.csv`, `results.json` and `figures/*.svg` and `*.png` into a folder, which is made
/// if it is not there, and returns the path of the page. Each file is written beside its place and renamed, so that a
/// reader never sees half of one.
///
/// # Errors
///
/// When a figure cannot be drawn or a file not be written; the error names the file.
pub fn write(results: &Results, dir: &Path) -> Result<PathBuf, ReportError> {
    files::write(results, dir)
}
