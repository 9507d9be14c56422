//! The corpus as a whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, fs, io::Write, ops::ControlFlow, path::PathBuf, sync::Mutex};

use flate2::write::GzEncoder;
use parquet::basic::Compression;
use tempfile::TempDir;
use upcycle_digest::Digest;

use super::{column::tests::write as write_parquet, *};
use crate::{SplitDocuments, Splitting, TextChange, TextProgress, TokenizerConfig};

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
        self.open_watched(&Watch::silent())
    }

    fn open_watched(&self, watch: &Watch<'_>) -> Result<TextCorpus, DataError> {
        let cache = self.cache_dir();
        let config = &self.config;
        TextCorpus::open(
            config,
            &cache,
            &cache,
            &|name: &str| Err(name.into()),
            watch,
        )
    }
}

fn all(corpus: &TextCorpus, split: Split) -> Vec<u32> {
    corpus.sources[0].stream(split).ids(0).collect()
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
fn many_documents_stay_whole() {
    let documents: Vec<String> = (0..500).map(|i| format!("<{}>", i * i)).collect();
    let mut bench = Bench::new(&[("a.txt", &documents.join("\n\u{c}\n"))]);
    let corpus = bench.open().unwrap();
    assert_eq!(corpus.reports()[0].splitting, Splitting::Whole);
    let mut found: Vec<String> = Vec::new();
    for (split, share) in Split::ALL.into_iter().zip([0.475, 0.475, 0.025, 0.025]) {
        let ids = all(&corpus, split);
        let text: String = ids
            .iter()
            .map(|&id| u8::try_from(id).map_or('\n', char::from))
            .collect();
        let own: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(
            (own.len() as f64 / 500.0 - share).abs() < 0.02,
            "{split}: {}",
            own.len()
        );
        found.extend(own);
    }
    found.sort_unstable();
    let mut expected = documents;
    expected.sort_unstable();
    assert_eq!(found, expected);

    bench.config.split_documents = SplitDocuments::Cut;
    assert_ne!(bench.open().unwrap().fingerprint(), corpus.fingerprint());
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
    let count = corpus.rows(Split::Cpt, 16).unwrap().count() as usize;
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
    assert!(first.tokenizer_json().contains("<|endoftext|>"));
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
    fs::write(&path, first.tokenizer_json()).unwrap();
    let mut filed = Bench::new(&[("a.txt", &counting(0..300))]);
    filed.config.tokenizer = TokenizerConfig::File { path };
    let second = filed.open().unwrap();
    assert_eq!(all(&first, Split::Cpt), all(&second, Split::Cpt));
    assert_eq!(first.tokenizer_json(), second.tokenizer_json());
    assert_ne!(first.fingerprint(), second.fingerprint());
}

#[test]
fn fingerprints_of_plain_text_are_those_of_older_versions() {
    let corpus = Bench::new(&[("a.txt", "one\n\u{c}\ntwo")]).open().unwrap();
    // Their caches and checkpoints are to last.
    let mut digest = Digest::new("upcycle-data text corpus 2");
    digest.real(1.0 - 0.025 - 0.025 - 0.475);
    digest.real(1.0 - 0.025 - 0.025).real(1.0 - 0.025);
    digest.bytes(b"bytes").bytes(b"one").bytes(b"two");
    assert_eq!(corpus.fingerprint(), digest.hex());
}

#[test]
fn how_text_is_stored_makes_no_difference() {
    let texts = [counting(0..100), "première pièce".to_owned()];
    let twice = [&texts[0], &texts[1], &texts[0], &texts[1]];
    let lines: String = twice
        .iter()
        .map(|text| format!("{{\"id\": 1, \"text\": \"{text}\"}}\n"))
        .collect();
    let mut bench = Bench::new(&[("a.jsonl", &lines), ("b.parquet", ""), ("c.jsonl.zst", "")]);
    let [lines_path, parquet_path, zst_path] = [0, 1, 2].map(|i| bench.config.paths[i].clone());
    // With a row that is null, which is no document.
    let rows = [Some(texts[0].as_str()), None, Some(texts[1].as_str())];
    write_parquet(&parquet_path, &rows, Compression::SNAPPY);
    let compressed = zstd::stream::encode_all(lines.as_bytes(), 0).unwrap();
    fs::write(&zst_path, compressed).unwrap();
    let fingerprints = [lines_path, parquet_path, zst_path].map(|path| {
        bench.config.paths = vec![path];
        let corpus = bench.open().unwrap();
        assert_eq!(corpus.reports()[0].documents, 4);
        corpus.fingerprint().to_owned()
    });
    assert_eq!(fingerprints[0], fingerprints[1]);
    assert_eq!(fingerprints[0], fingerprints[2]);
}

#[test]
fn a_changed_source_is_packed_anew_and_told() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]);
    let first = bench.open().unwrap();
    assert_eq!(first.reports()[0].change, None);
    fs::write(&bench.config.paths[0], counting(0..301)).unwrap();
    let second = bench.open().unwrap();
    assert_eq!(second.reports()[0].change, Some(TextChange::Contents));
    assert_ne!(first.fingerprint(), second.fingerprint());
    // As it was at first: those tokens are still there.
    fs::write(&bench.config.paths[0], counting(0..300)).unwrap();
    let third = bench.open().unwrap();
    assert_eq!(third.reports()[0].change, None);
    assert_eq!(first.fingerprint(), third.fingerprint());
}

