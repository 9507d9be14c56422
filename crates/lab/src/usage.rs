//! What a folder of runs takes of the disk, and what of it can be freed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use upcycle_files::{FileError, remove_folder};

use crate::{
    disk::Disk,
    error::LabError,
    stage::StageKey,
    store::Store,
    sweep_stages::SweepStages,
    trained::{RunState, TrainedRun},
};

/// What a folder of runs holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Usage {
    /// Sweeps, by name.
    pub sweeps: Vec<SweepUsage>,
    /// Stages, by key.
    pub stages: Vec<StageUsage>,
    /// Runs of `train`, by name.
    pub runs: Vec<TrainedRun>,
    /// Bytes of packed text.
    pub data_bytes: u64,
}

/// What is there of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepUsage {
    /// Name of its folder.
    pub name: String,
    /// Bytes of its folder: report and results, not stages.
    pub bytes: u64,
    /// Seconds since something was written there.
    pub age_seconds: u64,
    /// Its stages, and those that are finished; none where its folder does not list them.
    pub stages: Option<[usize; 2]>,
}

impl SweepUsage {
    /// Whether all of its stages are known to be finished.
    pub fn is_finished(&self) -> bool {
        self.stages.is_some_and(|[all, finished]| all == finished)
    }
}

/// What is there of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageUsage {
    /// Content address.
    pub key: StageKey,
    /// For people, if a sweep says it.
    pub label: Option<String>,
    /// How far it is.
    #[serde(flatten)]
    pub state: StageState,
    /// Bytes of its folder.
    pub bytes: u64,
    /// Bytes of its checkpoints.
    pub checkpoint_bytes: u64,
    /// Seconds since something was written there.
    pub age_seconds: u64,
    /// Sweeps whose results come from it.
    pub sweeps: Vec<String>,
    /// Whether its model is one of those that some sweep compares.
    pub last: bool,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StageState {
    /// Its result is there.
    Finished,
    /// A process computes it.
    Running {
        /// Machine.
        host: String,
        /// Process.
        pid: u32,
    },
    /// It was begun, and nobody computes it.
    Interrupted,
}

/// What to free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaning {
    /// Also the checkpoints of the models that finished sweeps compare.
    pub checkpoints: bool,
    /// Also packed text.
    pub data: bool,
}

/// Something that can be freed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Freeable {
    /// Checkpoints of a stage, whose result and metrics stay.
    Checkpoints {
        /// The stage.
        key: StageKey,
        /// Bytes.
        bytes: u64,
    },
    /// A stage that no sweep needs.
    Stage {
        /// The stage.
        key: StageKey,
        /// Bytes.
        bytes: u64,
    },
    /// A run of `train`, which is freed if it is named alone.
    Run {
        /// Name of its folder.
        name: String,
        /// Bytes.
        bytes: u64,
    },
    /// All packed text, which is packed again when it is needed.
    Data {
        /// Bytes.
        bytes: u64,
    },
}

impl Freeable {
    /// Bytes that become free.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Checkpoints { bytes, .. }
            | Self::Stage { bytes, .. }
            | Self::Run { bytes, .. }
            | Self::Data { bytes } => *bytes,
        }
    }
}

impl Usage {
    /// Looks at a store.
    pub fn of(store: &Store) -> Self {
        let listed: Vec<(String, PathBuf, Option<SweepStages>)> = sweep_folders(store.root());
        let stages = store.keys().into_iter().map(|key| {
            let mut usage = StageUsage::of(store, key);
            for (name, _, stages) in &listed {
                let noted = stages.as_ref().and_then(|stages| stages.0.get(&usage.key));
                if let Some(noted) = noted {
                    usage.label.get_or_insert_with(|| noted.label.clone());
                    usage.last |= noted.last;
                    usage.sweeps.push(name.clone());
                }
            }
            usage
        });
        let stages: Vec<StageUsage> = stages.collect();
        let finished = stages.iter();
        let finished = finished.filter(|stage| stage.state == StageState::Finished);
        let finished: BTreeSet<StageKey> = finished.map(|stage| stage.key.clone()).collect();
        let sweeps = listed.iter().map(|(name, folder, stages)| {
            let Disk { bytes, age } = Disk::of(folder);
            SweepUsage {
                name: name.clone(),
                bytes,
                age_seconds: age.as_secs(),
                stages: stages.as_ref().map(|stages| {
                    let keys = stages.0.keys();
                    let there = keys.filter(|&key| finished.contains(key)).count();
                    [stages.0.len(), there]
                }),
            }
        });
        Self {
            sweeps: sweeps.collect(),
            data_bytes: Disk::of(&store.data_dir()).bytes,
            runs: TrainedRun::all_in(store.root()),
            stages,
        }
    }

