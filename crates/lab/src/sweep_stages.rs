//! The stages of a sweep, noted in its folder for those who free disk.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{error::LabError, plan::SweepPlan, stage::StageKey};

const FILE: &str = "stages.json";

/// All stages that the results of a sweep come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SweepStages(pub BTreeMap<StageKey, SweepStage>);

/// A stage as a sweep sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepStage {
    /// For people: model, seed, steps.
    pub label: String,
    /// Whether its model is one of those that are compared; others are only gone on from.
    pub last: bool,
}

impl SweepStages {
    /// Those of a plan.
    pub fn of(plan: &SweepPlan) -> Self {
        let last = plan.last_stages();
        let stages = plan.graph.stages().into_iter().map(|stage| {
            let noted = SweepStage {
                label: stage.label.clone(),
                last: last.contains(&stage.key),
            };
            (stage.key.clone(), noted)
        });
        Self(stages.collect())
    }

    /// Those of the sweep in a folder; none if they are not noted there.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Notes them in a sweep's folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), LabError> {
        // Words and truth values always serialise.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(upcycle_files::write(&folder.join(FILE), json.as_bytes())?)
    }
}
