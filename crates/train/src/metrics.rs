//! `metrics.jsonl`: one JSON object a line.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use upcycle_files::FileError;
use upcycle_moe::RoutingStats;

use crate::{error::TrainError, evaluate::Twins};

/// One line of `metrics.jsonl`. What older versions did not write is none.
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
        /// Tokens of the step over its seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
        /// When it was done, in seconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<f64>,
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
        /// Learning rate of the step before; none where this process has taken none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lr: Option<f64>,
        /// Global gradient norm before clipping of the step before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gradient_norm: Option<f64>,
        /// Tokens a second of the steps since the evaluation before, without evaluations and checkpoints.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
        /// Routing of the validation tokens in every MoE layer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        routing: Vec<LayerRouting>,
        /// When it was done, in seconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<f64>,
    },
}

/// [`RoutingStats`] of one MoE layer without the load of each expert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerRouting {
    /// Largest load over the mean load, less 1.
    pub max_violation: f64,
    /// Experts without a token.
    pub dead_experts: usize,
    /// Entropy of the load over `ln E`: 1 when even.
    pub entropy: f64,
    /// Share of tokens with two replicas of one source among their experts.
    pub twin_coselection: f64,
}

impl From<&RoutingStats> for LayerRouting {
    fn from(stats: &RoutingStats) -> Self {
        Self {
            max_violation: stats.max_violation,
            dead_experts: stats.dead_experts,
            entropy: stats.normalized_entropy,
            twin_coselection: stats.twin_coselection,
        }
    }
}

impl MetricsLine {
    /// Steps done when the line was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step { step, .. } | Self::Evaluation { step, .. } => *step,
        }
    }

    /// Tokens seen when the line was written.
    pub fn tokens(&self) -> u64 {
        match self {
            Self::Step { tokens, .. } | Self::Evaluation { tokens, .. } => *tokens,
        }
    }

    /// When the line was written, in seconds since 1970; none in files of older versions.
    pub fn time(&self) -> Option<f64> {
        match self {
            Self::Step { time, .. } | Self::Evaluation { time, .. } => *time,
        }
    }

    pub(crate) fn is_evaluation(&self) -> bool {
        matches!(self, Self::Evaluation { .. })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
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
