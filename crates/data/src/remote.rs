//! Text that is fetched while it is packed.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The files of a split of a data set of the Hugging Face hub, at one commit.
pub trait RemoteText: Send + Sync {
    /// What determines the contents of the files: data set, commit, configuration and split, as they stand after `hf:`.
    fn name(&self) -> &str;

    /// Names of the files, whose ends tell what is in them, in the order in which they are read.
    fn files(&self) -> &[String];

    /// Where the file of this place in the list lies on this machine, to which it is downloaded if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be downloaded, as a sentence with the fix.
    fn fetch(&self, index: usize) -> Result<PathBuf, RemoteError>;
}

/// Why a data set cannot be had.
pub type RemoteError = Box<dyn Error + Send + Sync>;

/// Finds the data set of a name, which stands after `hf:` in a path.
pub type FindRemote<'a> = &'a dyn Fn(&str) -> Result<Arc<dyn RemoteText>, RemoteError>;

/// What follows `hf:` in a path that names a data set of the Hugging Face hub; none of other paths.
pub fn remote_name(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix("hf:")
}
