//! Data sets of the Hugging Face hub.

use std::path::PathBuf;

use hf_hub::{Repo, RepoType};

use crate::{error::HfError, hub::api, hub_files::Place};

/// Where the hub keeps every data set as Parquet files, whatever it is made of.
pub(crate) const CONVERTED: &str = "refs/convert/parquet";

/// Downloads the Parquet files of a split of a data set, `ORG/NAME` or `ORG/NAME@REVISION`, to the hub's cache, and gives
/// them in order: those of one configuration, or without one of all of them. Where the data set is made of other files, and
/// no revision is named, those that the hub has made of it are taken. What is there already is not downloaded again.
///
/// # Errors
/// If there is no such data set or split, or the network fails.
pub fn download_split(
    dataset: &str,
    config: Option<&str>,
    split: &str,
) -> Result<Vec<PathBuf>, HfError> {
    let fail = |error: &dyn std::fmt::Display| {
        HfError::Impossible(format!(
            "the data set {dataset} of the hub cannot be downloaded: {error}; check name, revision and network, set HF_TOKEN for a gated one, or give a file of your own"
        ))
    };
    let (name, revisions) = match dataset.split_once('@') {
        Some((name, revision)) => (name, vec![revision]),
        None => (dataset, vec!["main", CONVERTED]),
    };
    let api = api().map_err(|error| fail(&error))?;
    let (mut there, mut refused) = (Vec::new(), None);
    for revision in revisions {
        let repo = Repo::with_revision(name.to_owned(), RepoType::Dataset, revision.to_owned());
        let repo = api.repo(repo);
        let info = match repo.info() {
            Ok(info) => info,
            // Not every data set is converted.
            Err(error) if revision == CONVERTED => {
                refused = Some(error);
                break;
            }
            Err(error) => return Err(fail(&error)),
        };
        let files = info.siblings.into_iter().map(|file| file.rfilename);
        let files: Vec<String> = files.filter(|file| file.ends_with(".parquet")).collect();
        let wanted = of_split(&files, config, split);
        if !wanted.is_empty() {
            let paths = wanted.into_iter().map(|file| repo.get(file));
            return paths
                .collect::<Result<_, _>>()
                .map_err(|error| fail(&error));
        }
        there.extend(files);
    }
    let config = config.map_or(String::new(), |config| {
        format!(" of configuration {config}")
    });
    let some: Vec<&str> = there.iter().take(8).map(String::as_str).collect();
    Err(HfError::Impossible(match some.is_empty() {
        true => {
            let refused = refused.map_or(String::new(), |error| {
                format!(", and those that the hub makes of it cannot be had ({error})")
            });
            format!(
                "the data set {dataset} of the hub has no Parquet files{refused}; give a file of your own"
            )
        }
        false => format!(
            "the data set {dataset} of the hub has no Parquet files of split {split}{config}; it has {}",
            some.join(", ")
        ),
    }))
}

/// The files of a split, of one configuration or of all, by the places that their paths tell.
fn of_split<'a>(files: &'a [String], config: Option<&str>, split: &str) -> Vec<&'a str> {
    let places = files.iter().map(|file| (Place::of(file), file.as_str()));
    let places: Vec<(Place, &str)> = places.collect();
    // What has one configuration need not name it.
    let is_named = |config: &&str| places.iter().any(|(place, _)| place.config == **config);
    let config = config.filter(|config| *config != "default" || is_named(config));
    let is_wanted =
        |place: &Place| place.split == split && config.is_none_or(|config| place.config == config);
    let of_split = places.iter().filter(|(place, _)| is_wanted(place));
    let mut files: Vec<&str> = of_split.map(|(_, file)| *file).collect();
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_found_by_the_names_of_the_hubs_tools() {
        let files = [
            "ARC-Easy/test-00001-of-00002.parquet",
            "ARC-Easy/test-00000-of-00002.parquet",
            "ARC-Easy/train-00000-of-00001.parquet",
            "ARC-Challenge/test/0000.parquet",
        ]
        .map(String::from);
        let found = |config, split| of_split(&files, config, split);
        assert_eq!(
            found(Some("ARC-Easy"), "test"),
            [files[1].as_str(), files[0].as_str()]
        );
        assert_eq!(found(None, "test").len(), 3);
        assert_eq!(found(Some("ARC-Challenge"), "test"), [files[3].as_str()]);
        assert!(found(Some("ARC-Challenge"), "train").is_empty());
        assert!(found(None, "tes").is_empty());
        let plain = ["data/validation-00000-of-00001.parquet"].map(String::from);
        assert_eq!(of_split(&plain, Some("default"), "validation").len(), 1);
        assert!(of_split(&plain, Some("other"), "validation").is_empty());
    }
}
