//! A new folder that is whole or absent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use upcycle_files::{FileError, Lock, LockError, give_name, remove_leftovers};
use upcycle_operator::Deviation;

use crate::error::HfError;

const STATE: &str = "upcycle.partial.json";
const LOCK: &str = "upcycle.lock";

/// A folder that is being filled beside its final name.
pub(crate) struct NewFolder {
    /// Where to write.
    pub path: PathBuf,
    to: PathBuf,
    /// What is there when filling fails can be gone on with.
    resumable: bool,
    finished: bool,
    /// What it is being filled with, where that can be gone on with.
    state: Option<State>,
    _lock: Lock,
}

/// What a folder is being filled with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    fingerprint: String,
    /// What did not go as the recipe says in the shards that are written.
    #[serde(default)]
    deviations: Vec<Deviation>,
}

/// Where the folder `to` is filled.
pub(crate) fn partial(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

/// Whether a file is a trace of filling a folder.
pub(crate) fn is_trace(name: &Path) -> bool {
    name == Path::new(STATE) || name == Path::new(LOCK)
}

/// Nothing may stand in the way of the folder's name, an empty folder or a link neither: it is given by renaming.
///
/// # Errors
/// If there is something, or the path has no name.
pub fn check_free(to: &Path) -> Result<(), HfError> {
    if to.file_name().is_none() {
        return Err(HfError::file(to, "is not the name of a new folder"));
    }
    if to.symlink_metadata().is_ok() {
        let problem = "exists already; choose another folder or remove it";
        return Err(HfError::file(to, problem));
    }
    let above = existing_above(to);
    if !above.is_dir() {
        let problem = format!("cannot lie in {}, which is no folder", above.display());
        return Err(HfError::file(to, problem));
    }
    Ok(())
}

/// The nearest path above that is there.
pub(crate) fn existing_above(to: &Path) -> &Path {
    let named = |path: &&Path| !path.as_os_str().is_empty();
    let above = to.ancestors().skip(1).filter(named);
    let mut above = above.filter(|path| path.symlink_metadata().is_ok());
    above.next().unwrap_or(Path::new("."))
}

impl NewFolder {
    /// Begins a folder that is thrown away if it is not finished.
    pub fn begin(to: &Path) -> Result<Self, HfError> {
        let (folder, _) = Self::claim(to, false)?;
        for entry in folder.entries()? {
            let removed = match entry.is_dir() {
                true => fs::remove_dir_all(&entry),
                false => fs::remove_file(&entry),
            };
            removed.map_err(FileError::of("remove", entry))?;
        }
        Ok(folder)
    }

    /// Begins a folder that can be gone on with, or takes up one that was begun with the same fingerprint.
    pub fn begin_resumable(to: &Path, fingerprint: String, resume: bool) -> Result<Self, HfError> {
        if partial(to).exists() && !resume {
            let problem = format!(
                "a copy was begun here and not finished; go on with `resume`, or remove it (the result will be {})",
                to.display()
            );
            return Err(HfError::file(partial(to), problem));
        }
        let (mut folder, begun) = Self::claim(to, true)?;
        remove_leftovers(&folder.path)?;
        let path = folder.path.join(STATE);
        let mut state = State {
            fingerprint,
            deviations: Vec::new(),
        };
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
            let there: Option<State> = serde_json::from_str(&text).ok();
            let same = there.filter(|there| there.fingerprint == state.fingerprint);
            let Some(same) = same else {
                let problem = "was begun otherwise or from another checkpoint; give the same, or remove it and start without `resume`";
                return Err(HfError::file(&folder.path, problem));
            };
            state = same;
        } else if begun && !folder.entries()?.is_empty() {
            let problem =
                "does not say what it was begun with; remove it and start without `resume`";
            return Err(HfError::file(&folder.path, problem));
        }
        folder.state = Some(state);
        folder.note(Vec::new())?;
        Ok(folder)
    }

    /// Remembers what did not go as the recipe says.
    pub fn note(&mut self, deviations: Vec<Deviation>) -> Result<(), HfError> {
        if let Some(state) = &mut self.state {
            for deviation in deviations {
                deviation.add_to(&mut state.deviations);
            }
            let json = serde_json::json!(state).to_string();
            upcycle_files::write(&self.path.join(STATE), json.as_bytes())?;
        }
        Ok(())
    }

    /// What was noted, by earlier runs too.
    pub fn noted(&self) -> Vec<Deviation> {
        let state = self.state.as_ref();
        state.map_or_else(Vec::new, |state| state.deviations.clone())
    }

    /// Makes and locks the folder; whether it was there.
    fn claim(to: &Path, resumable: bool) -> Result<(Self, bool), HfError> {
        check_free(to)?;
        // Without a `.` at the end, which could not be given as a name.
        let to: PathBuf = to.components().collect();
        let path = partial(&to);
        let begun = path.exists();
        fs::create_dir_all(&path).map_err(FileError::of("create", &path))?;
        let lock = path.join(LOCK);
        let lock = match Lock::take(&lock) {
            Ok(lock) => lock,
            Err(LockError::File(error)) => return Err(error.into()),
            Err(LockError::Busy) => {
                return Err(HfError::file(path, "another process is writing here"));
            }
            Err(LockError::Unsupported) => {
                let problem = "lies on a file system without locks, so that two processes could write here; choose another folder";
                return Err(HfError::file(path, problem));
            }
        };
        let folder = Self {
            path,
            to,
            resumable,
            finished: false,
            state: None,
            _lock: lock,
        };
        Ok((folder, begun))
    }

    /// All that is in the folder but the lock.
    fn entries(&self) -> Result<Vec<PathBuf>, HfError> {
        let entries = fs::read_dir(&self.path).map_err(FileError::of("read", &self.path))?;
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(FileError::of("read", &self.path))?;
            if entry.file_name() != LOCK {
                paths.push(entry.path());
            }
        }
        Ok(paths)
    }

    /// Gives the folder its final name.
    pub fn finish(mut self) -> Result<(), HfError> {
        check_free(&self.to)?;
        give_name(&self.path, &self.to)?;
        self.finished = true;
        // The checkpoint is whole; a trace that stays does no harm.
        for name in [STATE, LOCK] {
            let _ = fs::remove_file(self.to.join(name));
        }
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished && !self.resumable {
            // The error that led here is the one to tell.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
