//! The one door to all kinds of data.

use std::{fmt, path::Path, sync::Arc};

use crate::{
    Batch, DataConfig, DataError, FindRemote, Question, RemoteError, RemoteText, Split,
    TextObserver, TextReport, remote_name, skill::SkillCorpus, synthetic::SyntheticCorpus,
    text::TextCorpus, watch::Watch,
};

/// An opened corpus.
///
/// It is immutable, so threads can share it behind an [`Arc`](std::sync::Arc).
pub struct Dataset {
    label: String,
    fingerprint: String,
    source: Source,
}

enum Source {
    Synthetic(SyntheticCorpus),
    Text(Box<TextCorpus>),
    Skill(SkillCorpus),
}

impl Dataset {
    /// Opens a corpus.
    ///
    /// Text is tokenized on the first opening and kept under `cache_dir`, in a folder named by a
    /// hash of all that determines its tokens; later openings map the kept tokens, or make them
    /// again if they are damaged. Each source of a mixture and each text of a split of its own has
    /// its folder, so that other weights need no tokenizing. Files are read at every opening, so
    /// that a changed one counts as what it is: other text. A synthetic corpus leaves `cache_dir`
    /// alone. For data sets of the hub there is
    /// [`open_observed`](Self::open_observed).
    ///
    /// # Errors
    ///
    /// If a field of the configuration is out of range, a file cannot be read or is not what it
    /// should be, there is no text, or the cache cannot be written.
    pub fn open(config: &DataConfig, cache_dir: &Path) -> Result<Dataset, DataError> {
        Self::open_with(config, cache_dir, cache_dir, &no_hub, &Watch::silent())
    }

    /// [`open`](Self::open), with an observer of how far text is read, from several threads, who
    /// may end it; and text that is not in the cache is packed in `new_dir`, which is needed as
    /// long as the dataset is. `find` finds data sets of the hub, whose files are fetched only to
    /// be packed, one after the other until [`hub_tokens`](crate::TextConfig::hub_tokens) are
    /// there.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), those of `find`, or if the observer wanted an end.
    pub fn open_observed(
        config: &DataConfig,
        cache_dir: &Path,
        new_dir: &Path,
        find: FindRemote<'_>,
        observer: &TextObserver<'_>,
    ) -> Result<Dataset, DataError> {
        Self::open_with(config, cache_dir, new_dir, find, &Watch::new(observer))
    }

    fn open_with(
        config: &DataConfig,
        cache_dir: &Path,
        new_dir: &Path,
        find: FindRemote<'_>,
        watch: &Watch<'_>,
    ) -> Result<Dataset, DataError> {
        Ok(match config {
            DataConfig::Synthetic(config) => Dataset {
                label: "synthetic".to_owned(),
                fingerprint: SyntheticCorpus::fingerprint(config),
                source: Source::Synthetic(SyntheticCorpus::new(config)?),
            },
            DataConfig::Text(config) => {
                let corpus = TextCorpus::open(config, cache_dir, new_dir, find, watch)?;
                let names: Vec<String> = config.paths.iter().filter_map(|it| name(it)).collect();
                Dataset {
                    label: names.join("+"),
                    fingerprint: corpus.fingerprint().to_owned(),
                    source: Source::Text(Box::new(corpus)),
                }
            }
            DataConfig::Knowledge(config) => Dataset::of_skill(SkillCorpus::knowledge(config)?),
            DataConfig::Arithmetic(config) => Dataset::of_skill(SkillCorpus::arithmetic(config)?),
            DataConfig::Lookup(config) => Dataset::of_skill(SkillCorpus::lookup(config)?),
        })
    }

    fn of_skill(corpus: SkillCorpus) -> Dataset {
        Dataset {
            label: corpus.name().to_owned(),
            fingerprint: corpus.fingerprint().to_owned(),
            source: Source::Skill(corpus),
        }
    }

    /// Token ids, all less than this number.
    pub fn vocab_size(&self) -> usize {
        match &self.source {
            Source::Synthetic(corpus) => corpus.vocab_size(),
            Source::Text(corpus) => corpus.vocab_size(),
            Source::Skill(corpus) => corpus.vocab_size(),
        }
    }

    /// The entropy of a scored token given those before it, in nats: the least possible loss. It
    /// is known in closed form for synthetic data only.
    pub fn entropy_rate(&self) -> Option<f64> {
        match &self.source {
            Source::Synthetic(corpus) => Some(corpus.entropy_rate()),
            Source::Text(_) | Source::Skill(_) => None,
        }
    }

    /// A hexadecimal blake3 hash of everything that determines the tokens. Where text files lie
    /// and what they are called is not part of it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A short name for tables and plots: `synthetic`, the name of a skill, or the names of the
    /// paths, like `french+chess`.
    pub fn label(&self) -> String {
        self.label.clone()
    }

