//! Where a checkpoint comes from.

use std::path::{Path, PathBuf};

use anyhow::Result;
use upcycle_hf::HfCheckpoint;
use upcycle_train::StageCheckpoints;

/// The folder of `--from`: what `hf:` names is downloaded first.
pub fn folder(from: &str) -> Result<PathBuf> {
    match from.strip_prefix("hf:") {
        Some(model) => hub(model),
        None => Ok(PathBuf::from(from)),
    }
}

/// Whether a folder is a checkpoint of transformers rather than one of this program's.
pub fn is_hugging_face(dir: &Path) -> bool {
    let ours =
        dir.join("checkpoint.json").exists() || StageCheckpoints::new(dir).latest().is_some();
    !ours && HfCheckpoint::is_one(dir)
}

#[cfg(feature = "hub")]
fn hub(model: &str) -> Result<PathBuf> {
    Ok(upcycle_hf::download(model)?)
}

#[cfg(not(feature = "hub"))]
fn hub(model: &str) -> Result<PathBuf> {
    anyhow::bail!(
        "hf:{model} cannot be downloaded: the hub is not compiled in; build with `--features hub`, or give a folder"
    )
}
