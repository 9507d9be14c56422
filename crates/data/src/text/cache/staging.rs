//! Folders that appear whole or not at all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// A temporary folder beside its destination, on the same file system so that it can be renamed.
/// It is removed when dropped.
pub(super) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(super) fn create(destination: &Path) -> io::Result<Staging> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if let Some(parent) = destination.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut name = destination.as_os_str().to_owned();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".tmp-{}-{count}", process::id()));
        let path = PathBuf::from(name);
        // A process of the same number can have died here before.
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(Staging { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the folder to its destination. Fails where there is a folder with contents.
    pub(super) fn move_to(&self, destination: &Path) -> io::Result<()> {
        fs::rename(&self.path, destination)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a move there is nothing left to remove, and nothing to be done about an error.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_moved_folder_never_replaces_another() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("made/on/demand");
        let staged = ["first", "second"].map(|name| {
            let staging = Staging::create(&destination).unwrap();
            fs::write(staging.path().join(name), "").unwrap();
            staging.move_to(&destination)
        });
        assert!(staged[0].is_ok() && staged[1].is_err());
        assert_eq!(names(&destination), ["first"]);
        assert_eq!(names(destination.parent().unwrap()), ["demand"]);
    }

    #[test]
    fn a_dropped_folder_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(Staging::create(&root.path().join("x")).unwrap());
        assert!(names(root.path()).is_empty());
    }
}
