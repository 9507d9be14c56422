//! The corpus as a whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, fs, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::TokenizerConfig;

/// A folder of text and a cache beside it.
struct Bench {
    root: TempDir,
    config: TextConfig,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let root = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::write(&path, text).unwrap();
            paths.push(path);
        }
        Bench {
            root,
            config: TextConfig {
                paths,
                ..TextConfig::default()
            },
        }
    }

    fn bpe(mut self, vocab: usize) -> Bench {
        self.config.tokenizer = TokenizerConfig::Bpe { vocab };
        self
    }

    fn cache_dir(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn open(&self) -> Result<TextCorpus, DataError> {
        TextCorpus::open(&self.config, &self.cache_dir())
    }
}

fn all(corpus: &TextCorpus, split: Split) -> Vec<u32> {
    corpus.packed.stream(split).ids(0).collect()
}

/// Text in which every stretch of a few bytes is different.
fn counting(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{number} ")).collect()
}

#[test]
fn splits_are_disjoint_parts_and_together_the_whole_text() {
    let mut bench = Bench::new(&[
        ("a.txt", "première pièce\n\u{c}\ndeuxième, ça et là"),
        (
            "b.jsonl",
            "{\"text\": \"日本語のテキスト、もう少し長く\"}\n",
        ),
    ]);
    // Large enough that each part of these short documents has a character.
    (bench.config.validation_share, bench.config.test_share) = (0.15, 0.15);
    let corpus = bench.open().unwrap();
    let parts = Split::ALL.map(|split| -> Vec<String> {
        let ids = all(&corpus, split);
        assert_eq!(ids.last(), Some(&256), "a part ends with the separator");
        assert_eq!(corpus.tokens(split), ids.len() as u64);
        ids[..ids.len() - 1]
            .split(|&id| id == 256)
            .map(|part| String::from_utf8(part.iter().map(|&id| id as u8).collect()).unwrap())
            .collect()
    });
    let documents: Vec<String> = (0..3)
        .map(|document| parts.iter().map(|part| part[document].as_str()).collect())
        .collect();
    assert_eq!(
        documents,
        [
            "première pièce",
            "deuxième, ça et là",
            "日本語のテキスト、もう少し長く"
        ]
    );
    assert_eq!(corpus.vocab_size(), 257);
}

#[test]
fn the_fingerprint_is_of_contents_not_of_places() {
    let text = counting(0..50);
    let files = |name| Bench::new(&[(name, text.as_str())]);
    let print = |bench: Bench| bench.open().unwrap().fingerprint().to_owned();
    let original = print(files("a.txt"));
    assert_eq!(original, print(files("b.txt")));
    assert_ne!(original, print(Bench::new(&[("a.txt", &counting(0..51))])));
    assert_ne!(original, print(files("a.txt").bpe(260)));
    let mut other_shares = files("a.txt");
    other_shares.config.cpt_share = 0.4;
    assert_ne!(original, print(other_shares));
}

#[test]
fn every_window_comes_once_an_epoch_in_an_order_of_its_own() {
    let corpus = Bench::new(&[("a.txt", &counting(0..500))]).open().unwrap();
    let count = corpus.windows(Split::Cpt, 16).unwrap().count() as usize;
    let epoch = |seed, epoch| -> Vec<Vec<u32>> {
        let first_row = (epoch * count) as u64;
        let batch = corpus
            .batch(Split::Cpt, seed, first_row, count, 16)
            .unwrap();
        batch.inputs.chunks(16).map(<[u32]>::to_vec).collect()
    };
    let stream = all(&corpus, Split::Cpt);
    let windows: HashSet<Vec<u32>> = stream.chunks_exact(16).map(<[u32]>::to_vec).collect();
    for order in [epoch(0, 0), epoch(0, 1), epoch(1, 0)] {
        let seen: HashSet<Vec<u32>> = order.into_iter().collect();
        assert_eq!(seen.len(), count);
        assert!(seen.is_subset(&windows));
    }
    assert_ne!(epoch(0, 0), epoch(0, 1));
    assert_ne!(epoch(0, 0), epoch(1, 0));
}

#[test]
fn targets_are_the_tokens_that_follow() {
    let corpus = Bench::new(&[("a.txt", &counting(0..200))]).open().unwrap();
    let stream = all(&corpus, Split::Pretrain);
    let batch = corpus.batch(Split::Pretrain, 0, 0, 4, 10).unwrap();
    for row in 0..4 {
        let inputs = &batch.inputs[row * 10..][..10];
        let targets = &batch.targets[row * 10..][..10];
        let start = stream
            .windows(10)
            .position(|window| window == inputs)
            .unwrap();
        assert_eq!(start % 10, 0);
        assert_eq!(*targets, stream[start + 1..start + 11]);
    }
    assert_eq!(batch.scored(), 40.0);
    corpus.batch(Split::Pretrain, 0, u64::MAX, 2, 10).unwrap();
}

