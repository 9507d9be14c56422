//! The jobs of a sweep on a Slurm cluster.

use std::{num::NonZeroUsize, path::Path};

use anyhow::Result;
use upcycle_lab::{Jobs, Queue, Slurm};

use super::plan_file::PlanFile;
use crate::{output, program, threads};

/// Cores of a job that computes on a GPU.
const CORES_BESIDE_GPU: usize = 4;

/// Slurm for the sweep in a folder.
pub fn slurm(folder: &Path, file: &PlanFile, args: &[String]) -> Result<Slurm> {
    let asked = file.threads.map(NonZeroUsize::get);
    let tasks = file.nodes.tasks().get();
    Ok(Slurm {
        command: program::words("sweep")?,
        folder: folder.to_owned(),
        name: format!("upcycle-{}", file.sweep.name),
        nodes: file.nodes.nodes().get(),
        tasks,
        cores: match file.backend.is_of_gpus() {
            true => asked.unwrap_or(CORES_BESIDE_GPU),
            false => asked.unwrap_or_else(|| (threads::count() / tasks).max(1)),
        },
        gpus: match file.backend.is_of_gpus() {
            // Each process of several has one.
            true => file.devices.devices.get().max(tasks),
            false => 0,
        },
        args: args.to_vec(),
    })
}

/// Jobs and queue of a sweep that was submitted; none of others, and where nobody can be asked.
pub fn jobs(folder: &Path, file: &PlanFile) -> Result<Option<(Jobs, Queue)>> {
    let slurm = slurm(folder, file, &[])?;
    let jobs = slurm.jobs()?;
    if jobs == Jobs::default() {
        return Ok(None);
    }
    match slurm.queue() {
        Ok(queue) => Ok(Some((jobs, queue))),
        Err(error) => {
            output::note!("note: the queue is not known here ({error})");
            Ok(None)
        }
    }
}
