//! Where a checkpoint comes from.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use upcycle_hf::{HfCheckpoint, Layout};
use upcycle_train::StageCheckpoints;

/// The folder of `--from`: what `hf:` names is downloaded first.
pub fn folder(from: &str) -> Result<PathBuf> {
    match from.strip_prefix("hf:") {
        Some(model) => hub(model),
        None => {
            let dir = PathBuf::from(from);
            check(&dir)?;
            Ok(dir)
        }
    }
}

/// A checkpoint of the hub whose weights are not downloaded, for what `hf:` names; with all of its other files if it is to be
/// grown `whole`.
#[cfg(feature = "hub")]
pub fn elsewhere(model: &str, layout: Option<Layout>, whole: bool) -> Result<HfCheckpoint> {
    Ok(upcycle_hf::HubModel::open(model, layout, whole)?)
}

#[cfg(not(feature = "hub"))]
pub fn elsewhere(model: &str, layout: Option<Layout>, _: bool) -> Result<HfCheckpoint> {
    Ok(HfCheckpoint::open(&hub(model)?, layout)?)
}

/// A folder must be a checkpoint of this program, one of its training runs, or a checkpoint of transformers.
///
/// # Errors
/// If it is none of them, or no folder.
pub fn check(dir: &Path) -> Result<()> {
    let name = dir.display();
    if dir.is_file() {
        bail!("{name} is a file; give the folder of a checkpoint");
    }
    if !dir.is_dir() {
        let plain = !name.to_string().starts_with(['.', '/']) && dir.iter().count() == 2;
        match plain {
            true => bail!(
                "{name} does not exist; did you mean hf:{name}, a model of the Hugging Face hub?"
            ),
            false => bail!("{name} does not exist; give the folder of a checkpoint"),
        }
    }
    if !is_own(dir) && !HfCheckpoint::is_one(dir) {
        bail!(
            "{name} is no checkpoint: it has neither checkpoint.json (of this program) nor config.json (of Hugging Face's transformers)"
        );
    }
    Ok(())
}

fn is_own(dir: &Path) -> bool {
    dir.join("checkpoint.json").exists() || StageCheckpoints::new(dir).latest().is_some()
}

/// Whether a folder is a checkpoint of transformers rather than one of this program's.
pub fn is_hugging_face(dir: &Path) -> bool {
    !is_own(dir) && HfCheckpoint::is_one(dir)
}

#[cfg(feature = "hub")]
fn hub(model: &str) -> Result<PathBuf> {
    Ok(upcycle_hf::download(model)?)
}

#[cfg(not(feature = "hub"))]
fn hub(model: &str) -> Result<PathBuf> {
    bail!(
        "hf:{model} cannot be downloaded: the hub is not compiled in; build with `--features hub`, or give a folder"
    )
}
