//! Data sets of the hub, from a folder in its place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use upcycle_data::{
    DataConfig, DataError, Dataset, RemoteError, RemoteText, Split, TextConfig, TokenizerConfig,
};

/// Bytes of text in each of the four files of a data set, in documents of 1000.
const FILE: usize = 300_000;

struct Folder {
    name: String,
    files: Vec<String>,
    dir: PathBuf,
    fetched: Arc<Mutex<Vec<usize>>>,
}

impl RemoteText for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn files(&self) -> &[String] {
        &self.files
    }

    fn fetch(&self, index: usize) -> Result<PathBuf, RemoteError> {
        self.fetched.lock().unwrap().push(index);
        match self.dir.join(&self.files[index]) {
            path if path.exists() => Ok(path),
            _ => Err(format!("{} is gone; get it back", self.files[index]).into()),
        }
    }
}

/// A folder with the files of a data set, and room for a cache.
struct Hub {
    root: TempDir,
    fetched: Arc<Mutex<Vec<usize>>>,
}

impl Hub {
    fn new() -> Hub {
        let root = tempfile::tempdir().unwrap();
        for file in 0..4 {
            let documents = (0..FILE / 1000).map(|document| {
                let text = format!("{file} {document} ").repeat(1000);
                format!("{{\"text\": \"{}\"}}\n", &text[..1000])
            });
            let path = root.path().join(format!("train-{file}.jsonl"));
            fs::write(path, documents.collect::<String>()).unwrap();
        }
        Hub {
            root,
            fetched: Arc::default(),
        }
    }

    fn open(&self, config: &TextConfig) -> Result<Dataset, DataError> {
        let find = |name: &str| -> Result<Arc<dyn RemoteText>, RemoteError> {
            Ok(Arc::new(Folder {
                name: name.to_owned(),
                files: (0..4).map(|file| format!("train-{file}.jsonl")).collect(),
                dir: self.root.path().to_owned(),
                fetched: self.fetched.clone(),
            }))
        };
        let cache = self.root.path().join("cache");
        let config = DataConfig::Text(config.clone());
        Dataset::open_observed(&config, &cache, &cache, &find, &|_| {
            ControlFlow::Continue(())
        })
    }

    /// The files that were fetched since the last call.
    fn fetched(&self) -> Vec<usize> {
        std::mem::take(&mut *self.fetched.lock().unwrap())
    }
}

fn config(hub_tokens: u64) -> TextConfig {
    TextConfig {
        paths: vec!["hf:org/name@c0ffee:default/train".into()],
        hub_tokens: Some(hub_tokens),
        ..TextConfig::default()
    }
}

#[test]
fn only_the_files_that_are_needed_are_fetched_and_once() {
    let hub = Hub::new();
    let data = hub.open(&config(1000)).unwrap();
    assert_eq!(hub.fetched(), [0, 1]);
    let report = &data.text_reports()[0];
    assert_eq!((report.files, report.of_files), (2, Some(4)));
    assert!(data.tokens(Split::Pretrain).unwrap() >= 1 << 18);
    assert!(data.tokens(Split::Cpt).unwrap() >= 1 << 18);
    assert!(report.documents < 2 * FILE as u64 / 1000);
    let part = report.part().unwrap();
    assert!(part.contains("2 of 4 files"), "{part}");
    assert_eq!(data.label(), "name");

    let again = hub.open(&config(1000)).unwrap();
    assert!(hub.fetched().is_empty());
    assert_eq!(again.fingerprint(), data.fingerprint());
    assert_eq!(again.text_reports(), data.text_reports());

    let more = hub.open(&config(400_000)).unwrap();
    assert_eq!(hub.fetched(), [0, 1, 2]);
    assert_ne!(more.fingerprint(), data.fingerprint());
    assert_eq!(more.text_reports()[0].change, None);

    let mut other = config(1000);
    other.paths = vec!["hf:org/name@decade:default/train".into()];
    assert_ne!(hub.open(&other).unwrap().fingerprint(), data.fingerprint());

    let mut all = config(1000);
    all.hub_tokens = None;
    assert_eq!(hub.open(&all).unwrap().text_reports()[0].files, 4);
}

#[test]
fn a_tokenizer_is_trained_on_the_beginning() {
    let hub = Hub::new();
    let mut bpe = config(1000);
    bpe.tokenizer = TokenizerConfig::Bpe { vocab: 260 };
    let data = hub.open(&bpe).unwrap();
    assert!(data.tokens(Split::Pretrain).unwrap() >= 1 << 18);
    // The tokenizer reads two files, and packing more: a token is more than a byte.
    let fetched = hub.fetched();
    assert_eq!(fetched[..3], [0, 1, 0]);
    assert!(fetched.len() > 4, "{fetched:?}");
}

#[test]
fn mixtures_and_held_out_text_take_their_part() {
    let hub = Hub::new();
    let own = hub.root.path().join("own.txt");
    fs::write(&own, "le petit chat boit du lait ".repeat(200)).unwrap();
    let mixture = TextConfig {
        paths: vec!["hf:org/name@c0ffee:default/train".into(), own],
        weights: vec![0.5, 0.5],
        validation: vec!["hf:org/name@c0ffee:default/validation".into()],
        ..config(600_000)
    };
    let data = hub.open(&mixture).unwrap();
    // Half of 600,000 and a little more for each of two splits, then some validation text, whole.
    assert_eq!(hub.fetched(), [0, 1, 2, 0]);
    let reports = data.text_reports();
    assert_eq!(reports[1].of_files, None);
    assert_eq!(reports[2].tokens[..2], [0, 0]);

    let mut twice = config(1000);
    twice.validation = twice.paths.clone();
    let error = hub.open(&twice).unwrap_err().to_string();
    assert!(error.contains("both training and validation"), "{error}");
}

#[test]
fn what_cannot_be_fetched_is_told_and_leaves_nothing() {
    let hub = Hub::new();
    fs::remove_file(hub.root.path().join("train-1.jsonl")).unwrap();
    let error = hub.open(&config(1000)).unwrap_err().to_string();
    assert_eq!(error, "train-1.jsonl is gone; get it back");
    let cache = fs::read_dir(hub.root.path().join("cache"));
    assert_eq!(cache.map_or(0, Iterator::count), 0);

    let config = DataConfig::Text(config(1000));
    let error = Dataset::open(&config, hub.root.path()).unwrap_err();
    assert!(error.to_string().contains("--features hub"), "{error}");
}