#[test]
fn other_settings_are_no_change_of_the_source() {
    let mut bench = Bench::new(&[("a.txt", &counting(0..300))]);
    bench.open().unwrap();
    bench.config.cpt_share = 0.4;
    assert_eq!(bench.open().unwrap().reports()[0].change, None);
}

#[test]
fn another_column_is_no_change_of_the_contents() {
    let line = "{\"text\": \"some text\", \"body\": \"another one\"}\n";
    let mut bench = Bench::new(&[("a.jsonl", line)]);
    bench.open().unwrap();
    bench.config.text_column = "body".into();
    let change = TextChange::Column {
        before: "text".into(),
        now: "body".into(),
    };
    assert_eq!(bench.open().unwrap().reports()[0].change, Some(change));
    // It is packed both ways, but for new contents.
    fs::write(&bench.config.paths[0], line.replace("one", "two")).unwrap();
    let changed = bench.open().unwrap();
    assert_eq!(changed.reports()[0].change, Some(TextChange::Contents));
}

#[test]
fn text_that_changes_while_it_is_packed_is_an_error() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]);
    let shares = Shares::new(&bench.config);
    let watch = Watch::silent();
    let paths = &bench.config.paths;
    let documents = Documents::find(paths, "text", &|name: &str| Err(name.into())).unwrap();
    let asked = SplitDocuments::Auto;
    let source = Source::read(documents, shares, None, asked, &Recipe::Bytes, &watch).unwrap();
    fs::write(&bench.config.paths[0], counting(0..301)).unwrap();
    let (recipe, sources) = (Recipe::Bytes, [source]);
    let cache_dir = bench.cache_dir();
    let packing = Packing::new(&cache_dir, &recipe, &sources, &watch);
    let message = packing.pack(&[&sources[0]]).err().unwrap().to_string();
    assert!(
        message.contains("a.txt changed while it was read"),
        "{message}"
    );
    assert_eq!(fs::read_dir(&cache_dir).unwrap().count(), 0);
}

