//! Checkpoints of the Hugging Face hub.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
};
use upcycle_files::FileError;

use crate::{
    checkpoint::{HfCheckpoint, INDEX, Index, SINGLE, is_weights, sidecars},
    config::ConfigFile,
    error::HfError,
    layout::Layout,
    ranges::Ranges,
};

/// Downloads what a checkpoint needs, `ORG/NAME` or `ORG/NAME@REVISION`, to the hub's cache, and gives the folder there.
/// What is there already is not downloaded again. The environment's `HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` hold.
///
/// # Errors
/// If there is no such model, it is no safetensors checkpoint, or the network fails.
pub fn download(model: &str) -> Result<PathBuf, HfError> {
    let hub = match HubModel::find(model)? {
        Found::There(hub) => hub,
        // Without a network, what was downloaded before.
        Found::InCache(folder) => return Ok(folder),
    };
    let folder = hub.small_files()?;
    for shard in hub.shards()? {
        hub.get(&shard)?;
    }
    hub.remember(&folder)?;
    Ok(folder)
}

/// A model on the hub, at one commit.
pub struct HubModel {
    model: String,
    repo: ApiRepo,
    /// All of its files.
    files: Vec<String>,
    asked: hf_hub::CacheRepo,
    sha: String,
}

enum Found {
    There(Box<HubModel>),
    InCache(PathBuf),
}

/// The hub, as the environment says.
pub(crate) fn api() -> Result<Api, ApiError> {
    ApiBuilder::from_env()
        .with_token(token())
        .with_progress(true)
        .with_retries(3)
        .build()
}

/// The status with which the hub refused; none if it did not answer.
pub(crate) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

fn token() -> Option<String> {
    let own = std::env::var("HF_TOKEN").ok();
    own.filter(|token| !token.is_empty())
        .or_else(|| Cache::from_env().token())
}

fn fail(model: &str, error: impl std::fmt::Display) -> HfError {
    HfError::Impossible(format!(
        "hf:{model} cannot be downloaded: {error}; check name, revision and network, and for a gated model set HF_TOKEN"
    ))
}

impl HubModel {
    /// Opens a checkpoint of the hub without downloading its weights: only what is asked for comes over the network. Of the
    /// other files all are downloaded for `whole` ones, which are to be grown, and else those that describe the weights.
    ///
    /// # Errors
    /// As those of [`download`], or if the server does not give parts of files.
    pub fn open(model: &str, layout: Option<Layout>, whole: bool) -> Result<HfCheckpoint, HfError> {
        match Self::find(model)? {
            Found::There(hub) => {
                let folder = match whole {
                    true => hub.small_files()?,
                    false => hub.description()?,
                };
                let files = hub.files.clone();
                let ranges = Box::new(OnHub::new(*hub));
                HfCheckpoint::open_elsewhere(&folder, layout, ranges, &files, !whole)
            }
            Found::InCache(folder) => HfCheckpoint::open(&folder, layout),
        }
    }

    fn find(model: &str) -> Result<Found, HfError> {
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
        let api = api().map_err(|error| fail(model, error))?;
        let of = |revision: String| Repo::with_revision(name.to_owned(), RepoType::Model, revision);
        let asked = Cache::from_env().repo(of(revision.to_owned()));
        let info = match api.repo(of(revision.to_owned())).info() {
            Ok(info) => info,
            Err(error) => {
                let config = asked.get(ConfigFile::NAME);
                let config = config.ok_or_else(|| fail(model, error))?;
                let folder = config.parent().unwrap_or(Path::new("."));
                return Ok(Found::InCache(folder.to_owned()));
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
        Ok(Found::There(Box::new(Self {
            model: model.to_owned(),
            // All files of one commit, also when the branch moves meanwhile.
            repo: api.repo(of(info.sha.clone())),
            files,
            asked,
            sha: info.sha,
        })))
    }

    fn get(&self, file: &str) -> Result<PathBuf, HfError> {
        let got: Result<_, ApiError> = self.repo.get(file);
        got.map_err(|error| fail(&self.model, error))
    }

    /// Downloads the files that describe the weights, and gives their folder.
    fn description(&self) -> Result<PathBuf, HfError> {
        let config = self.get(ConfigFile::NAME)?;
        for name in [INDEX, ConfigFile::QUANTISATION] {
            if self.files.iter().any(|file| file == name) {
                self.get(name)?;
            }
        }
        Ok(config.parent().unwrap_or(Path::new(".")).to_owned())
    }

    /// Downloads all files that are no weights, and gives their folder.
    fn small_files(&self) -> Result<PathBuf, HfError> {
        let config = self.get(ConfigFile::NAME)?;
        let folder = config.parent().unwrap_or(Path::new(".")).to_owned();
        // Folders with weights hold the model in another format.
        let foreign: Vec<&Path> = self
            .files
            .iter()
            .map(Path::new)
            .filter(|file| is_weights(file))
            .filter_map(Path::parent)
            .filter(|folder| !folder.as_os_str().is_empty())
            .collect();
        let wanted = self
            .files
            .iter()
            .filter(|file| !is_weights(Path::new(file)) && !file.starts_with('.'))
            .filter(|file| {
                !foreign
                    .iter()
                    .any(|folder| Path::new(file).starts_with(folder))
            });
        for file in wanted {
            self.get(file)?;
        }
        Ok(folder)
    }

    /// Names of the files with its weights, and of those beside its index that may not stay behind.
    fn shards(&self) -> Result<Vec<String>, HfError> {
        if !self.files.iter().any(|file| file == INDEX) {
            return Ok(vec![SINGLE.to_owned()]);
        }
        let path = self.get(INDEX)?;
        let text = std::fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
        let mut shards = Index::parse(&text, &path)?.files();
        let beside: Vec<String> = sidecars(&self.files, &shards).cloned().collect();
        shards.extend(beside);
        Ok(shards)
    }

    /// Lets the revision be found without a network.
    fn remember(&self, folder: &Path) -> Result<(), HfError> {
        let refused = self.asked.create_ref(&self.sha);
        Ok(refused.map_err(FileError::of("write to the cache of", folder))?)
    }
}

/// The files of a model on the hub, read some bytes at a time.
struct OnHub {
    hub: HubModel,
    agent: ureq::Agent,
    token: Option<String>,
}

impl std::fmt::Debug for OnHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf:{}", self.hub.model)
    }
}

impl OnHub {
    fn new(hub: HubModel) -> Self {
        Self {
            hub,
            agent: ureq::Agent::new_with_defaults(),
            token: token(),
        }
    }
}

impl Ranges for OnHub {
    fn open(&self, file: &str, start: u64, bytes: u64) -> Result<(Box<dyn Read>, u64), HfError> {
        let last = start.saturating_add(bytes.max(1)) - 1;
        let mut request = self
            .agent
            .get(self.hub.repo.url(file))
            .header("Range", format!("bytes={start}-{last}"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call();
        let response = response.map_err(|error| fail(&self.hub.model, error))?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        // `bytes 0-65535/4997744872`
        let total =
            header("Content-Range").and_then(|range| range.rsplit('/').next()?.parse().ok());
        let Some(total) = total.filter(|_| response.status() == 206) else {
            return Err(HfError::Impossible(format!(
                "hf:{} cannot be read without downloading it: its server does not give parts of {file}; download it, and give the folder",
                self.hub.model
            )));
        };
        Ok((Box::new(response.into_body().into_reader()), total))
    }
}