    /// The tokenizer in the JSON form of the `tokenizers` library, so that checkpoints can carry
    /// it along. None where tokens are synthetic.
    pub fn tokenizer_json(&self) -> Option<String> {
        match &self.source {
            Source::Synthetic(_) => None,
            Source::Text(corpus) => Some(corpus.tokenizer_json()),
            Source::Skill(corpus) => Some(corpus.tokenizer_json()),
        }
    }

    /// What was found in text files: of each source of a mixture, or of all together, then of the
    /// validation and of the test text that have files of their own.
    pub fn text_reports(&self) -> &[TextReport] {
        match &self.source {
            Source::Synthetic(_) | Source::Skill(_) => &[],
            Source::Text(corpus) => corpus.reports(),
        }
    }

    /// The tokens of a split before one of them comes a second time: all of them, but in a mixture
    /// only as many as until the first source is used up. None if the split never ends.
    pub fn tokens(&self, split: Split) -> Option<u64> {
        match &self.source {
            Source::Synthetic(_) | Source::Skill(_) => None,
            Source::Text(corpus) => Some(corpus.tokens(split)),
        }
    }

    /// Bytes of all packed tokens; 0 for a corpus that is generated on the fly.
    pub fn packed_bytes(&self) -> u64 {
        match &self.source {
            Source::Synthetic(_) | Source::Skill(_) => 0,
            Source::Text(corpus) => corpus.packed_bytes(),
        }
    }

    /// Checks that every split has a row of `context` tokens and one more.
    ///
    /// # Errors
    ///
    /// If a split is too small, or nothing can be scored in so short a context.
    pub fn check_shape(&self, context: usize) -> Result<(), DataError> {
        match &self.source {
            Source::Synthetic(corpus) => corpus.check_shape(context),
            Source::Text(corpus) => corpus.check_shape(context),
            Source::Skill(corpus) => corpus.check_shape(context),
        }
    }

    /// Batch number `index` of `rows` rows of `context` tokens, with one target a position.
    ///
    /// The batch is a pure function of the arguments. Batch `index` holds the rows from
    /// `index * rows` on of an endless sequence that depends on the split and the seed. Text comes
    /// in epochs: every window once, in an order that depends on the seed and the epoch. The
    /// sources of a mixture have epochs of their own and take turns by their shares.
    ///
    /// # Errors
    ///
    /// As for [`check_shape`](Self::check_shape), of this split; or if the batch cannot fit in
    /// memory.
    pub fn batch(
        &self,
        split: Split,
        seed: u64,
        index: u64,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        // No run gets as far as the wrap; arithmetic there must only not panic.
        let first_row = index.wrapping_mul(rows as u64);
        match &self.source {
            Source::Synthetic(corpus) => corpus.batch(split, seed, first_row, rows, context),
            Source::Text(corpus) => corpus.batch(split, seed, first_row, rows, context),
            Source::Skill(corpus) => corpus.batch(split, seed, first_row, rows, context),
        }
    }

    /// How many rows to evaluate on a split has at this context, at most `limit`. Data that are
    /// generated have as many as asked for.
    pub fn evaluation_rows(&self, split: Split, context: usize, limit: usize) -> usize {
        match &self.source {
            Source::Synthetic(_) | Source::Skill(_) => limit,
            Source::Text(corpus) => {
                let rows = corpus.evaluation_rows(split, context);
                usize::try_from(rows).map_or(limit, |rows| rows.min(limit))
            }
        }
    }

    /// Rows `first_row` to `first_row + rows` of a split to evaluate on, always the same.
    ///
    /// Synthetic rows carry the exact distribution of each scored token, so
    /// [`choices`](Batch::choices) is the number of successors. Text rows are ordered such that
    /// any number of them from the first on is spread over the whole split.
    ///
    /// # Errors
    ///
    /// As for [`batch`](Self::batch); or if text has fewer rows.
    pub fn evaluation_batch(
        &self,
        split: Split,
        first_row: usize,
        rows: usize,
        context: usize,
    ) -> Result<Batch, DataError> {
        let first_row = first_row as u64;
        match &self.source {
            Source::Synthetic(corpus) => corpus.evaluation_batch(split, first_row, rows, context),
            Source::Text(corpus) => corpus.evaluation_batch(split, first_row, rows, context),
            Source::Skill(corpus) => corpus.batch(split, 0, first_row, rows, context),
        }
    }

    /// The first `count` questions about what a corpus of a skill teaches, or as many as there are;
    /// none for other corpora.
    pub fn questions(&self, count: usize) -> Vec<Question> {
        match &self.source {
            Source::Synthetic(_) | Source::Text(_) => Vec::new(),
            Source::Skill(corpus) => corpus.questions(count),
        }
    }
}

/// Where no data set of the hub can be found.
fn no_hub(name: &str) -> Result<Arc<dyn RemoteText>, RemoteError> {
    let path = format!("hf:{name}").into();
    Err(DataError::NoHub { path }.into())
}

