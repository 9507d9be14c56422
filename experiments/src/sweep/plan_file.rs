//! What a sweep's folder says of the sweep, for those who join it: jobs of a cluster, and `sweep status`.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{Store, SweepConfig, SweepPlan};

use crate::backend::BackendKind;

const FILE: &str = "sweep.toml";

/// A sweep as it was started.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanFile {
    /// Where it computes; never `auto`.
    pub backend: BackendKind,
    /// Devices that train one model together.
    pub devices: usize,
    /// Seconds between checkpoints of a stage.
    pub checkpoint_seconds: u64,
    /// The command line.
    pub command: String,
    /// Everything that its results depend on.
    pub sweep: SweepConfig,
}

/// A sweep that was started, with its stages.
pub struct Started {
    pub file: PlanFile,
    pub data: Dataset,
    pub plan: SweepPlan,
    pub store: Store,
}

impl PlanFile {
    /// Whether a folder holds the results of a sweep with other axes, data or sizes.
    pub fn is_of_another(folder: &Path, sweep: &SweepConfig) -> bool {
        let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        toml::from_str::<Self>(&text).is_ok_and(|file| file.sweep != *sweep)
    }

    /// Writes the file into a sweep's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self)?;
        upcycle_files::write(&folder.join(FILE), text.as_bytes())?;
        Ok(())
    }
}

impl Started {
    /// The sweep in a folder such as `runs/quick`.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            bail!(
                "{} is not the folder of a sweep: it has no {FILE}{}",
                folder.display(),
                sweeps_in(folder.parent().unwrap_or(folder))
            );
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file: PlanFile = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let folder = folder.canonicalize()?;
        let out = folder.parent().unwrap_or(&folder);
        let data = Dataset::open(&file.sweep.data, &out.join("data"))?;
        let plan = SweepPlan::new(&file.sweep, &data, file.backend.name())?;
        let store =
            Store::existing(out).with_context(|| format!("{} holds no stages", out.display()))?;
        Ok(Self {
            file,
            data,
            plan,
            store,
        })
    }
}

/// Sweeps of a folder of runs, as the end of a sentence.
fn sweeps_in(runs: &Path) -> String {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut sweeps: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(FILE).is_file())
        .map(|path| path.display().to_string())
        .collect();
    sweeps.sort();
    match sweeps.is_empty() {
        true => String::new(),
        false => format!("; there are {}", sweeps.join(", ")),
    }
}