#[test]
fn reading_is_told_byte_by_byte_and_packing_by_tokens() {
    let mut bench = Bench::new(&[("a.jsonl.gz", ""), ("b.parquet", "")]).bpe(270);
    let text = counting(0..300);
    let line = format!("{{\"text\": \"{text}\"}}\n");
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(line.as_bytes()).unwrap();
    fs::write(&bench.config.paths[0], gzip.finish().unwrap()).unwrap();
    write_parquet(
        &bench.config.paths[1],
        &[Some(text.as_str())],
        Compression::SNAPPY,
    );
    bench.config.weights = vec![1.0, 1.0];
    let sizes = bench.config.paths.iter();
    let total: u64 = sizes.map(|path| fs::metadata(path).unwrap().len()).sum();
    let told = Mutex::new(Vec::new());
    let observer = |progress: TextProgress| {
        told.lock().unwrap().push(progress);
        ControlFlow::Continue(())
    };
    let corpus = bench.open_watched(&Watch::new(&observer)).unwrap();
    let told = told.lock().unwrap();
    for work in [TextWork::Reading, TextWork::Learning, TextWork::Packing] {
        let first = told.iter().find(|progress| progress.work == work).unwrap();
        assert_eq!((first.bytes, first.total), (0, total), "{work:?}");
    }
    let last = told.last().unwrap();
    let tokens: u64 = corpus.sources.iter().flat_map(Packed::tokens).sum();
    assert_eq!((last.bytes, last.tokens), (total, tokens));
}

#[test]
fn a_stop_leaves_nothing_half_packed() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]);
    for last in [TextWork::Reading, TextWork::Packing] {
        let observer = |progress: TextProgress| match progress.work == last {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let message = bench.open_watched(&Watch::new(&observer)).err().unwrap();
        assert!(matches!(message, DataError::Interrupted), "{message}");
        let left = fs::read_dir(bench.cache_dir()).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }
}

#[test]
fn what_a_killed_packing_left_is_removed() {
    let bench = Bench::new(&[("a.txt", &counting(0..300))]);
    let left = bench.cache_dir().join(".killed.tmp");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("lock"), "").unwrap();
    bench.open().unwrap();
    assert_eq!(fs::read_dir(bench.cache_dir()).unwrap().count(), 1);
}

#[test]
fn a_broken_file_leaves_nothing_in_the_cache() {
    let bench = Bench::new(&[("a.txt", "text"), ("b.txt.gz", "no frame at all")]);
    let message = bench.open().err().unwrap().to_string();
    assert!(
        message.contains("b.txt.gz cannot be decompressed"),
        "{message}"
    );
    assert!(!bench.cache_dir().exists());
}

/// Three times as much of `a` as of `b`, from texts of the same length.
fn mixed() -> Bench {
    let mut bench = Bench::new(&[("a.txt", &"a".repeat(4000)), ("b.txt", &"b".repeat(4000))]);
    bench.config.weights = vec![3.0, 1.0];
    bench
}

/// How many rows of a batch are of `a` and of `b`.
fn rows_of(batch: &Batch) -> [usize; 2] {
    (*b"ab").map(|byte| {
        let rows = batch.inputs.chunks(batch.context);
        rows.filter(|row| row[0] == u32::from(byte)).count()
    })
}

#[test]
fn mixtures_have_their_shares_in_every_batch_and_split() {
    let corpus = mixed().open().unwrap();
    for index in 0..5 {
        let batch = corpus.batch(Split::Cpt, 7, index * 8, 8, 20).unwrap();
        assert_eq!(rows_of(&batch), [6, 2]);
        assert_eq!(
            batch,
            corpus.batch(Split::Cpt, 7, index * 8, 8, 20).unwrap()
        );
    }
    // 100 bytes of each, of which `a` is used up first.
    let rows = corpus.evaluation_rows(Split::Validation, 20);
    assert_eq!(rows, 7);
    let batch = corpus.evaluation_batch(Split::Validation, 0, 4, 20);
    assert_eq!(rows_of(&batch.unwrap()), [3, 1]);
    assert!(
        corpus
            .evaluation_batch(Split::Validation, 0, 8, 20)
            .is_err()
    );
    assert!((133..=135).contains(&corpus.tokens(Split::Validation)));
    let shares: Vec<_> = corpus.reports().iter().map(|report| report.share).collect();
    assert_eq!(shares, [Some(0.75), Some(0.25)]);
}

