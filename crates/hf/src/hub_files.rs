//! Which files of a data set of the hub are of which configuration and split: their paths tell, by the hub's conventions.

use std::collections::BTreeSet;

use crate::hub_name::HubName;

/// What a configuration is called that paths do not name.
const DEFAULT_CONFIG: &str = "default";

/// All configurations, where they are chosen.
const ALL: &str = "*";

/// The split where none is named, in a path and in what is asked for.
const DEFAULT_SPLIT: &str = "train";

/// What the parts of a data set are called.
const SPLITS: [&str; 9] = [
    "train",
    "training",
    "validation",
    "valid",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
];

/// Names that are told before there are too many.
const TOLD: usize = 20;

/// Where in a data set a file belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    config: String,
    split: String,
}

impl Place {
    /// The place of a file: `data/SPLIT-00000-of-00010.parquet`, `CONFIG/SPLIT-00000-of-00010.parquet`, `CONFIG/SPLIT/0000.parquet`,
    /// `SPLIT/..`, `CONFIG/partial-SPLIT/0000.parquet` or a name with the word of a split in it. What tells no split is of `train`.
    fn of(file: &str) -> Self {
        let mut folders: Vec<&str> = file.split('/').collect();
        let name = folders.pop().unwrap_or_default();
        if folders.first() == Some(&"data") {
            folders.remove(0);
        }
        let stem = name.split('.').next().unwrap_or_default();
        let is_split = |word: &&str| SPLITS.contains(word);
        let numbered = numbered(stem);
        let mut wholes = folders.iter().map(|folder| whole(folder));
        let folder = wholes.position(|folder| SPLITS.contains(&folder));
        let is_converted = folders.len() > 1 && stem.bytes().all(|byte| byte.is_ascii_digit());
        let mut words = stem.split(['-', '_', ' ']);
        let (split, of_config) = if let Some(split) = numbered.filter(is_split) {
            (split, folders.len())
        } else if let Some(folder) = folder {
            (whole(folders[folder]), folder)
        } else if let Some(split) = numbered.filter(|split| !split.contains('-')) {
            (split, folders.len())
        } else if let Some(last) = folders.last().filter(|_| is_converted) {
            (whole(last), folders.len() - 1)
        } else {
            let split = words.find(is_split).unwrap_or(DEFAULT_SPLIT);
            (split, folders.len())
        };
        Self {
            config: match &folders[..of_config] {
                [] => DEFAULT_CONFIG.to_owned(),
                // As in fineweb, where sample/10BT is the configuration sample-10BT.
                folders => folders.join("-"),
            },
            split: split.to_owned(),
        }
    }
}

/// The name of a split of which the hub has converted only a part is that of the whole.
fn whole(folder: &str) -> &str {
    folder.strip_prefix("partial-").unwrap_or(folder)
}

/// `SPLIT` of `SPLIT-00000-of-00010`.
fn numbered(stem: &str) -> Option<&str> {
    let (before, count) = stem.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let is_number = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(split)
}

/// The files of a split of a configuration, or of all of them, in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) config: String,
    pub(crate) split: String,
    pub(crate) files: Vec<String>,
}

/// Chooses among the files of a data set.
///
/// # Errors
/// What stands against it, as the end of a sentence that begins with the data set.
pub(crate) fn choose(files: &[String], asked: &HubName) -> Result<Chosen, String> {
    let places: Vec<(Place, &String)> = files.iter().map(|file| (Place::of(file), file)).collect();
    let configs: BTreeSet<&str> = places.iter().map(|(it, _)| it.config.as_str()).collect();
    let example = |config: &str, split: Option<&str>| HubName {
        config: Some(config.to_owned()),
        split: split.map(str::to_owned),
        ..asked.clone()
    };
    let only = configs.first().filter(|_| configs.len() == 1).copied();
    let default = configs.get(DEFAULT_CONFIG).copied();
    let config = match asked.config.as_deref() {
        Some(asked) if configs.contains(asked) => Some(asked),
        // What has one configuration need not name it.
        Some(DEFAULT_CONFIG) => only,
        Some(ALL) => Some(ALL),
        Some(_) => None,
        None => only.or(default),
    };
    let Some(config) = config else {
        let first = configs.first().copied().unwrap_or_default();
        return Err(format!(
            "{}; it has {}: choose one, as in hf:{}",
            match &asked.config {
                Some(config) => format!("has no configuration {config}"),
                None => "has several configurations, and none is chosen".to_owned(),
            },
            listed(&configs),
            example(first, asked.split.as_deref())
        ));
    };
    let is_of_config = |place: &Place| config == ALL || place.config == config;
    let of_config = places.iter().filter(|(place, _)| is_of_config(place));
    let split = asked.split.as_deref().unwrap_or(DEFAULT_SPLIT);
    let of_split = of_config.clone().filter(|(place, _)| place.split == split);
    let mut files: Vec<String> = of_split.map(|(_, file)| (*file).clone()).collect();
    files.sort_unstable();
    if files.is_empty() {
        let splits: BTreeSet<&str> = of_config.map(|(place, _)| place.split.as_str()).collect();
        let first = splits.first().copied();
        return Err(format!(
            "has no split {split} in its configuration {config}; it has {}: choose one, as in hf:{}",
            listed(&splits),
            example(config, first)
        ));
    }
    Ok(Chosen {
        config: config.to_owned(),
        split: split.to_owned(),
        files,
    })
}

