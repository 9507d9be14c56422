//! Runs of `train` beside the sweeps of a folder of runs: each a folder of its own, and no sweep's.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::Value;
use upcycle_files::{FileError, Lock, LockError, remove_folder};
use upcycle_train::{StageCheckpoints, TrainOutcome};

use crate::{disk::Disk, error::LabError};

const RUN: &str = "run.json";
const RESULT: &str = "result.json";
const LOCK: &str = "lock";

/// What is there of a run of `train`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainedRun {
    /// Name of its folder.
    pub name: String,
    /// How far it is.
    pub state: RunState,
    /// Step of its last checkpoint; none before the first.
    pub step: Option<u64>,
    /// Step that it ends at; none where its folder does not say.
    pub end: Option<u64>,
    /// Bytes of its folder.
    pub bytes: u64,
    /// Seconds since something was written there.
    pub age_seconds: u64,
}

/// How far a run of `train` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Its result is there.
    Finished,
    /// A process trains in its folder.
    Running,
    /// It was begun, and nobody trains in its folder.
    Interrupted,
}

impl TrainedRun {
    /// The runs in a folder, by name.
    pub fn all_in(root: &Path) -> Vec<Self> {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path());
        let mut runs: Vec<Self> = folders.filter_map(|folder| Self::of(&folder)).collect();
        runs.sort_by(|a, b| a.name.cmp(&b.name));
        runs
    }

    /// The run in a folder; none if there is none.
    fn of(folder: &Path) -> Option<Self> {
        let run = fs::read_to_string(folder.join(RUN)).ok()?;
        let run: Value = serde_json::from_str(&run).unwrap_or_default();
        let end = run.pointer("/spec/schedule/end").and_then(Value::as_u64);
        let result = fs::read_to_string(folder.join(RESULT)).ok();
        let result = result.and_then(|text| serde_json::from_str::<TrainOutcome>(&text).ok());
        let is_busy = || matches!(Lock::existing(&folder.join(LOCK)), Err(LockError::Busy));
        let state = match result {
            _ if is_busy() => RunState::Running,
            // A run can have become longer.
            Some(result) if end.is_none_or(|end| result.step >= end) => RunState::Finished,
            _ => RunState::Interrupted,
        };
        let Disk { bytes, age } = Disk::of(folder);
        Some(Self {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            state,
            step: StageCheckpoints::new(folder).latest_step(),
            end,
            bytes,
            age_seconds: age.as_secs(),
        })
    }

    /// Removes a run of a folder with all that it has; false if a process trains there.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(root: &Path, name: &str) -> Result<bool, LabError> {
        let folder = root.join(name);
        let _lock = match Lock::take(&folder.join(LOCK)) {
            Ok(lock) => lock,
            Err(LockError::Busy) => return Ok(false),
            Err(LockError::Unsupported) => {
                let problem = std::io::Error::other(
                    "its file system has no locks, so that somebody may train there; remove it by hand",
                );
                return Err(FileError::of("remove", &folder)(problem).into());
            }
            Err(LockError::File(error)) => return Err(error.into()),
        };
        remove_folder(&folder)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_removed_unless_somebody_trains_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("stages")).unwrap();
        let folder = root.path().join("own");
        fs::create_dir_all(folder.join("checkpoints/step-00000007")).unwrap();
        fs::write(folder.join(RUN), r#"{"spec": {"schedule": {"end": 9}}}"#).unwrap();
        let lock = Lock::take(&folder.join(LOCK)).unwrap();
        let runs = || TrainedRun::all_in(root.path());
        let found = runs();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].step, found[0].end), (Some(7), Some(9)));
        assert_eq!(found[0].state, RunState::Running);
        assert!(!TrainedRun::remove(root.path(), "own").unwrap());
        drop(lock);
        assert_eq!(runs()[0].state, RunState::Interrupted);
        assert!(TrainedRun::remove(root.path(), "own").unwrap());
        assert!(runs().is_empty() && root.path().join("stages").exists());
    }
}
