//! Whole files.

use std::{fs::File, io::Write, path::Path};

use crate::{
    error::FileError,
    folder::{make_parent, parent_of, sync, unnamed},
};

/// Writes a file; its folder is made if it is not there.
///
/// # Errors
/// If the folder cannot be made or the file cannot be written; what was there before is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with(path, |file| {
        file.write_all(bytes).map_err(FileError::of("write", path))
    })
}

/// Writes a file piece by piece; its folder is made if it is not there.
///
/// # Errors
/// As [`write()`], and those of `pieces`.
pub fn write_with<E: From<FileError>>(
    path: &Path,
    pieces: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    make_parent(path)?;
    let parent = parent_of(path);
    let beside = unnamed(0o666).tempfile_in(parent);
    let mut beside = beside.map_err(FileError::of("write", path))?;
    pieces(beside.as_file_mut())?;
    let synced = beside.as_file().sync_all();
    synced.map_err(FileError::of("write", path))?;
    let named = beside.persist(path).map_err(|error| error.error);
    named.map_err(FileError::of("write", path))?;
    Ok(sync(parent)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/demand");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let failed: Result<(), FileError> = write_with(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(FileError::of("write", &path)(std::io::Error::other("no")))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = write(&dir.path().join("file/below"), b"").unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
