//! The checkpoints of a stage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use upcycle_files::remove_folder;
use upcycle_kernels::MoeAutodiffBackend;

use super::Checkpoint;
use crate::{crew::Crew, error::TrainError};

/// The checkpoints of one stage: folders named by step, of which the newest is kept.
#[derive(Debug, Clone)]
pub struct StageCheckpoints {
    dir: PathBuf,
}

impl StageCheckpoints {
    /// The checkpoints of the stage in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("checkpoints"),
        }
    }

    /// The newest checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        self.latest_step().map(|step| self.path(step))
    }

    /// The step of the newest checkpoint.
    pub fn latest_step(&self) -> Option<u64> {
        self.steps().pop()
    }

    /// Writes what the devices of a crew have as one checkpoint, then removes older ones and what a killed run left
    /// half-written. All devices have to.
    ///
    /// # Errors
    /// If it cannot be written; older ones are then kept.
    pub(crate) fn save<B: MoeAutodiffBackend>(
        &self,
        checkpoint: &Checkpoint<B>,
        crew: &Crew,
    ) -> Result<(), TrainError> {
        let path = self.path(checkpoint.step);
        let is_there = crew.told(path.exists())?;
        if !is_there {
            checkpoint.save_by(&path, crew)?;
        }
        if !crew.leads() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.path() != path {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Folder for the checkpoint of an upcycling stage at `step`; removes what a killed run left.
    ///
    /// # Errors
    /// If the folder cannot be emptied or made.
    pub fn prepare(&self, step: u64) -> Result<PathBuf, TrainError> {
        if self.dir.exists() {
            remove_folder(&self.dir)?;
        }
        Ok(self.path(step))
    }

    /// Folder of the checkpoint at `step`.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step:08}"))
    }

    /// Steps of whole checkpoints, in order.
    fn steps(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse()
                    .ok()
            })
            .collect();
        steps.sort_unstable();
        steps
    }
}
