//! A sweep as jobs of a Slurm cluster: submitted, followed, submitted again where a job was lost.

use std::{collections::BTreeSet, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail};
use upcycle_lab::{Estimate, Jobs, Queue, Slurm, Store, SweepPlan};

use super::{
    plan_file::PlanFile,
    status::{State, Status},
};
use crate::{backend::BackendKind, output};

/// Time between two looks at store and queue.
const POLL: Duration = Duration::from_secs(2);
/// A job that leaves the queue may be seen before its result, on a shared file system.
const LOOKS_WITHOUT_JOB: usize = 5;
/// Submissions of a stage before something must be wrong with it.
const ATTEMPTS: u32 = 3;

/// Slurm for the sweep in a folder.
pub fn slurm(folder: &Path, file: &PlanFile, args: &[String]) -> Result<Slurm> {
    Ok(Slurm {
        program: std::env::current_exe().context("where is this program?")?,
        folder: folder.to_owned(),
        name: format!("upcycle-{}", file.sweep.name),
        cores: thread::available_parallelism().map_or(1, usize::from),
        gpus: match file.backend {
            BackendKind::Cuda | BackendKind::Wgpu => file.devices,
            _ => 0,
        },
        args: args.to_vec(),
    })
}

/// Jobs and queue of a sweep that was submitted; none of others.
pub fn jobs(folder: &Path, file: &PlanFile) -> Result<Option<(Jobs, Queue)>> {
    let slurm = slurm(folder, file, &[])?;
    let jobs = slurm.jobs()?;
    if jobs == Jobs::default() {
        return Ok(None);
    }
    Ok(Some((jobs, slurm.queue()?)))
}

/// Submits what is left of a sweep.
pub fn submit(slurm: &Slurm, plan: &SweepPlan, estimate: &Estimate, store: &Store) -> Result<()> {
    let submitted = slurm.submit(&plan.graph, estimate, store)?;
    if !submitted.is_empty() {
        output::note!("submitted {}", output::plural(submitted.len(), "job"));
    }
    Ok(())
}

/// Waits until all stages are finished; submits those again that were lost.
pub fn follow(slurm: &Slurm, plan: &SweepPlan, estimate: &Estimate, store: &Store) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut lost_looks = 0;
    loop {
        let jobs = slurm.jobs()?;
        let cluster = (jobs, slurm.queue()?);
        let status = Status::of(plan, store, Some(&cluster))?;
        let all = status.stages.len();
        for stage in &status.stages {
            if stage.state == State::Finished && told.insert(stage.key.clone()) {
                output::note!("[{}/{all}] {}", told.len(), stage.label);
            }
        }
        if status.finished == all {
            return Ok(());
        }
        let lost = status
            .stages
            .iter()
            .filter(|stage| stage.state == State::Lost);
        let lost: Vec<_> = lost.collect();
        lost_looks = if lost.is_empty() { 0 } else { lost_looks + 1 };
        if lost_looks >= LOOKS_WITHOUT_JOB {
            lost_looks = 0;
            for stage in &lost {
                let Some(job) = cluster.0.of(&stage.key) else {
                    continue;
                };
                // Stages that wait for a lost one are gone with it, and nothing is wrong with them.
                let parent = plan
                    .graph
                    .get(&stage.key)
                    .and_then(|stage| stage.parent.as_ref());
                let orphan =
                    parent.is_some_and(|parent| !matches!(store.result(parent), Ok(Some(_))));
                if job.attempts >= ATTEMPTS && !orphan {
                    bail!(
                        "stage {} was lost {ATTEMPTS} times; see {}. Start the sweep again to try it once more",
                        stage.label,
                        slurm.log(job).display()
                    );
                }
                output::note!("lost      {} (job {})", stage.label, job.id);
            }
            submit(slurm, plan, estimate, store)?;
        }
        thread::sleep(POLL);
    }
}