    /// What can be freed but for runs of `train`. What is being computed is not, nor what a sweep needs that is not finished; where a sweep does not list
    /// its stages, any stage may be one that it needs.
    pub fn freeable(&self, cleaning: Cleaning) -> Vec<Freeable> {
        let is_finished = |name: &String| {
            let mut sweeps = self.sweeps.iter();
            sweeps.any(|sweep| sweep.name == *name && sweep.is_finished())
        };
        let all_listed = self.sweeps.iter().all(|sweep| sweep.stages.is_some());
        let is_running = |stage: &StageUsage| matches!(stage.state, StageState::Running { .. });
        let mut freeable = Vec::new();
        for stage in self.stages.iter().filter(|stage| !is_running(stage)) {
            let key = stage.key.clone();
            if stage.sweeps.is_empty() {
                if all_listed {
                    let bytes = stage.bytes;
                    freeable.push(Freeable::Stage { key, bytes });
                }
                continue;
            }
            let wanted = stage.last && !cleaning.checkpoints;
            let of_finished = all_listed && stage.sweeps.iter().all(is_finished);
            let done = stage.state == StageState::Finished && of_finished;
            if done && !wanted && stage.checkpoint_bytes > 0 {
                let bytes = stage.checkpoint_bytes;
                freeable.push(Freeable::Checkpoints { key, bytes });
            }
        }
        let trains = |run: &TrainedRun| run.state == RunState::Running;
        let idle = !self.stages.iter().any(is_running) && !self.runs.iter().any(trains);
        if cleaning.data && idle && self.data_bytes > 0 {
            let bytes = self.data_bytes;
            freeable.push(Freeable::Data { bytes });
        }
        freeable
    }

    /// The run of `train` of a name, if there is one that nobody trains.
    pub fn freeable_run(&self, name: &str) -> Option<Freeable> {
        let mut runs = self.runs.iter();
        let run = runs.find(|run| run.name == name && run.state != RunState::Running)?;
        Some(Freeable::Run {
            name: run.name.clone(),
            bytes: run.bytes,
        })
    }
}

impl Store {
    /// Frees something; false if a process has begun to work on it meanwhile.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn free(&self, what: &Freeable) -> Result<bool, LabError> {
        let (key, whole) = match what {
            Freeable::Data { .. } => {
                remove_folder(&self.data_dir())?;
                return Ok(true);
            }
            Freeable::Run { name, .. } => return TrainedRun::remove(self.root(), name),
            Freeable::Checkpoints { key, .. } => (key, false),
            Freeable::Stage { key, .. } => (key, true),
        };
        let dir = self.stage_dir(key);
        let Some(claim) = self.claim_folder(&dir)? else {
            return Ok(false);
        };
        let folder = match whole {
            true => dir,
            false => dir.join("checkpoints"),
        };
        // It is gone at once, or it is there as a whole.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let aside = folder.with_file_name(format!(".{name}.tmp"));
        // What an interrupted removal has left.
        if aside.exists() {
            remove_folder(&aside)?;
        }
        fs::rename(&folder, &aside).map_err(FileError::of("remove", &folder))?;
        drop(claim);
        remove_folder(&aside)?;
        Ok(true)
    }
}