#[test]
fn other_weights_need_no_packing() {
    let mut bench = mixed();
    let first = bench.open().unwrap();
    bench.config.weights = vec![1.0, 1.0];
    let second = bench.open().unwrap();
    assert_ne!(first.fingerprint(), second.fingerprint());
    assert_eq!(fs::read_dir(bench.cache_dir()).unwrap().count(), 2);
    // Nor does one of the sources alone, with or without a weight.
    bench.config.paths.truncate(1);
    bench.config.weights.truncate(1);
    let alone = bench.open().unwrap();
    bench.config.weights.clear();
    assert_eq!(alone.fingerprint(), bench.open().unwrap().fingerprint());
    assert_eq!(fs::read_dir(bench.cache_dir()).unwrap().count(), 2);
}

#[test]
fn a_mixture_shares_one_trained_tokenizer() {
    let mut bench = Bench::new(&[
        ("a.txt", &counting(0..300)),
        ("b.txt", &"tree ".repeat(400)),
    ])
    .bpe(290);
    bench.config.weights = vec![1.0, 1.0];
    let corpus = bench.open().unwrap();
    let [a, b] = &corpus.sources[..] else {
        panic!("two sources");
    };
    assert_eq!(a.tokenizer_json, b.tokenizer_json);
    bench.config.weights.clear();
    let joined = bench.open().unwrap();
    assert_eq!(corpus.tokenizer_json(), joined.tokenizer_json());
}

#[test]
fn a_text_too_small_for_the_vocabulary_is_told_once() {
    let mut bench = mixed().bpe(4096);
    for _ in 0..2 {
        let corpus = bench.open().unwrap();
        let vocabs = corpus.reports().iter().filter_map(|report| report.vocab);
        let vocabs: Vec<[usize; 2]> = vocabs.collect();
        assert_eq!(vocabs, [[4096, corpus.vocab_size()]]);
    }
    bench.config.tokenizer = TokenizerConfig::Bpe { vocab: 257 };
    let corpus = bench.open().unwrap();
    assert!(corpus.reports().iter().all(|report| report.vocab.is_none()));
}

#[test]
fn a_small_source_of_a_mixture_is_named() {
    let mut bench = mixed();
    fs::write(&bench.config.paths[1], "b".repeat(400)).unwrap();
    bench.config.weights = vec![1.0, 1.0];
    let message = bench
        .open()
        .unwrap()
        .check_shape(20)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("b.txt: the validation split holds 11 tokens"),
        "{message}"
    );
}

#[test]
fn held_out_files_are_taken_whole() {
    let mut bench = Bench::new(&[
        ("a.txt", &"a".repeat(400)),
        ("v.jsonl", "{\"text\": \"vvvvv\"}\n"),
        ("t.txt", "ttttt"),
    ]);
    let plain = bench.config.paths.split_off(1);
    let without = bench.open().unwrap().fingerprint().to_owned();
    bench.config.validation = vec![plain[0].clone()];
    bench.config.test = vec![plain[1].clone()];
    let corpus = bench.open().unwrap();
    assert_ne!(corpus.fingerprint(), without);
    assert_eq!(corpus.tokens(Split::Validation), 6);
    assert_eq!(corpus.tokens(Split::Test), 6);
    // 400 bytes and a separator each for pre-training and CPT.
    assert_eq!(
        corpus.tokens(Split::Pretrain) + corpus.tokens(Split::Cpt),
        402
    );
    let batch = corpus.evaluation_batch(Split::Test, 0, 1, 5).unwrap();
    assert_eq!(batch.inputs, [u32::from(b't'); 5]);
    assert_eq!(batch.targets[4], 256);
    assert!(corpus.check_shape(6).is_err());
}

#[test]
fn text_to_train_on_is_not_held_out() {
    let mut bench = Bench::new(&[("a.txt", "text"), ("b.txt", "text")]);
    bench.config.validation = vec![bench.root.path().join("b.txt")];
    let message = bench.open().err().unwrap().to_string();
    assert!(
        message.contains("b.txt is both training and validation text"),
        "{message}"
    );
}

#[test]
fn the_column_of_a_corpus_can_be_named() {
    let mut bench = Bench::new(&[("a.jsonl", "{\"body\": \"some text\"}\n")]);
    let message = bench.open().err().unwrap().to_string();
    assert!(message.contains("missing field `text`"), "{message}");
    bench.config.text_column = "body".into();
    bench.open().unwrap();
}
