//! `metrics.jsonl`: one JSON object a line.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use upcycle_files::FileError;

use crate::{error::TrainError, evaluate::Twins};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MetricsLine {
    /// A training step.
    Step {
        /// Steps done.
        step: u64,
        /// Tokens seen.
        tokens: u64,
        /// Mean training loss in nats.
        loss: f64,
        /// Global gradient norm before clipping.
        gradient_norm: f64,
        /// Learning rate.
        lr: f64,
        /// Seconds of the step.
        seconds: f64,
    },
    /// An evaluation.
    Evaluation {
        /// Steps done.
        step: u64,
        /// Tokens seen.
        tokens: u64,
        /// Mean validation loss in nats.
        loss: f64,
        /// How alike replicas are, in a model that was grown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        twins: Option<Twins>,
    },
}

impl MetricsLine {
    /// Steps done when the line was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step { step, .. } | Self::Evaluation { step, .. } => *step,
        }
    }
}

/// Appends to a metrics file.
pub(crate) struct MetricsLog {
    path: PathBuf,
    pending: String,
}

impl MetricsLog {
    /// Goes on with the file at `path` after `step`: later lines, of a run that was interrupted, are dropped.
    pub fn resume(path: &Path, step: u64) -> Result<Self, TrainError> {
        let kept: String = read_metrics(path)?
            .iter()
            .filter(|line| line.step() <= step)
            .map(to_line)
            .collect();
        upcycle_files::write(path, kept.as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            pending: String::new(),
        })
    }

    /// Adds a line, kept in memory until the next [`flush`](Self::flush).
    pub fn push(&mut self, line: &MetricsLine) {
        self.pending.push_str(&to_line(line));
    }

    /// Writes what is pending.
    pub fn flush(&mut self) -> Result<(), TrainError> {
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(self.pending.as_bytes()))
            .map_err(FileError::of("write", &self.path))?;
        self.pending.clear();
        Ok(())
    }
}

fn to_line(line: &MetricsLine) -> String {
    // Numbers and field names always serialise.
    serde_json::to_string(line).unwrap_or_default() + "\n"
}

/// Lines of a metrics file; a last line cut off by a kill is left out. Empty if there is no file.
///
/// # Errors
/// If the file cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<MetricsLine>, TrainError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(FileError::of("read", path))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}
