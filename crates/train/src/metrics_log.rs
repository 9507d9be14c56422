//! What a stage writes of its numbers while it runs.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use upcycle_files::FileError;

use crate::{
    error::TrainError,
    metrics::{MetricsLine, read_metrics},
    tensorboard::EventFile,
};

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::metrics::LayerRouting;

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
        MetricsLog::resume(dir.path(), 1, true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), older);
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
        // The metrics and one event file, however often it was interrupted.
        let entries = fs::read_dir(dir.path()).unwrap();
        let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
        assert_eq!(sizes.filter(|&size| size > 0).count(), 2);
    }
}
