//! What a sweep's folder says of the sweep, for those who join it: jobs of a cluster, and `sweep status`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{Store, SweepConfig, SweepPlan};
use upcycle_train::write_atomically;

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
    /// Writes the file into a sweep's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self)?;
        write_atomically(&folder.join(FILE), text.as_bytes())?;
        Ok(())
    }
}

impl Started {
    /// The sweep in a folder such as `runs/quick`.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{} is not the folder of a sweep: it has no {FILE}",
                folder.display()
            )
        })?;
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