/// What a path of text is called in tables: its last part without extensions, or of a pattern the
/// last that is a name; a data set of the hub by its name without its owner.
fn name(path: &Path) -> Option<String> {
    if let Some((_, name)) = remote_name(path).and_then(|name| name.split_once('/')) {
        return name.split(['@', ':', '/']).next().map(str::to_owned);
    }
    let names = path.ancestors().filter_map(Path::file_name);
    let mut names = names.map(|name| name.to_string_lossy());
    let name = names.find(|name| !name.contains(['*', '?', '[']))?;
    let is_compressed = name.ends_with(".gz") || name.ends_with(".zst");
    let stem = |name: &str| Some(Path::new(name).file_stem()?.to_str()?.to_owned());
    match is_compressed {
        true => stem(&stem(&name)?),
        false => stem(&name),
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("label", &self.label)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;

    use super::*;
    use crate::{SyntheticConfig, TextConfig};

    fn synthetic() -> Dataset {
        Dataset::open(&DataConfig::default(), Path::new("/nowhere")).unwrap()
    }

    /// A text dataset and the folder that must outlive it.
    fn text() -> (tempfile::TempDir, Dataset) {
        let root = tempfile::tempdir().unwrap();
        let paths = ["french.txt", "chess.txt"].map(|name| root.path().join(name));
        for path in &paths {
            let name = path.file_name().unwrap().to_str().unwrap();
            fs::write(
                path,
                (0..300).map(|i| format!("{name}{i}")).collect::<String>(),
            )
            .unwrap();
        }
        let config = DataConfig::Text(TextConfig {
            paths: paths.to_vec(),
            ..TextConfig::default()
        });
        let dataset = Dataset::open(&config, &root.path().join("cache")).unwrap();
        (root, dataset)
    }

    #[test]
    fn datasets_can_be_shared_between_threads() {
        fn shareable<T: Send + Sync>() {}
        shareable::<Dataset>();
    }

    #[test]
    fn synthetic_data_describes_itself() {
        let data = synthetic();
        assert_eq!(data.label(), "synthetic");
        assert_eq!(data.vocab_size(), 144);
        assert!((data.entropy_rate().unwrap() - 1.242).abs() < 1e-3);
        assert_eq!(data.tokens(Split::Pretrain), None);
        assert_eq!(data.tokenizer_json(), None);
        assert_eq!(data.evaluation_rows(Split::Validation, 64, 100), 100);
        assert_eq!(
            data.evaluation_batch(Split::Test, 2, 3, 64)
                .unwrap()
                .choices,
            4
        );
        assert_eq!(data.fingerprint().len(), 64);
        let other = DataConfig::Synthetic(SyntheticConfig {
            seed: 1,
            ..SyntheticConfig::default()
        });
        let other = Dataset::open(&other, Path::new("/nowhere")).unwrap();
        assert_ne!(data.fingerprint(), other.fingerprint());
    }

    #[test]
    fn text_describes_itself() {
        let (_root, data) = text();
        assert_eq!(data.label(), "french+chess");
        assert_eq!(data.vocab_size(), 257);
        assert_eq!(data.entropy_rate(), None);
        assert!(data.tokenizer_json().unwrap().contains("ByteLevel"));
        assert!(data.tokens(Split::Cpt).unwrap() > data.tokens(Split::Validation).unwrap());
        assert_eq!(data.evaluation_rows(Split::Validation, 10, 4), 4);
        assert!(data.evaluation_rows(Split::Validation, 10, 1000) < 1000);
    }

    #[test]
    fn paths_have_short_names() {
        let name = |path: &str| name(Path::new(path)).unwrap();
        assert_eq!(name("a/french.txt"), "french");
        assert_eq!(name("a/french.jsonl.zst"), "french");
        assert_eq!(name("books/"), "books");
        assert_eq!(name("books/**/*.parquet"), "books");
        assert_eq!(name("hf:org/Tiny.Stories@main:en/train"), "Tiny.Stories");
    }

    #[test]
    fn batches_are_pure_and_differ_by_index() {
        let (_root, text) = text();
        for data in [&synthetic(), &text] {
            let batch = |index| data.batch(Split::Pretrain, 3, index, 4, 16).unwrap();
            assert_eq!(batch(5), batch(5));
            assert_ne!(batch(5), batch(6));
            let halves = |index| data.batch(Split::Pretrain, 3, index, 2, 16).unwrap();
            assert_eq!(
                batch(5).inputs,
                [halves(10).inputs, halves(11).inputs].concat()
            );
        }
    }

    #[test]
    fn bad_shapes_are_errors() {
        let (_root, text) = text();
        for data in [&synthetic(), &text] {
            data.check_shape(16).unwrap();
            assert!(data.check_shape(0).is_err());
            assert!(data.batch(Split::Cpt, 0, 0, 1, 0).is_err());
            assert!(data.evaluation_batch(Split::Validation, 0, 1, 0).is_err());
            assert!(data.batch(Split::Cpt, 0, u64::MAX, usize::MAX, 16).is_err());
            assert!(
                data.batch(Split::Cpt, 0, 0, 0, 16)
                    .unwrap()
                    .inputs
                    .is_empty()
            );
        }
    }
}
