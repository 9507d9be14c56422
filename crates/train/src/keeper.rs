//! What is kept of a stage while it runs.

use std::time::{Duration, Instant};

use upcycle_kernels::MoeAutodiffBackend;

use crate::{
    checkpoint::{Checkpoint, StageCheckpoints},
    crew::Crew,
    error::TrainError,
    job::TrainJob,
    metrics::MetricsLine,
    metrics_log::MetricsLog,
};

/// Training takes at least this many times as long as saving.
const SAVING_SHARE: u32 = 20;

/// The metrics and checkpoints of a stage. The first device writes them, with what the others have of a checkpoint.
pub(crate) struct Keeper<'a> {
    crew: &'a Crew,
    checkpoints: StageCheckpoints,
    /// Of the first device.
    log: Option<MetricsLog>,
    /// When it was saved last, and at which step.
    saved: (Instant, u64),
    least: Duration,
    interval: Duration,
}

impl<'a> Keeper<'a> {
    /// For a stage that goes on after `step`.
    pub fn resume(job: &TrainJob, step: u64, crew: &'a Crew) -> Result<Self, TrainError> {
        let log = match crew.leads() {
            true => Some(MetricsLog::resume(job.dir, step, job.event_file)?),
            false => None,
        };
        Ok(Self {
            crew,
            checkpoints: StageCheckpoints::new(job.dir),
            log,
            saved: (Instant::now(), step),
            least: job.checkpoint_interval,
            interval: job.checkpoint_interval,
        })
    }

    /// Adds a line to the metrics.
    pub fn push(&mut self, line: &MetricsLine) {
        if let Some(log) = &mut self.log {
            log.push(line);
        }
    }

    /// Whether it is time for a checkpoint of a step.
    pub fn is_due(&self, step: u64) -> bool {
        let (at, saved) = self.saved;
        step > saved && at.elapsed() >= self.interval
    }

    /// Writes the metrics so far and a checkpoint. All devices have to.
    pub fn save<B: MoeAutodiffBackend>(
        &mut self,
        checkpoint: &Checkpoint<B>,
    ) -> Result<(), TrainError> {
        let started = Instant::now();
        if let Some(log) = &mut self.log {
            log.flush()?;
        }
        self.checkpoints.save(checkpoint, self.crew)?;
        // Big models are saved less often, so that saving takes a small share of the time.
        self.interval = self.least.max(SAVING_SHARE * started.elapsed());
        self.saved = (Instant::now(), checkpoint.step);
        Ok(())
    }
}