#[test]
fn a_prefix_of_validation_covers_every_domain() {
    let mut bench = Bench::new(&[
        ("a.txt", &"a".repeat(400)),
        ("b.txt", &"b".repeat(400)),
        ("c.txt", &"c".repeat(400)),
    ]);
    bench.config.validation_share = 0.5;
    bench.config.cpt_share = 0.25;
    let corpus = bench.open().unwrap();
    assert_eq!(corpus.evaluation_rows(Split::Validation, 10), 60);
    let batch = corpus
        .evaluation_batch(Split::Validation, 0, 6, 10)
        .unwrap();
    for byte in *b"abc" {
        assert!(batch.inputs.contains(&u32::from(byte)));
    }
    let later = corpus
        .evaluation_batch(Split::Validation, 3, 3, 10)
        .unwrap();
    assert_eq!(later.inputs, batch.inputs[30..]);

    let message = corpus
        .evaluation_batch(Split::Validation, 58, 3, 10)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("row 60") && message.contains("there are 60"),
        "{message}"
    );
}

#[test]
fn small_splits_are_named() {
    let corpus = Bench::new(&[("a.txt", &"x".repeat(400))]).open().unwrap();
    corpus.check_shape(9).unwrap();
    let message = corpus.check_shape(11).unwrap_err().to_string();
    assert!(
        message.contains("validation split holds 11 tokens"),
        "{message}"
    );
    assert!(message.contains("add text"), "{message}");
    assert!(corpus.batch(Split::Validation, 0, 0, 1, 11).is_err());
    assert_eq!(corpus.evaluation_rows(Split::Validation, 11), 0);
    assert!(corpus.check_shape(0).is_err());
    assert_eq!(corpus.evaluation_rows(Split::Validation, 0), 0);
}

#[test]
fn a_second_opening_reads_the_cache() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]).bpe(270);
    let first = bench.open().unwrap();
    let meta = bench
        .cache_dir()
        .join(first.fingerprint())
        .join("meta.json");
    let written = fs::metadata(&meta).unwrap().modified().unwrap();
    let second = bench.open().unwrap();
    assert_eq!(fs::metadata(&meta).unwrap().modified().unwrap(), written);
    assert_eq!(second.vocab_size(), 270);
    assert_eq!(first.tokenizer_json(), second.tokenizer_json());
    assert!(first.tokenizer_json().unwrap().contains("<|endoftext|>"));
    for split in Split::ALL {
        assert_eq!(all(&first, split), all(&second, split));
    }
}

#[test]
fn damage_is_repaired() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]).bpe(270);
    let whole = bench.open().unwrap();
    let folder = bench.cache_dir().join(whole.fingerprint());
    for (file, contents) in [
        ("cpt.bin", Some("short")),
        ("validation.bin", None),
        ("meta.json", Some("{")),
        ("meta.json", None),
        ("tokenizer.json", Some("{}")),
    ] {
        let path = folder.join(file);
        fs::remove_file(&path).unwrap();
        if let Some(contents) = contents {
            fs::write(&path, contents).unwrap();
        }
        let repaired = bench.open().unwrap();
        for split in Split::ALL {
            assert_eq!(all(&whole, split), all(&repaired, split), "{file}");
        }
        assert_eq!(whole.tokenizer_json(), repaired.tokenizer_json());
    }
    let same_length = fs::read(folder.join("cpt.bin")).unwrap().len();
    fs::remove_file(folder.join("cpt.bin")).unwrap();
    fs::write(folder.join("cpt.bin"), vec![0; same_length]).unwrap();
    assert_eq!(
        all(&bench.open().unwrap(), Split::Cpt),
        all(&whole, Split::Cpt)
    );
    assert_eq!(fs::read_dir(bench.cache_dir()).unwrap().count(), 1);
}

#[test]
fn openings_at_once_do_not_disturb_one_another() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]);
    let streams: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let opening = || all(&bench.open().unwrap(), Split::Cpt);
        let threads = [(); 4].map(|()| scope.spawn(opening));
        threads.map(|thread| thread.join().unwrap()).into()
    });
    assert!(streams.iter().all(|stream| *stream == streams[0]));
    assert_eq!(fs::read_dir(bench.cache_dir()).unwrap().count(), 1);
}

#[test]
fn an_unusable_cache_folder_is_named() {
    let bench = Bench::new(&[("a.txt", "text")]);
    fs::write(bench.cache_dir(), "a file").unwrap();
    let message = bench.open().err().unwrap().to_string();
    let cache_dir = bench.cache_dir().display().to_string();
    for part in ["packed tokens cannot be kept", &cache_dir] {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.contains("or choose another"), "{message}");
}

#[test]
fn a_tokenizer_file_gives_the_tokens_of_the_training_that_made_it() {
    let trained = Bench::new(&[("a.txt", &counting(0..300))]).bpe(280);
    let first = trained.open().unwrap();
    let path = trained.root.path().join("tokenizer.json");
    fs::write(&path, first.tokenizer_json().unwrap()).unwrap();
    let mut filed = Bench::new(&[("a.txt", &counting(0..300))]);
    filed.config.tokenizer = TokenizerConfig::File { path };
    let second = filed.open().unwrap();
    assert_eq!(all(&first, Split::Cpt), all(&second, Split::Cpt));
    assert_eq!(first.tokenizer_json(), second.tokenizer_json());
    assert_ne!(first.fingerprint(), second.fingerprint());
}
