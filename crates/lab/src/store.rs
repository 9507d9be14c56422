//! Where stages live: one folder a stage, named by its key.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use upcycle_files::FileError;
use upcycle_train::{MetricsLine, StageCheckpoints, TrainOutcome, UpcycleOutcome, read_metrics};

use crate::{
    claim::{Claim, ClaimFile, Observed, Patience},
    error::LabError,
    graph::{Stage, StageGraph},
    stage::StageKey,
    trained::TrainedRun,
};

const RESULT: &str = "result.json";
const SPEC: &str = "stage.json";
const METRICS: &str = "metrics.jsonl";
/// Metrics of the result that is there while its stage is computed again.
const KEPT_METRICS: &str = "metrics.kept.jsonl";
/// Shows that the folder can be written to.
const PROBE: &str = ".writable";

/// A folder of runs: stages, packed data, and a folder for each sweep's report.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    patience: Patience,
    observed: Observed,
}

/// Result of a finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StageResult {
    /// Of a training stage.
    Train(TrainOutcome),
    /// Of an upcycling stage.
    Upcycle(UpcycleOutcome),
}

impl Store {
    /// Opens the folder `root`, and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made or written to.
    pub fn open(root: &Path) -> Result<Self, LabError> {
        let stages = root.join("stages");
        fs::create_dir_all(&stages).map_err(FileError::of("create", &stages))?;
        // Said before hours of work, not after.
        upcycle_files::write(&stages.join(PROBE), b"")?;
        Ok(Self::at(root))
    }

    fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            patience: Patience::default(),
            observed: Observed::default(),
        }
    }

    /// The same store with another patience with the claims of others.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The store in the folder `root` if there is one; makes nothing.
    pub fn existing(root: &Path) -> Option<Self> {
        root.join("stages").is_dir().then(|| Self::at(root))
    }

    /// The store in the folder `root` if there are stages or runs of `train`; makes nothing.
    pub fn of_runs(root: &Path) -> Option<Self> {
        let has_runs = || !TrainedRun::all_in(root).is_empty();
        Self::existing(root).or_else(|| has_runs().then(|| Self::at(root)))
    }

    /// The folder of runs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of packed text.
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Stages that are there, finished or not.
    pub fn keys(&self) -> Vec<StageKey> {
        let entries = fs::read_dir(self.root.join("stages")).into_iter();
        let names = entries.flatten().flatten().map(|entry| entry.file_name());
        let mut keys: Vec<StageKey> = names
            .filter_map(|name| StageKey::of_folder(name.to_str()?))
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Folder of a sweep's report.
    pub fn report_dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Folder of a stage.
    pub fn stage_dir(&self, key: &StageKey) -> PathBuf {
        self.root.join("stages").join(key.to_string())
    }

    /// Result of a stage; none if it is not finished. That of a stage which is computed again stays until the other is there.
    ///
    /// # Errors
    /// If its file is damaged.
    pub fn result(&self, key: &StageKey) -> Result<Option<StageResult>, LabError> {
        let dir = self.stage_dir(key);
        let path = dir.join(RESULT);
        if !path.exists() {
            return Ok(None);
        }
        let damaged = |problem: String| LabError::Store {
            dir: dir.clone(),
            problem,
        };
        let text = fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| damaged(format!("{RESULT} is damaged ({error})")))
    }

    /// Whether a stage has a result that can be read.
    pub fn is_finished(&self, key: &StageKey) -> bool {
        matches!(self.result(key), Ok(Some(_)))
    }

    /// Whether nothing is left to do for a stage and for those that go on from it: its result is there, and so is the
    /// checkpoint of its last step.
    ///
    /// # Errors
    /// If its result is damaged.
    pub fn is_whole(&self, stage: &Stage) -> Result<bool, LabError> {
        Ok(self.result(&stage.key)?.is_some() && self.has_last_checkpoint(stage))
    }

    /// Whether the checkpoint of a stage's last step is there, not one of a step before.
    fn has_last_checkpoint(&self, stage: &Stage) -> bool {
        let checkpoints = StageCheckpoints::new(&self.stage_dir(&stage.key));
        checkpoints.latest_step() == Some(stage.to)
    }

    /// Writes the result of a stage, which makes it finished.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&self, key: &StageKey, result: &StageResult) -> Result<(), LabError> {
        let dir = self.stage_dir(key);
        // JSON has no word for what is not a number; better said now than at the next start.
        let problem = match serde_json::to_string(result) {
            Ok(json) => serde_json::from_str::<StageResult>(&json).err(),
            Err(error) => Some(error),
        };
        if let Some(error) = problem {
            let problem = format!("its result cannot be written: a figure is no number ({error})");
            return Err(LabError::Store { dir, problem });
        }
        // First, as those that stay behind beside the result would be shown for good.
        let kept = dir.join(KEPT_METRICS);
        let removed = fs::remove_file(&kept).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        removed.map_err(FileError::of("remove", &kept))?;
        self.write(&dir.join(RESULT), result)
    }

    /// Keeps the metrics of a finished stage that is about to be computed again, as its result is kept.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub(crate) fn keep_metrics(&self, key: &StageKey) -> Result<(), LabError> {
        let dir = self.stage_dir(key);
        let (metrics, kept) = (dir.join(METRICS), dir.join(KEPT_METRICS));
        // Where some are kept, the others are of a computation that was interrupted.
        if !self.is_finished(key) || kept.exists() || !metrics.exists() {
            return Ok(());
        }
        let bytes = fs::read(&metrics).map_err(FileError::of("read", &metrics))?;
        Ok(upcycle_files::write(&kept, &bytes)?)
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), LabError> {
        let json = serde_json::to_string_pretty(value).map_err(|error| LabError::Store {
            dir: path.to_owned(),
            problem: error.to_string(),
        })?;
        Ok(upcycle_files::write(path, json.as_bytes())?)
    }

    /// Takes a stage for this process, and makes its folder; none if another process computes it.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub(crate) fn claim(&self, stage: &Stage) -> Result<Option<Claim>, LabError> {
        let dir = self.stage_dir(&stage.key);
        fs::create_dir_all(&dir).map_err(FileError::of("create", &dir))?;
        let claim = self.claim_folder(&dir)?;
        if claim.is_some() {
            self.write(&dir.join(SPEC), &stage.spec)?;
        }
        Ok(claim)
    }

    /// Takes the folder of a stage for this process; none if another process computes it.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub(crate) fn claim_folder(&self, dir: &Path) -> Result<Option<Claim>, LabError> {
        Claim::take(dir, self.patience, &self.observed)
    }

    /// Stages of a graph that have to be computed: those without a result, and those that they go on from whose checkpoints were
    /// freed. These are computed again, and keep their results meanwhile.
    pub fn missing<'a>(&self, graph: &'a StageGraph) -> BTreeSet<&'a StageKey> {
        let mut missing = BTreeSet::new();
        let mut wanted: BTreeSet<&StageKey> = BTreeSet::new();
        // Children come before their parents.
        for stage in graph.stages().into_iter().rev() {
            let freed = || wanted.contains(&stage.key) && !self.has_last_checkpoint(stage);
            if !self.is_finished(&stage.key) || freed() {
                missing.insert(&stage.key);
                wanted.extend(stage.parent.as_ref());
            }
        }
        missing
    }

    /// Who computes a stage, and the time since the last sign of it; none if nobody does.
    pub fn claimant(&self, key: &StageKey) -> Option<(ClaimFile, Duration)> {
        ClaimFile::alive(&self.stage_dir(key), self.patience.stale)
    }

    /// Whether a process began a stage and was not seen to end.
    pub fn was_begun(&self, key: &StageKey) -> bool {
        ClaimFile::read(&self.stage_dir(key)).is_some()
    }

    /// The checkpoint that a finished stage left.
    ///
    /// # Errors
    /// If it is gone.
    pub fn checkpoint(&self, key: &StageKey) -> Result<PathBuf, LabError> {
        let dir = self.stage_dir(key);
        StageCheckpoints::new(&dir)
            .latest()
            .ok_or_else(|| LabError::Store {
                dir,
                problem: "its result is there but its checkpoint is gone".into(),
            })
    }

    /// The file with the metrics of a stage; where it is computed again, those of the result that is there.
    pub fn metrics_file(&self, key: &StageKey) -> PathBuf {
        let dir = self.stage_dir(key);
        let kept = dir.join(KEPT_METRICS);
        match kept.exists() {
            true => kept,
            false => dir.join(METRICS),
        }
    }

    /// Metrics of a stage.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn metrics(&self, key: &StageKey) -> Result<Vec<MetricsLine>, LabError> {
        Ok(read_metrics(&self.metrics_file(key))?)
    }
}
