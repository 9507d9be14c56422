//! What stages leave on the disk, and what folders take of it.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use upcycle_lm::CostModel;

use crate::graph::Stage;

/// Bytes of a parameter in a checkpoint: its value and Adam's two moments in f32.
const BYTES_A_PARAMETER: u64 = 12;

/// Bytes of a step in `metrics.jsonl`: a line of some 150, and the evaluations between.
const BYTES_A_STEP: u64 = 200;

/// Bytes that a stage leaves: its last checkpoint and metrics.
pub fn stage_bytes(stage: &Stage) -> u64 {
    let parameters = CostModel::new(&stage.model).parameters().total();
    BYTES_A_PARAMETER * parameters + BYTES_A_STEP * stage.steps()
}

/// Files of a folder.
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    /// Since the newest was written.
    pub(crate) age: Duration,
}

impl Disk {
    /// Adds up what can be read; what another process removes meanwhile is left out.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut bytes = 0;
        let mut newest = SystemTime::UNIX_EPOCH;
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                // Of a link, not of what it points to.
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    bytes += metadata.len();
                    newest = newest.max(metadata.modified().unwrap_or(newest));
                }
            }
        }
        Self {
            bytes,
            age: newest.elapsed().unwrap_or_default(),
        }
    }
}
