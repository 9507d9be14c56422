//! `metrics.jsonl`: one JSON object a line.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use upcycle_files::FileError;
use upcycle_moe::RoutingStats;

use crate::{error::TrainError, evaluate::Twins, tensorboard::EventFile};

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

    fn is_evaluation(&self) -> bool {
        matches!(self, Self::Evaluation { .. })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Appends to a metrics file and, beside it, to an event file of the same numbers.
pub(crate) struct MetricsLog {
    path: PathBuf,
    pending: String,
    events: Option<EventFile>,
    /// Step of the last evaluation.
    evaluated: Option<u64>,
}

impl MetricsLog {
    /// Goes on with the file in the folder `dir` after `step`: later lines, of a run that was interrupted, are dropped. The
    /// event file, if there is to be one, is written anew from the lines that stay.
    pub fn resume(dir: &Path, step: u64, with_events: bool) -> Result<Self, TrainError> {
        let path = dir.join("metrics.jsonl");
        let mut kept = read_metrics(&path)?;
        kept.retain(|line| line.step() <= step);
        let text: String = kept.iter().map(to_line).collect();
        upcycle_files::write(&path, text.as_bytes())?;
        let events = match with_events {
            true => Some(EventFile::begin(dir, &kept)?),
            false => None,
        };
        let evaluation = kept.iter().rfind(|line| line.is_evaluation());
        Ok(Self {
            path,
            pending: String::new(),
            events,
            evaluated: evaluation.map(MetricsLine::step),
        })
    }

    /// Adds a line, kept in memory until the next [`flush`](Self::flush). A run that was cut between its last evaluation and
    /// its end evaluates the same step once more; that is left out.
    pub fn push(&mut self, line: &MetricsLine) {
        if line.is_evaluation() && self.evaluated.replace(line.step()) == Some(line.step()) {
            return;
        }
        self.pending.push_str(&to_line(line));
        if let Some(events) = &mut self.events {
            events.push(line);
        }
    }

    /// Writes what is pending.
    pub fn flush(&mut self) -> Result<(), TrainError> {
        OpenOptions::new()
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(self.pending.as_bytes()))
            .map_err(FileError::of("write", &self.path))?;
        self.pending.clear();
        self.events.as_mut().map_or(Ok(()), EventFile::flush)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn step(step: u64) -> MetricsLine {
        MetricsLine::Step {
            step,
            tokens: 512 * step,
            loss: 2.5,
            gradient_norm: 0.5,
            lr: 1e-3,
            seconds: 0.25,
            tokens_per_second: Some(2048.0),
            time: Some(1.5),
        }
    }

    fn evaluation(step: u64) -> MetricsLine {
        MetricsLine::Evaluation {
            step,
            tokens: 512 * step,
            loss: 2.25,
            twins: None,
            lr: Some(1e-3),
            gradient_norm: Some(0.5),
            tokens_per_second: Some(2048.0),
            routing: vec![LayerRouting {
                max_violation: 0.5,
                dead_experts: 1,
                entropy: 0.75,
                twin_coselection: 0.0,
            }],
            time: Some(1.75),
        }
    }

    #[test]
    fn lines_of_older_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let older = concat!(
            r#"{"kind":"step","step":1,"tokens":512,"loss":2.5,"gradient_norm":0.5,"lr":0.001,"seconds":0.25}"#,
            "\n",
            r#"{"kind":"evaluation","step":1,"tokens":512,"loss":2.25,"twins":{"cosine":0.5,"coselection":0.25}}"#,
            "\n",
        );
        fs::write(&path, older).unwrap();
        let lines = read_metrics(&path).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.time().is_none()));
        let written: String = lines.iter().map(to_line).collect();
        assert_eq!(written, older);
    }

    #[test]
    fn a_resumed_log_has_every_step_and_evaluation_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::resume(dir.path(), 0, true).unwrap();
        let whole = [step(1), step(2), evaluation(2), step(3), evaluation(3)];
        whole.iter().for_each(|line| log.push(line));
        log.flush().unwrap();
        // A checkpoint of step 2 was the last, then one of the end whose result was not written.
        for (checkpoint, lines) in [(2, &whole[3..]), (3, &whole[4..])] {
            let mut log = MetricsLog::resume(dir.path(), checkpoint, true).unwrap();
            lines.iter().for_each(|line| log.push(line));
            log.flush().unwrap();
            let read = read_metrics(&dir.path().join("metrics.jsonl")).unwrap();
            assert_eq!(read, whole);
        }
        // The metrics and one event file, whatever was interrupted.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
