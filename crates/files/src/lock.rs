//! Locks that end with their process.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::error::FileError;

/// A file that is locked as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why a file is not locked.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else has locked it.
    Busy,
    /// The file system has no locks.
    Unsupported,
    /// The file cannot be made.
    File(FileError),
}

impl Lock {
    /// Locks the file at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// If somebody else has locked it, or it cannot be.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(path);
        let file = file.map_err(FileError::of("create", path));
        Self::of(file.map_err(LockError::File)?)
    }

    /// Locks the file at `path` if there is one.
    ///
    /// # Errors
    /// If there is none, somebody else has locked it, or it cannot be.
    pub fn existing(path: &Path) -> Result<Self, LockError> {
        let file = File::open(path).map_err(FileError::of("open", path));
        Self::of(file.map_err(LockError::File)?)
    }

    fn of(file: File) -> Result<Self, LockError> {
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Busy),
            Err(TryLockError::Error(_)) => Err(LockError::Unsupported),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(matches!(Lock::existing(&path), Err(LockError::File(_))));
        let lock = Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Busy)));
        drop(lock);
        assert!(Lock::existing(&path).is_ok());
    }
}
