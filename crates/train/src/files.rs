//! Files that are whole or absent.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::error::TrainError;

/// Writes a file beside its final name, syncs it and renames it.
///
/// # Errors
/// With the path, if the folder cannot be made or the file cannot be written; nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(TrainError::io("create", parent))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let beside = path.with_file_name(name);
    write_synced(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path).map_err(TrainError::io("write", path)))
        .inspect_err(|_| {
            // The first error is the one to tell.
            let _ = fs::remove_file(&beside);
        })
}

/// Writes a file and waits until it is on disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(TrainError::io("write", path))
}
