//! Text of data sets of the Hugging Face hub.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, anyhow};
use upcycle_data::{DataConfig, RemoteError, RemoteText, remote_name};
use upcycle_lab::Needs;

/// Finds a data set, for [`upcycle_data::Dataset::open_observed`].
///
/// # Errors
/// If there is none of this name, or no network.
#[cfg(feature = "hub")]
pub fn find(name: &str) -> Result<Arc<dyn RemoteText>, RemoteError> {
    Ok(Arc::new(files::Files(upcycle_hf::HubText::find(name)?)))
}

/// Finds no data set.
///
/// # Errors
/// Always: the hub is not compiled in.
#[cfg(not(feature = "hub"))]
pub fn find(name: &str) -> Result<Arc<dyn RemoteText>, RemoteError> {
    let path = format!("hf:{name}").into();
    Err(upcycle_data::DataError::NoHub { path }.into())
}

/// The files of a data set, all of which are downloaded first.
///
/// # Errors
/// As those of [`find`], or if a file cannot be downloaded.
pub fn download(name: &str) -> Result<Vec<PathBuf>> {
    let found = find(name).map_err(|error| anyhow!("{error}"))?;
    let files = (0..found.files().len()).map(|index| found.fetch(index));
    let files: Result<Vec<PathBuf>, RemoteError> = files.collect();
    files.map_err(|error| anyhow!("{error}"))
}

/// Names data sets of the hub by their commits, so that they stay what they are, and says how much of them is wanted if the data
/// do not: as much as for a model that was trained on them `before`, so that they are the same data, else what `needs` tells.
///
/// # Errors
/// As those of [`find`].
pub fn settle(config: &mut DataConfig, before: Option<&DataConfig>, needs: Needs) -> Result<()> {
    let DataConfig::Text(text) = config else {
        return Ok(());
    };
    let lists = [&mut text.paths, &mut text.validation, &mut text.test];
    let mut is_of_hub = false;
    for path in lists.into_iter().flatten() {
        let Some(name) = remote_name(path) else {
            continue;
        };
        let found = find(name).map_err(|error| anyhow!("{error}"))?;
        *path = format!("hf:{}", found.name()).into();
        is_of_hub = true;
    }
    if is_of_hub && text.hub_tokens.is_none() {
        let before = match before {
            Some(DataConfig::Text(before)) if before.paths == text.paths => before.hub_tokens,
            _ => None,
        };
        let beside = text.training_tokens_beside(needs.evaluation);
        text.hub_tokens = before.or(Some(needs.training.max(beside)));
    }
    Ok(())
}

#[cfg(feature = "hub")]
mod files {
    use std::path::PathBuf;

    use upcycle_data::{RemoteError, RemoteText};
    use upcycle_hf::HubText;

    use crate::output;

    /// Files of a data set, whose downloads are told.
    pub struct Files(pub HubText);

    impl RemoteText for Files {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn files(&self) -> &[String] {
            self.0.files()
        }

        fn fetch(&self, index: usize) -> Result<PathBuf, RemoteError> {
            if self.0.cached(index).is_none() {
                output::note!(
                    "downloading file {} of {} of hf:{}",
                    index + 1,
                    self.files().len(),
                    self.name()
                );
            }
            Ok(self.0.fetch(index)?)
        }
    }
}
