//! The curves of a sweep's stages by names for people: stages themselves are named by hashes, and sweeps share them.

use std::{fs, path::Path};

use anyhow::Result;
use upcycle_files::FileError;
use upcycle_lab::{Store, SweepPlan};
use upcycle_train::{write_curve, write_events};

/// Letters of a stage's key that tell its folder from those of stages with the same label.
const KEY_LETTERS: usize = 8;

/// Writes metrics, TensorBoard's event file and `curve.csv` of each training stage into a folder of its own below `folder`,
/// as `train` leaves them. Steps count from the new model on, so that the curves of a trunk and of what branches off it join.
pub fn write(plan: &SweepPlan, store: &Store, folder: &Path) -> Result<()> {
    for stage in plan.graph.stages() {
        let lines = store.metrics(&stage.key)?;
        // The operator takes no steps.
        if lines.is_empty() {
            continue;
        }
        let dir = folder.join(folder_name(&stage.label, &stage.key.to_string()));
        write_events(&dir, &lines)?;
        write_curve(&dir.join("curve.csv"), &lines)?;
        let metrics = dir.join("metrics.jsonl");
        fs::copy(store.metrics_file(&stage.key), &metrics)
            .map_err(FileError::of("write", &metrics))?;
    }
    Ok(())
}

/// A name that any file system and shell takes.
fn folder_name(label: &str, key: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || "-._".contains(c) {
        true => c,
        false => '-',
    };
    let key = key.chars().take(KEY_LETTERS);
    label.chars().map(plain).chain(['-']).chain(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_separators_and_end_with_the_key() {
        let name = folder_name(
            "tiny/8->16 exact k2 seed 0 decay 90..100",
            "0123456789abcdef",
        );
        assert_eq!(name, "tiny-8--16-exact-k2-seed-0-decay-90..100-01234567");
    }
}
