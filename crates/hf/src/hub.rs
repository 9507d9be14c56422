//! Checkpoints of the Hugging Face hub.

use std::path::{Path, PathBuf};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError},
};
use upcycle_files::FileError;

use crate::{
    checkpoint::{INDEX, Index, SINGLE, is_weights},
    config::ConfigFile,
    error::HfError,
};

/// Downloads what a checkpoint needs, `ORG/NAME` or `ORG/NAME@REVISION`, to the hub's cache, and gives the folder there.
/// What is there already is not downloaded again. The environment's `HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` hold.
///
/// # Errors
/// If there is no such model, it is no safetensors checkpoint, or the network fails.
pub fn download(model: &str) -> Result<PathBuf, HfError> {
    let (name, revision) = model.split_once('@').unwrap_or((model, "main"));
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if revision.is_empty()
        || !name
            .split_once('/')
            .is_some_and(|(org, name)| plain(org) && plain(name) && !name.contains('/'))
    {
        return Err(HfError::Impossible(format!(
            "`hf:{model}` should be hf:ORG/NAME or hf:ORG/NAME@REVISION"
        )));
    }
    let fail = |error: ApiError| {
        HfError::Impossible(format!(
            "hf:{model} cannot be downloaded: {error}; check name, revision and network, and for a gated model set HF_TOKEN"
        ))
    };
    let api = ApiBuilder::from_env()
        .with_progress(true)
        .with_retries(3)
        .build()
        .map_err(fail)?;
    let of = |revision: String| Repo::with_revision(name.to_owned(), RepoType::Model, revision);
    let asked = Cache::from_env().repo(of(revision.to_owned()));
    let info = match api.repo(of(revision.to_owned())).info() {
        Ok(info) => info,
        // Without a network, what was downloaded before.
        Err(error) => {
            let config = asked.get(ConfigFile::NAME).ok_or_else(|| fail(error))?;
            return Ok(config.parent().unwrap_or(Path::new(".")).to_owned());
        }
    };
    let files: Vec<String> = info
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let has = |wanted: &str| files.iter().any(|file| file == wanted);
    if !has(ConfigFile::NAME) || !(has(INDEX) || has(SINGLE)) {
        return Err(HfError::Impossible(format!(
            "hf:{model} has no {} with safetensors weights",
            ConfigFile::NAME
        )));
    }
    // All files of one commit, also when the branch moves meanwhile.
    let repo = api.repo(of(info.sha.clone()));
    let get = |file: &str| repo.get(file).map_err(fail);
    let config = get(ConfigFile::NAME)?;
    let folder = config.parent().unwrap_or(Path::new("."));
    // Folders with weights hold the model in another format.
    let foreign: Vec<&Path> = files
        .iter()
        .map(Path::new)
        .filter(|file| is_weights(file))
        .filter_map(Path::parent)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    let mut wanted: Vec<String> = files
        .iter()
        .filter(|file| !is_weights(Path::new(file)) && !file.starts_with('.'))
        .filter(|file| {
            !foreign
                .iter()
                .any(|folder| Path::new(file).starts_with(folder))
        })
        .cloned()
        .collect();
    if has(INDEX) {
        let path = get(INDEX)?;
        let text = std::fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
        let mut shards: Vec<String> = Index::parse(&text, &path)?
            .weight_map
            .into_values()
            .collect();
        shards.sort();
        shards.dedup();
        wanted.append(&mut shards);
    } else {
        wanted.push(SINGLE.to_owned());
    }
    for file in wanted {
        get(&file)?;
    }
    let refused = asked.create_ref(&info.sha);
    refused.map_err(FileError::of("write to the cache of", folder))?;
    Ok(folder.to_owned())
}