impl StageUsage {
    fn of(store: &Store, key: StageKey) -> Self {
        let dir = store.stage_dir(&key);
        let state = match store.claimant(&key) {
            Some((claim, _)) => StageState::Running {
                host: claim.host,
                pid: claim.pid,
            },
            None if store.is_finished(&key) => StageState::Finished,
            None => StageState::Interrupted,
        };
        let Disk { bytes, age } = Disk::of(&dir);
        Self {
            key,
            label: None,
            state,
            bytes,
            checkpoint_bytes: Disk::of(&dir.join("checkpoints")).bytes,
            age_seconds: age.as_secs(),
            sweeps: Vec::new(),
            last: false,
        }
    }
}

/// Name, folder and listed stages of every sweep in a folder of runs, by name.
fn sweep_folders(root: &Path) -> Vec<(String, PathBuf, Option<SweepStages>)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let mut sweeps: Vec<_> = folders
        .filter(|folder| folder.join("sweep.toml").is_file())
        .map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            (
                name.into_owned(),
                folder.clone(),
                SweepStages::read(&folder),
            )
        })
        .collect();
    sweeps.sort_by(|a, b| a.0.cmp(&b.0));
    sweeps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, sweeps: &[&str], last: bool) -> StageUsage {
        StageUsage {
            key: StageKey::of_folder(&name.repeat(20)).unwrap(),
            label: None,
            state: StageState::Finished,
            bytes: 10,
            checkpoint_bytes: 8,
            age_seconds: 0,
            sweeps: sweeps.iter().map(|&name| name.to_owned()).collect(),
            last,
        }
    }

    fn sweep(name: &str, stages: Option<[usize; 2]>) -> SweepUsage {
        SweepUsage {
            name: name.to_owned(),
            bytes: 1,
            age_seconds: 0,
            stages,
        }
    }

    fn bytes(usage: &Usage, checkpoints: bool, data: bool) -> Vec<u64> {
        let freeable = usage.freeable(Cleaning { checkpoints, data });
        freeable.iter().map(Freeable::bytes).collect()
    }

    #[test]
    fn finished_sweeps_keep_their_models_and_nothing_else() {
        let mut usage = Usage {
            sweeps: vec![sweep("done", Some([2, 2])), sweep("half", Some([3, 1]))],
            stages: vec![
                stage("a", &["done"], false),
                stage("b", &["done"], true),
                stage("c", &["done", "half"], false),
                stage("d", &[], false),
            ],
            runs: Vec::new(),
            data_bytes: 5,
        };
        assert_eq!(bytes(&usage, false, false), [8, 10]);
        assert_eq!(bytes(&usage, true, true), [8, 8, 10, 5]);
        // A sweep that does not list its stages may need any.
        usage.sweeps.push(sweep("old", None));
        assert_eq!(bytes(&usage, true, true), [5]);
        usage.sweeps.pop();
        // What is computed is left alone, and text while anything is.
        usage.stages[0].state = StageState::Running {
            host: "here".into(),
            pid: 1,
        };
        assert_eq!(bytes(&usage, false, true), [10]);
    }

    #[test]
    fn what_is_claimed_is_not_freed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let key = StageKey::of_folder(&"a".repeat(20)).unwrap();
        let checkpoint = store.stage_dir(&key).join("checkpoints/step-00000001");
        fs::create_dir_all(&checkpoint).unwrap();
        fs::write(checkpoint.join("model"), [0; 64]).unwrap();
        let usage = Usage::of(&store);
        assert_eq!(usage.stages[0].checkpoint_bytes, 64);
        assert_eq!(usage.stages[0].state, StageState::Interrupted);
        let what = Freeable::Checkpoints {
            key: key.clone(),
            bytes: 64,
        };
        let claim = store.claim_folder(&store.stage_dir(&key)).unwrap();
        assert!(claim.is_some() && !store.free(&what).unwrap());
        drop(claim);
        assert!(store.free(&what).unwrap() && !checkpoint.exists());
        let whole = Freeable::Stage { key, bytes: 0 };
        assert!(store.free(&whole).unwrap());
        assert!(Usage::of(&store).stages.is_empty());
    }
}
