//! `sweep status`: how far a sweep is, from the folder that its processes share.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use upcycle_lab::{Jobs, Queue, Stage, StageKey, Store, SweepPlan};

use super::{jobs, plan_file::Started, tasks};
use crate::{output, ui::Ui};

/// Show how far a sweep is that was started here, on other machines, or on a cluster.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The sweep's folder.
    #[arg(default_value = "runs/quick")]
    folder: PathBuf,
    /// Show it again every few seconds until the sweep is finished.
    #[arg(long)]
    watch: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Time between two looks.
const POLL: Duration = Duration::from_secs(5);

impl StatusArgs {
    pub fn run(&self) -> Result<()> {
        let started = Started::open(&self.folder, Ui::fitting())?;
        loop {
            let jobs = jobs::jobs(&self.folder, &started.file)?;
            let scores = &started.file.scores;
            let status = Status::of(&started.plan, &started.store, scores, jobs.as_ref())?;
            if self.json {
                output::line(serde_json::to_string_pretty(&status)?)?;
            } else {
                status.print()?;
            }
            if !self.watch || status.finished == status.stages.len() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }
}

/// How far all stages are.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Finished stages.
    pub finished: usize,
    /// All stages, parents first.
    pub stages: Vec<StageStatus>,
}

/// How far one stage is.
#[derive(Debug, Serialize)]
pub struct StageStatus {
    /// Content address.
    pub key: StageKey,
    /// For people.
    pub label: String,
    /// First and last step.
    pub from: u64,
    /// Step after the last.
    pub to: u64,
    /// What is going on.
    #[serde(flatten)]
    pub state: State,
    /// Job of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// State of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Its result is there with all scores, and no stage waits for it.
    Finished,
    /// A process computes it.
    Running {
        /// Machine.
        host: String,
        /// Process.
        pid: u32,
        /// Steps done since the model was new.
        step: u64,
        /// Seconds since the last sign.
        silent_seconds: u64,
    },
    /// The cluster will run it, begins to, or has its model scored.
    Queued {
        /// The cluster's word.
        queue: String,
    },
    /// It was submitted or begun, and nobody computes it any more.
    Lost,
    /// Nobody has begun it.
    Waiting,
}

impl Status {
    /// Looks at the store, which is to have `scores` of final models, and at the queue of a cluster.
    pub fn of(
        plan: &SweepPlan,
        store: &Store,
        scores: &[String],
        cluster: Option<&(Jobs, Queue)>,
    ) -> Result<Self> {
        let left = tasks::left(plan, store, scores);
        let mut stages = Vec::new();
        for stage in plan.graph.stages() {
            let is_left = left.contains(&stage.key);
            let job = cluster.and_then(|(jobs, _)| jobs.of(&stage.key));
            let queued = job.and_then(|job| cluster?.1.get(job));
            stages.push(StageStatus {
                key: stage.key.clone(),
                label: stage.label.clone(),
                from: stage.from,
                to: stage.to,
                state: match store.result(&stage.key)? {
                    Some(_) if !is_left => State::Finished,
                    _ => state(stage, store, job.is_some(), queued),
                },
                job: job.map(str::to_owned),
            });
        }
        let finished = stages.iter().filter(|stage| stage.state == State::Finished);
        Ok(Self {
            finished: finished.count(),
            stages,
        })
    }

    fn print(&self) -> Result<()> {
        let count = |wanted: fn(&State) -> bool| {
            let stages = self.stages.iter().filter(|stage| wanted(&stage.state));
            stages.count()
        };
        output::line(format!(
            "{} of {} stages finished, {} running, {} queued, {} lost, {} waiting",
            self.finished,
            self.stages.len(),
            count(|state| matches!(state, State::Running { .. })),
            count(|state| matches!(state, State::Queued { .. })),
            count(|state| *state == State::Lost),
            count(|state| *state == State::Waiting),
        ))?;
        for stage in &self.stages {
            let told = match &stage.state {
                State::Finished | State::Waiting => continue,
                State::Running {
                    host,
                    pid,
                    step,
                    silent_seconds,
                } => format!(
                    "step {} of {}  on {host}, process {pid}, {silent_seconds} s ago",
                    step.max(&stage.from),
                    stage.to
                ),
                State::Queued { queue } => queue.to_lowercase(),
                State::Lost => "lost; start the sweep again to go on".to_owned(),
            };
            let job = stage
                .job
                .as_ref()
                .map_or(String::new(), |job| format!("  job {job}"));
            output::line(format!("  {}  {}  {told}{job}", stage.key, stage.label))?;
        }
        Ok(())
    }
}

/// The state of a stage that is not finished.
fn state(stage: &Stage, store: &Store, submitted: bool, queued: Option<&String>) -> State {
    if let Some((claim, silent)) = store.claimant(&stage.key) {
        return State::Running {
            host: claim.host,
            pid: claim.pid,
            step: claim.step,
            silent_seconds: silent.as_secs(),
        };
    }
    match queued {
        Some(queue) => State::Queued {
            queue: queue.clone(),
        },
        None if submitted || store.was_begun(&stage.key) => State::Lost,
        None => State::Waiting,
    }
}
