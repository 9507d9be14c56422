//! Whole folders.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};

use tempfile::{Builder, TempDir};

use crate::{
    error::FileError,
    lock::{Lock, LockError},
};

/// Names of what has no name yet.
const PREFIX: &str = ".";
const SUFFIX: &str = ".tmp";

/// A file in a staged folder that its owner has locked.
const LOCK: &str = "lock";

/// Makes what has no name yet, with the permissions that any new file or folder has, not for its owner's eyes alone.
pub(crate) fn unnamed(
    #[cfg_attr(not(unix), allow(unused))] mode: u32,
) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        builder.permissions(Permissions::from_mode(mode));
    }
    builder
}

/// A folder beside its final name, on the same file system so that it can be renamed. It is removed when dropped.
#[derive(Debug)]
pub struct Staged {
    lock: Option<Lock>,
    beside: TempDir,
    to: PathBuf,
}

impl Staged {
    /// A new folder that is to become `to`; the folder above is made if it is not there.
    ///
    /// # Errors
    /// If a folder cannot be made.
    pub fn new(to: &Path) -> Result<Self, FileError> {
        make_parent(to)?;
        let beside = unnamed(0o777).tempdir_in(parent_of(to));
        Ok(Self {
            lock: None,
            beside: beside.map_err(FileError::of("create", to))?,
            to: to.to_owned(),
        })
    }

    /// [`new`](Self::new), and [`remove_abandoned`] can tell whether its owner is gone.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn locked(to: &Path) -> Result<Self, FileError> {
        let mut staged = Self::new(to)?;
        // Without its name until it is locked, or it would look abandoned.
        let unnamed = staged.path().join("unlocked");
        match Lock::take(&unnamed) {
            Ok(lock) => {
                let named = staged.path().join(LOCK);
                fs::rename(&unnamed, &named).map_err(FileError::of("create", named))?;
                staged.lock = Some(lock);
            }
            // Without locks nobody can tell, and a folder that is left behind stays.
            Err(LockError::Busy | LockError::Unsupported) => {
                fs::remove_file(&unnamed).map_err(FileError::of("remove", unnamed))?;
            }
            Err(LockError::File(error)) => return Err(error),
        }
        Ok(staged)
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.beside.path()
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// If it cannot be renamed, as where there is a folder with contents; it can then be tried again.
    pub fn publish(&mut self) -> Result<(), FileError> {
        if self.lock.is_some() {
            // Locked until the file is gone: in between the folder would look abandoned.
            let named = self.beside.path().join(LOCK);
            fs::remove_file(&named).map_err(FileError::of("remove", named))?;
            self.lock = None;
        }
        give_name(self.beside.path(), &self.to)?;
        self.beside.disable_cleanup(true);
        Ok(())
    }
}

/// Renames a folder whose files are on disk, and syncs the folders that hold the names.
///
/// # Errors
/// If it cannot be renamed.
pub fn give_name(beside: &Path, to: &Path) -> Result<(), FileError> {
    sync(beside)?;
    fs::rename(beside, to).map_err(FileError::of("create", to))?;
    sync(parent_of(to))
}

/// Removes a folder and all that is in it.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(path).map_err(FileError::of("remove", path))
}

/// Removes what was begun in a folder by [`write`](crate::write) and its kin, by a process that was killed.
///
/// # Errors
/// If the folder cannot be read, or something cannot be removed.
pub fn remove_leftovers(folder: &Path) -> Result<(), FileError> {
    let entries = fs::read_dir(folder).map_err(FileError::of("read", folder))?;
    for entry in entries.flatten() {
        if is_unnamed(&entry.file_name()) && entry.path().is_file() {
            fs::remove_file(entry.path()).map_err(FileError::of("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Removes what processes that were killed have left of [locked](Staged::locked) folders beside `path`. What cannot be removed
/// is in nobody's way and stays.
pub fn remove_abandoned(path: &Path) {
    let entries = fs::read_dir(parent_of(path)).into_iter().flatten();
    for entry in entries.flatten() {
        let lock = entry.path().join(LOCK);
        // An owner that publishes removes the file first, and then gives up the lock.
        if is_unnamed(&entry.file_name())
            && let Ok(_lock) = Lock::existing(&lock)
            && lock.exists()
        {
            let _ = remove_folder(&entry.path());
        }
    }
}

/// Whether this is the name of something that has no name yet.
fn is_unnamed(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Bytes that are free on the disk of an existing path.
///
/// # Errors
/// If the file system does not say.
pub fn available_space(existing: &Path) -> Result<u64, FileError> {
    fs4::available_space(existing).map_err(FileError::of("read", existing))
}

/// The folder that holds a path.
pub(crate) fn parent_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

pub(crate) fn make_parent(path: &Path) -> Result<(), FileError> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(FileError::of("create", parent))
}

/// Waits until the names in a folder are on disk.
pub(crate) fn sync(folder: &Path) -> Result<(), FileError> {
    if cfg!(windows) {
        // A folder is no file there, and renaming is as durable as it gets.
        return Ok(());
    }
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        // Some network file systems cannot sync folders; they do it themselves.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        synced => synced.map_err(FileError::of("sync", folder)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_published_folder_never_replaces_another() {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("made/on/demand");
        let published = ["first", "second"].map(|name| {
            let mut staged = Staged::new(&to).unwrap();
            fs::write(staged.path().join(name), "").unwrap();
            staged.publish()
        });
        assert!(published[0].is_ok() && published[1].is_err());
        assert_eq!(names(&to), ["first"]);
        assert_eq!(names(to.parent().unwrap()), ["demand"]);
    }

    #[test]
    fn only_a_folder_without_an_owner_is_abandoned() {
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("x");
        let mut owned = Staged::locked(&to).unwrap();
        // As of a process that was killed, and of somebody who has no locks.
        let killed = root.path().join(".killed.tmp");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        let unlocked = root.path().join(".unlocked.tmp");
        fs::create_dir(&unlocked).unwrap();
        remove_abandoned(&to);
        assert!(!killed.exists() && unlocked.exists());
        assert_eq!(names(owned.path()), [LOCK]);
        owned.publish().unwrap();
        assert!(names(&to).is_empty());
    }

    #[test]
    fn a_dropped_folder_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(Staged::new(&root.path().join("x")).unwrap());
        assert!(names(root.path()).is_empty());
    }
}
