//! A new folder that is whole or absent.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{error::HfError, shards::write_text};

const STATE: &str = "upcycle.partial.json";
const LOCK: &str = "upcycle.lock";

/// A folder that is being filled beside its final name; it stays there when something fails, to be resumed.
pub(crate) struct NewFolder {
    /// Where to write.
    pub path: PathBuf,
    to: PathBuf,
    _lock: File,
}

/// What a folder is being filled with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    fingerprint: String,
}

/// Where the folder `to` is filled.
pub(crate) fn partial(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

/// The folder must not exist, or be empty.
pub(crate) fn check_free(to: &Path) -> Result<(), HfError> {
    let empty = fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_none());
    if to.exists() && !empty {
        let problem = "exists already and is not empty; choose another folder or remove it";
        return Err(HfError::file(to, problem));
    }
    Ok(())
}

impl NewFolder {
    /// Begins a folder, or takes up one that was begun with the same fingerprint.
    pub fn begin(to: &Path, fingerprint: String, resume: bool) -> Result<Self, HfError> {
        check_free(to)?;
        let path = partial(to);
        let state_path = path.join(STATE);
        let state = State { fingerprint };
        let begun = path.exists();
        if begun && !resume {
            let problem = format!(
                "a copy was begun here and not finished; go on with --resume, or remove it (the result will be {})",
                to.display()
            );
            return Err(HfError::file(path, problem));
        }
        fs::create_dir_all(&path).map_err(HfError::io("create", &path))?;
        let lock = path.join(LOCK);
        let file = File::create(&lock).map_err(HfError::io("create", &lock))?;
        if file.try_lock().is_err() {
            return Err(HfError::file(path, "another process is writing here"));
        }
        // A kill before the state was written leaves nothing that is worth more.
        if begun && state_path.exists() {
            let text = fs::read_to_string(&state_path).map_err(HfError::io("read", &state_path))?;
            let there: Option<State> = serde_json::from_str(&text).ok();
            if there.as_ref() != Some(&state) {
                let problem = "was begun with other flags or from another checkpoint; give the same, or remove it and start without --resume";
                return Err(HfError::file(path, problem));
            }
        }
        write_text(&state_path, &serde_json::json!(state).to_string())?;
        Ok(Self {
            path,
            to: to.to_owned(),
            _lock: file,
        })
    }

    /// Gives the folder its final name.
    pub fn finish(self) -> Result<(), HfError> {
        for name in [STATE, LOCK] {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(HfError::io("remove", &path))?;
        }
        fs::rename(&self.path, &self.to).map_err(HfError::io("create", &self.to))
    }
}
