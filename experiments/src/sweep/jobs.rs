//! The jobs of a sweep on a Slurm cluster.

use std::{path::Path, thread};

use anyhow::{Context, Result};
use upcycle_lab::{Jobs, Queue, Slurm};

use super::plan_file::PlanFile;
use crate::{backend::BackendKind, output};

/// Cores of a job that computes on a GPU.
const CORES_BESIDE_GPU: usize = 4;

/// Slurm for the sweep in a folder.
pub fn slurm(folder: &Path, file: &PlanFile, args: &[String]) -> Result<Slurm> {
    Ok(Slurm {
        program: std::env::current_exe().context("where is this program?")?,
        folder: folder.to_owned(),
        name: format!("upcycle-{}", file.sweep.name),
        cores: match file.backend {
            BackendKind::Cuda | BackendKind::Wgpu => CORES_BESIDE_GPU,
            _ => thread::available_parallelism().map_or(1, usize::from),
        },
        gpus: match file.backend {
            BackendKind::Cuda | BackendKind::Wgpu => file.devices.get(),
            _ => 0,
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
