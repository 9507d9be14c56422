//! What files a data set of the hub has, kept beside them in the hub's cache so that no network is needed to know it again.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiError},
};
use upcycle_files::FileError;

use crate::hub::status;

/// The folder of lists in a data set's folder of the cache: a file for each commit, a name a line, and for each revision one
/// with its commit. Other programs leave folders alone that they do not know.
const LISTS: &str = ".upcycle-files";

/// The files of a data set at one commit.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
    /// Whether it is from the hub and not from the cache.
    pub(crate) is_fresh: bool,
    revision: String,
    /// The data set's folder in the cache.
    folder: PathBuf,
}

impl Listing {
    /// Asks the hub for the files of a revision, which is not needed for a commit that is known. If the hub does not answer, what it
    /// said before holds.
    pub(crate) fn read(api: &Api, dataset: &str, revision: &str) -> Result<Self, ApiError> {
        let repo = Repo::with_revision(dataset.to_owned(), RepoType::Dataset, revision.to_owned());
        let folder = Cache::from_env().path().join(repo.folder_name());
        let kept = |commit: &str| {
            let list = fs::read_to_string(folder.join(LISTS).join(commit)).ok()?;
            Some(Self {
                commit: commit.to_owned(),
                files: list.lines().map(str::to_owned).collect(),
                is_fresh: false,
                revision: revision.to_owned(),
                folder: folder.clone(),
            })
        };
        if let Some(kept) = kept(revision).filter(|_| is_commit(revision)) {
            return Ok(kept);
        }
        match api.repo(repo).info() {
            Ok(info) => Ok(Self {
                files: (info.siblings.into_iter())
                    .map(|file| file.rfilename)
                    .filter(|file| is_plain(file))
                    .collect(),
                commit: info.sha,
                is_fresh: true,
                revision: revision.to_owned(),
                folder,
            }),
            Err(error) => {
                let commit = fs::read_to_string(folder.join(LISTS).join(revision)).ok();
                let kept = commit
                    .filter(|_| status(&error).is_none())
                    .and_then(|it| kept(&it));
                kept.ok_or(error)
            }
        }
    }

    /// Keeps what the hub said.
    pub(crate) fn remember(&self) -> Result<(), FileError> {
        if !self.is_fresh {
            return Ok(());
        }
        let lists = self.folder.join(LISTS);
        upcycle_files::write(&lists.join(&self.commit), self.files.join("\n").as_bytes())?;
        if self.revision == self.commit {
            return Ok(());
        }
        upcycle_files::write(&lists.join(&self.revision), self.commit.as_bytes())
    }

    /// The files whose names end like this.
    pub(crate) fn ending(&self, ends: &[&str]) -> Self {
        let files = self.files.iter();
        let files = files.filter(|file| ends.iter().any(|end| file.ends_with(end)));
        Self {
            files: files.cloned().collect(),
            ..self.clone()
        }
    }

    /// Where the cache has the files of the commit.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.join("snapshots").join(&self.commit)
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether the name of a file keeps it inside of its folder, and on its line.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    parts.all(|part| matches!(part, Component::Normal(_))) && !file.contains('\n')
}