fn listed(names: &BTreeSet<&str>) -> String {
    let told: Vec<&str> = names.iter().take(TOLD).copied().collect();
    match names.len() - told.len() {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_configuration_and_split() {
        for (file, config, split) in [
            ("train.jsonl.zst", "default", "train"),
            ("part-1.parquet", "default", "train"),
            (
                "data/train-00000-of-00004-2d5a1467fff1081b.parquet",
                "default",
                "train",
            ),
            (
                "data/train_sft-00000-of-00003.parquet",
                "default",
                "train_sft",
            ),
            (
                "20231101.en/train-00000-of-00041.parquet",
                "20231101.en",
                "train",
            ),
            ("en/c4-train.00000-of-01024.json.gz", "en", "train"),
            ("default/partial-train/0000.parquet", "default", "train"),
            ("en/train_sft/0000.parquet", "en", "train_sft"),
            ("train/chunk1/example_train_0.jsonl.zst", "default", "train"),
            ("train/part-00000-of-00010.parquet", "default", "train"),
            (
                "data/CC-MAIN-2013-20/train-00000-of-00014.parquet",
                "CC-MAIN-2013-20",
                "train",
            ),
            ("sample/10BT/000_00000.parquet", "sample-10BT", "train"),
            ("data/stories/0001.parquet", "stories", "train"),
            (
                "abstract_algebra/dev-00000-of-00001.parquet",
                "abstract_algebra",
                "dev",
            ),
        ] {
            let place = Place::of(file);
            assert_eq!(
                (place.config.as_str(), place.split.as_str()),
                (config, split),
                "{file}"
            );
        }
    }

    fn chosen(files: &[&str], name: &str) -> Result<Chosen, String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        choose(&files, &HubName::parse(name).unwrap())
    }

    #[test]
    fn the_only_configuration_and_train_need_no_name() {
        let files = [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
        ];
        let train = chosen(&files, "a/b").unwrap();
        assert_eq!(
            (train.config.as_str(), train.split.as_str()),
            ("default", "train")
        );
        assert_eq!(train.files, [files[1], files[0]]);
        assert_eq!(
            chosen(&files, "a/b:default/validation").unwrap().files,
            [files[2]]
        );
        let error = chosen(&files, "a/b/test").unwrap_err();
        assert!(error.contains("has no split test"), "{error}");
        assert!(
            error.contains("it has train, validation: choose one, as in hf:a/b:default/train"),
            "{error}"
        );
    }

    #[test]
    fn several_configurations_need_a_choice() {
        let files = ["fr/train-00000-of-00001.parquet", "en/train/0000.parquet"];
        let error = chosen(&files, "a/b@v1").unwrap_err();
        assert!(
            error.contains("it has en, fr: choose one, as in hf:a/b@v1:en"),
            "{error}"
        );
        let error = chosen(&files, "a/b:de/train").unwrap_err();
        assert!(
            error.contains("no configuration de; it has en, fr"),
            "{error}"
        );
        assert_eq!(chosen(&files, "a/b:en").unwrap().files, [files[1]]);
        let all = chosen(&files, "a/b:*").unwrap();
        assert_eq!(all.files, [files[1], files[0]]);
        let with_default = [files[0], "data/train-00000-of-00001.parquet"];
        assert_eq!(chosen(&with_default, "a/b").unwrap().config, "default");
    }
}
