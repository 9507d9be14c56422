//! A sweep as jobs of a Slurm cluster: submitted, followed, submitted again where a job was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use upcycle_lab::{Estimate, Slurm, Stage, StageKey, Store, SweepPlan};
use upcycle_report::number;

use super::{
    status::{State, Status},
    tasks,
};
use crate::output;

/// Time between two looks at store and queue.
const POLL: Duration = Duration::from_secs(5);
/// A job that leaves the queue may be seen before its result, on a shared file system.
const IDLE_LOOKS: usize = 3;
/// Looks in a row at which the queue may not answer.
const SILENT_LOOKS: usize = 20;
/// Times that a stage is submitted again before something must be wrong with it.
const ATTEMPTS: u32 = 3;

/// Submits what is left of a sweep, which is to have `scores` of its final models.
pub fn submit(
    slurm: &Slurm,
    plan: &SweepPlan,
    estimate: &Estimate,
    store: &Store,
    scores: &[String],
) -> Result<()> {
    let left = tasks::left(plan, store, scores);
    let submitted = slurm.submit(&plan.graph, estimate, store, &left, |_| true)?;
    output::note!("submitted {}", number::plural(submitted.len(), "job"));
    Ok(())
}

/// Waits until all stages are finished, with `scores` of the final models; submits those again that were lost.
pub fn follow(
    slurm: &Slurm,
    plan: &SweepPlan,
    estimate: &Estimate,
    store: &Store,
    scores: &[String],
) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut idle: BTreeMap<StageKey, usize> = BTreeMap::new();
    let mut attempts: BTreeMap<StageKey, u32> = BTreeMap::new();
    let mut silent = 0;
    loop {
        let queue = match slurm.queue() {
            Ok(queue) => queue,
            Err(error) if silent < SILENT_LOOKS => {
                silent += 1;
                output::note!("note: {error}; asking again");
                thread::sleep(POLL);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        silent = 0;
        let cluster = (slurm.jobs()?, queue);
        let status = Status::of(plan, store, scores, Some(&cluster))?;
        let all = status.stages.len();
        for stage in &status.stages {
            if stage.state == State::Finished && told.insert(stage.key.clone()) {
                output::note!("[{}/{all}] {}", told.len(), stage.label);
            }
            match stage.state {
                State::Lost | State::Waiting => *idle.entry(stage.key.clone()).or_default() += 1,
                _ => drop(idle.remove(&stage.key)),
            }
        }
        if status.finished == all {
            return Ok(());
        }
        let is_idle = |stage: &Stage| {
            idle.get(&stage.key)
                .is_some_and(|looks| *looks >= IDLE_LOOKS)
        };
        if idle.values().any(|looks| *looks >= IDLE_LOOKS) {
            let missing = store.missing(&plan.graph);
            let left = tasks::left(plan, store, scores);
            for stage in slurm.submit(&plan.graph, estimate, store, &left, is_idle)? {
                let job = cluster.0.of(&stage.key).unwrap_or("none");
                output::note!("lost      {} (job {job}); submitted again", stage.label);
                idle.remove(&stage.key);
                // Stages that wait for a lost one are gone with it, and nothing is wrong with them.
                let parent = stage.parent.as_ref();
                if parent.is_none_or(|parent| !missing.contains(parent)) {
                    let attempts = attempts.entry(stage.key.clone()).or_default();
                    *attempts += 1;
                    if *attempts > ATTEMPTS {
                        let what = match missing.contains(&stage.key) {
                            true => "the job",
                            false => "the score",
                        };
                        bail!(
                            "{what} of stage {} was lost {attempts} times; see {}. Start the sweep again to try it once more",
                            stage.label,
                            slurm.log(job).display()
                        );
                    }
                }
            }
        }
        thread::sleep(POLL);
    }
}
