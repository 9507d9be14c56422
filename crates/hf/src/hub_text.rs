//! Text of the Hugging Face hub, a file at a time.

use std::{fmt, path::PathBuf};

use hf_hub::{
    Repo, RepoType,
    api::sync::{Api, ApiError, ApiRepo},
};

use crate::{
    error::HfError,
    hub::{api, status},
    hub_files::choose,
    hub_listing::Listing,
    hub_name::HubName,
};

/// Where the hub keeps every data set as Parquet files, whatever it is made of.
const CONVERTED: &str = "refs/convert/parquet";

/// Ends of the names of files that hold text, where there are no Parquet files.
const TEXT: [&str; 8] = [
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".json.gz",
    ".json.zst",
    ".txt",
    ".txt.gz",
    ".txt.zst",
];

/// A split of a data set of the hub at one commit, whose files are downloaded one by one.
pub struct HubText {
    name: String,
    files: Vec<String>,
    /// The commit's folder in the hub's cache.
    folder: PathBuf,
    asked: HubName,
    repo: ApiRepo,
}

impl HubText {
    /// Finds `ORG/NAME[@REVISION][:CONFIG][/SPLIT]`, where `*` stands for all configurations: its Parquet files; without a revision, where it has none, those that the hub
    /// has made of it; else its JSON lines and plain text. Without a network, the list that was read before holds. The
    /// environment's `HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` hold.
    ///
    /// # Errors
    /// If there is no such data set, configuration or split, several configurations and no choice, or no network.
    pub fn find(name: &str) -> Result<Self, HfError> {
        let asked = HubName::parse(name).ok_or_else(|| {
            HfError::Impossible(format!(
                "`hf:{name}` should be hf:ORG/NAME, followed as needed by @REVISION, :CONFIG and /SPLIT, as in hf:wikimedia/wikipedia:20231101.en/train"
            ))
        })?;
        let api = api().map_err(|error| refused(&asked, &error))?;
        let listing = text_of(&api, &asked)?;
        let chosen = choose(&listing.files, &asked).map_err(|problem| {
            HfError::Impossible(format!(
                "the data set {} of the hub {problem}",
                asked.dataset
            ))
        })?;
        let name = HubName {
            dataset: asked.dataset.clone(),
            revision: Some(listing.commit.clone()),
            config: Some(chosen.config),
            split: Some(chosen.split),
        };
        let repo = Repo::with_revision(
            asked.dataset.clone(),
            RepoType::Dataset,
            listing.commit.clone(),
        );
        Ok(Self {
            name: name.to_string(),
            files: chosen.files,
            folder: listing.folder(),
            asked,
            repo: api.repo(repo),
        })
    }

    /// `ORG/NAME@COMMIT:CONFIG/SPLIT`, which always finds the same files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the files in the data set, in their order.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Where a file of the list lies in the hub's cache; none if it is not there, or there is no such file.
    pub fn cached(&self, index: usize) -> Option<PathBuf> {
        let path = self.folder.join(self.files.get(index)?);
        path.is_file().then_some(path)
    }

    /// The same, after downloading it if need be.
    ///
    /// # Errors
    /// If it cannot be downloaded, or there is no such file.
    pub fn fetch(&self, index: usize) -> Result<PathBuf, HfError> {
        if let Some(path) = self.cached(index) {
            return Ok(path);
        }
        let file = self.files.get(index).ok_or_else(|| {
            HfError::Impossible(format!(
                "hf:{} has {} files and no {}th",
                self.name,
                self.files.len(),
                index + 1
            ))
        })?;
        let got = self.repo.download(file);
        got.map_err(|error| match status(&error) {
            Some(401 | 403) => HfError::Impossible(format!(
                "the data set {} of the hub is gated: accept its terms on its page there, and set HF_TOKEN",
                self.asked.dataset
            )),
            _ => HfError::Impossible(format!(
                "{file} of hf:{} cannot be downloaded: {error}; check the network and the space in the hub's cache, and start again: what was downloaded is kept",
                self.name
            )),
        })
    }
}

impl fmt::Debug for HubText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.name)
    }
}

/// The files with text of a data set, of one kind.
fn text_of(api: &Api, asked: &HubName) -> Result<Listing, HfError> {
    let dataset = &asked.dataset;
    let revision = asked.revision.as_deref().unwrap_or("main");
    let own = Listing::read(api, dataset, revision).map_err(|error| refused(asked, &error))?;
    own.remember()?;
    let tables = own.ending(&[".parquet"]);
    if !tables.files.is_empty() {
        return Ok(tables);
    }
    if asked.revision.is_none() {
        match Listing::read(api, dataset, CONVERTED) {
            Ok(converted) => {
                converted.remember()?;
                let tables = converted.ending(&[".parquet"]);
                if !tables.files.is_empty() {
                    return Ok(tables);
                }
            }
            // Not every data set is converted, and without a network that is not known.
            Err(error) if matches!(status(&error), Some(401 | 403 | 404)) || !own.is_fresh => {}
            Err(error) => return Err(refused(asked, &error)),
        }
    }
    let text = own.ending(&TEXT);
    match text.files.is_empty() {
        true => Err(HfError::Impossible(format!(
            "the data set {dataset} of the hub has no files of text: neither .parquet, also not converted by the hub, nor .jsonl or .txt (also as .gz or .zst); convert its files, and name yours"
        ))),
        false => Ok(text),
    }
}

fn refused(asked: &HubName, error: &ApiError) -> HfError {
    let dataset = &asked.dataset;
    HfError::Impossible(match status(error) {
        Some(401 | 403 | 404) => {
            let revision = asked.revision.as_deref();
            let revision = revision.map_or(String::new(), |it| format!(" of revision {it}"));
            format!(
                "there is no data set {dataset}{revision} on the hub, or none that you may see; check the name, and for a private or gated one set HF_TOKEN"
            )
        }
        _ => format!(
            "the hub cannot be asked for the data set {dataset}: {error}; check the network, or give files of your own"
        ),
    })
}
