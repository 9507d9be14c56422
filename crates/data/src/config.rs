//! What a dataset is made from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    DataError,
    remote::remote_name,
    require::require,
    skill_config::{ArithmeticConfig, KnowledgeConfig, LookupConfig},
};

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DataConfig {
    /// Markov-chain domains of known entropy, generated on the fly.
    Synthetic(SyntheticConfig),
    /// Text files.
    Text(TextConfig),
    /// Facts about made-up persons, in words.
    Knowledge(KnowledgeConfig),
    /// Equations modulo a number.
    Arithmetic(ArithmeticConfig),
    /// Walks along arrows that the document tells.
    Lookup(LookupConfig),
}

/// A corpus of domains, each a first-order Markov chain.
///
/// In every domain, every token has [`successors`](Self::successors) distinct, uniformly random
/// successors, whose probabilities are proportional to 1, 1/2, 1/3, … in random order. A document
/// is the domain's own token, a uniformly random start token, and then the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Domains, each with a chain and a token of its own. Default 16.
    pub domains: usize,
    /// Tokens of the chains; the domains' own tokens come on top. Default 128.
    pub tokens: usize,
    /// Successors of each token in each domain. Default 4.
    pub successors: usize,
    /// Tokens a document, the domain's own token included. Default 65.
    pub document_tokens: usize,
    /// Domain `d`, from 1, is drawn in proportion to `d` to the power of minus this. Default 0:
    /// all domains alike.
    pub domain_zipf: f64,
    /// What the chains and all documents are generated from. Default 0.
    pub seed: u64,
}

/// A corpus of text files.
///
/// A document is what lies between lines of a single form feed in a `.txt` file, a field of a line
/// of a `.jsonl` file, or a row of a `.parquet` file. Each document goes to one split, wherever in
/// the text it stands. Where there are few it is cut instead, into a part for pre-training, one for
/// CPT, one for validation and one for testing, in this order, so that every split sees every
/// domain; see [`split_documents`](Self::split_documents). What is held out in files of its own is
/// not cut.
///
/// With [`weights`](Self::weights) the paths are a mixture: each gives its share of the tokens of
/// every split, in an order that is always the same. A path whose text is used up comes again in
/// another order, as text without weights does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// `.txt`, `.jsonl` and `.parquet` files, the first two also as `.gz` or `.zst`; folders that
    /// are searched for them; or patterns such as `dir/**/*.parquet`. In this order. Or
    /// `hf:ORG/NAME[@REVISION][:CONFIG][/SPLIT]`, a data set of the Hugging Face hub, alone or as a
    /// source of a mixture; its fingerprint is of the name that [`RemoteText`](crate::RemoteText)
    /// gives, and not of what is in it.
    pub paths: Vec<PathBuf>,
    /// The weight of each path in a mixture, in any unit: 0.7 and 0.3 are the same as 7 and 3.
    /// Default empty: the text of all paths one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Whether documents stay whole. Default [`SplitDocuments::Auto`].
    #[serde(skip_serializing_if = "is_auto")]
    pub split_documents: SplitDocuments,
    /// The field of JSON lines and the column of Parquet files that holds the text; `outer.inner` is
    /// inside of another one. Default `text`.
    #[serde(skip_serializing_if = "is_default_column")]
    pub text_column: String,
    /// Text for validation, instead of a share of the documents. Default empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<PathBuf>,
    /// Text for testing, instead of a share of the documents. Default empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// Tokens that data sets of the hub are to give to pre-training, and as many to CPT; in a
    /// mixture all sources together. Their files are fetched one after the other until they do.
    /// Default none: all files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_tokens: Option<u64>,
    /// How text becomes tokens. Default [`TokenizerConfig::Bytes`]. Byte pair encoding is trained
    /// on the beginning of a data set of the hub, as many bytes as tokens are wanted.
    pub tokenizer: TokenizerConfig,
    /// The share of the documents' bytes that continued pre-training sees. Default 0.475.
    pub cpt_share: f64,
    /// The share of the documents' bytes kept for validation. Default 0.025.
    pub validation_share: f64,
    /// The share of the documents' bytes kept for testing. Default 0.025. What the three shares
    /// leave is for pre-training.
    pub test_share: f64,
}

const DEFAULT_COLUMN: &str = "text";

fn is_default_column(column: &str) -> bool {
    column == DEFAULT_COLUMN
}

fn is_auto(split_documents: &SplitDocuments) -> bool {
    *split_documents == SplitDocuments::Auto
}

/// Whether documents are cut for the splits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitDocuments {
    /// Whole, unless there are fewer than ten for the smallest split, on average: then all are cut. A
    /// document that is longer than the smallest split is cut all the same.
    #[default]
    Auto,
    /// All stay whole; one that is longer than the smallest split is an error, but in data sets of the
    /// hub, whose documents are not known before they are packed.
    Whole,
    /// All are cut.
    Cut,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// One token a byte, ids 0 to 255, and 256 between documents.
    #[default]
    Bytes,
    /// Byte-level byte pair encoding, trained on the pre-training split alone.
    Bpe {
        /// Tokens at most, the 256 bytes and the document separator included. A small corpus can
        /// run out of pairs that occur twice before it reaches this number.
        vocab: usize,
    },
    /// An existing tokenizer. Between documents goes the first of its tokens `<|endoftext|>`,
    /// `</s>`, `<eos>`, `[SEP]` and `<|end_of_text|>`, or nothing if it has none of them.
    File {
        /// A `tokenizer.json` of the `tokenizers` library.
        path: PathBuf,
    },
}

impl DataConfig {
    /// Names of the corpora of skills.
    pub const SKILLS: [&str; 3] = ["knowledge", "arithmetic", "lookup"];

    /// The corpus of a skill: `knowledge` or `knowledge:PERSONS`, `arithmetic` or
    /// `arithmetic:MODULUS`, `lookup` or `lookup:HOPS`. None if it is no name of one.
    ///
    /// # Errors
    ///
    /// If what stands behind the colon is no number, or out of range.
    pub fn skill(text: &str) -> Result<Option<DataConfig>, DataError> {
        let (name, size) = match text.split_once(':') {
            Some((name, size)) => (name, Some(size)),
            None => (text, None),
        };
        if !Self::SKILLS.contains(&name) {
            return Ok(None);
        }
        let number = match size {
            None => None,
            Some(size) => Some(size.parse::<usize>().map_err(|_| DataError::SkillSize {
                name: name.to_owned(),
                size: size.to_owned(),
            })?),
        };
        let config = match name {
            "knowledge" => {
                let config = KnowledgeConfig::default();
                let persons = number.unwrap_or(config.persons);
                DataConfig::Knowledge(KnowledgeConfig { persons, ..config })
            }
            "arithmetic" => {
                let config = ArithmeticConfig::default();
                let modulus = number.unwrap_or(config.modulus);
                DataConfig::Arithmetic(ArithmeticConfig { modulus, ..config })
            }
            _ => {
                let config = LookupConfig::default();
                let hops = number.unwrap_or(config.hops);
                DataConfig::Lookup(LookupConfig { hops, ..config })
            }
        };
        match &config {
            DataConfig::Knowledge(config) => config.check()?,
            DataConfig::Arithmetic(config) => config.check()?,
            DataConfig::Lookup(config) => config.check()?,
            DataConfig::Synthetic(_) | DataConfig::Text(_) => {}
        }
        Ok(Some(config))
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig::Synthetic(SyntheticConfig::default())
    }
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        SyntheticConfig {
            domains: 16,
            tokens: 128,
            successors: 4,
            document_tokens: 65,
            domain_zipf: 0.0,
            seed: 0,
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            paths: Vec::new(),
            weights: Vec::new(),
            split_documents: SplitDocuments::default(),
            text_column: DEFAULT_COLUMN.to_owned(),
            validation: Vec::new(),
            test: Vec::new(),
            hub_tokens: None,
            tokenizer: TokenizerConfig::default(),
            cpt_share: 0.475,
            validation_share: 0.025,
            test_share: 0.025,
        }
    }
}

impl SyntheticConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        /// Entries of the transition table: 1 GiB of memory.
        const LARGEST_TABLE: u128 = 1 << 28;

        require(self.domains > 0, "domains", self.domains, "at least 1")?;
        require(self.tokens > 0, "tokens", self.tokens, "at least 1")?;
        require(
            (1..=self.tokens).contains(&self.successors),
            "successors",
            self.successors,
            "at least 1 and at most `tokens`",
        )?;
        require(
            self.document_tokens >= 3,
            "document_tokens",
            self.document_tokens,
            "at least 3: the domain, the start and one token of the chain",
        )?;
        require(
            self.domain_zipf.is_finite() && self.domain_zipf >= 0.0,
            "domain_zipf",
            self.domain_zipf,
            "finite and not negative",
        )?;
        let table = (self.domains as u128)
            .saturating_mul(self.tokens as u128)
            .saturating_mul(self.successors as u128);
        require(
            table <= LARGEST_TABLE,
            "domains * tokens * successors",
            table,
            "at most 2^28, to fit in memory",
        )
    }
}

impl TextConfig {
    /// The paths of each source of a mixture; all paths as one source without weights.
    pub(crate) fn sources(&self) -> Vec<&[PathBuf]> {
        match self.weights.is_empty() {
            true => vec![self.paths.as_slice()],
            false => self.paths.chunks(1).collect(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), DataError> {
        if self.paths.is_empty() {
            return Err(DataError::NoPaths);
        }
        self.check_weights()?;
        self.check_remote()?;
        require(
            !self.text_column.is_empty(),
            "text_column",
            "empty",
            "the name of a column",
        )?;
        for (field, share) in [
            ("cpt_share", self.cpt_share),
            ("validation_share", self.validation_share),
            ("test_share", self.test_share),
        ] {
            let inside = share > 0.0 && share < 1.0;
            require(inside, field, share, "more than 0 and less than 1")?;
        }
        let sum = self.cpt_share + self.validation_share + self.test_share;
        require(
            sum < 1.0,
            "cpt_share + validation_share + test_share",
            sum,
            "less than 1: the rest is for pre-training",
        )?;
        if let TokenizerConfig::Bpe { vocab } = self.tokenizer {
            require(
                (257..=1 << 20).contains(&vocab),
                "tokenizer.vocab",
                vocab,
                "at least 257 (the bytes and the document separator) and at most 2^20",
            )?;
        }
        Ok(())
    }

    /// The tokens of training, as for [`hub_tokens`](Self::hub_tokens), beside which splits for
    /// evaluation that are cut from the same documents hold this many.
    pub fn training_tokens_beside(&self, evaluation: u64) -> u64 {
        let cut = [
            (&self.validation, self.validation_share),
            (&self.test, self.test_share),
        ];
        let shares = cut.into_iter().filter(|(own, _)| own.is_empty());
        let least = shares.map(|(_, share)| share).fold(f64::INFINITY, f64::min);
        (evaluation as f64 * self.cpt_share / least).ceil() as u64
    }

    /// Data sets of the hub are read as far as needed, which has no meaning among other paths.
    fn check_remote(&self) -> Result<(), DataError> {
        let held_out = [self.validation.as_slice(), self.test.as_slice()];
        let sources = self.sources().into_iter().chain(held_out);
        for paths in sources.filter(|paths| paths.len() > 1) {
            if let Some(path) = paths.iter().find(|path| remote_name(path).is_some()) {
                return Err(DataError::RemoteBeside { path: path.clone() });
            }
        }
        Ok(())
    }

    fn check_weights(&self) -> Result<(), DataError> {
        /// Of the sum. Below it, rounding would show.
        const LEAST: f64 = 0.001;

        let list = || format!("{:?}", self.weights);
        require(
            self.weights.is_empty() || self.weights.len() == self.paths.len(),
            "weights",
            list(),
            "as long as `paths`: a weight for each, or none at all",
        )?;
        let sum: f64 = self.weights.iter().sum();
        let is_share = |&weight: &f64| weight > 0.0 && weight >= LEAST * sum;
        require(
            sum.is_finite() && self.weights.iter().all(is_share),
            "weights",
            list(),
            "positive numbers, none below a thousandth of their sum",
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[track_caller]
    fn rejects(check: Result<(), DataError>, field: &str) {
        let message = check.unwrap_err().to_string();
        assert!(message.contains(&format!("`{field}` is ")), "{message}");
    }

    #[test]
    fn defaults_are_read_from_the_kind_alone() {
        let read = |text| serde_json::from_str::<DataConfig>(text);
        assert_eq!(
            read(r#"{"kind": "synthetic"}"#).unwrap(),
            DataConfig::default()
        );
        assert_eq!(
            read(r#"{"kind": "text", "paths": ["a.txt"], "tokenizer": {"kind": "bpe", "vocab": 300}}"#)
                .unwrap(),
            DataConfig::Text(TextConfig {
                paths: vec!["a.txt".into()],
                tokenizer: TokenizerConfig::Bpe { vocab: 300 },
                ..TextConfig::default()
            })
        );
    }

    #[test]
    fn fields_at_their_defaults_are_not_written() {
        // Sweeps are named by a hash of their configuration, and old names must last.
        let json = serde_json::to_string(&TextConfig::default()).unwrap();
        assert_eq!(
            json,
            r#"{"paths":[],"tokenizer":{"kind":"bytes"},"cpt_share":0.475,"validation_share":0.025,"test_share":0.025}"#
        );
    }

    #[test]
    fn misspelt_fields_are_errors() {
        let read = |text| serde_json::from_str::<DataConfig>(text);
        for text in [
            r#"{"kind": "synthetic", "domain": 3}"#,
            r#"{"kind": "text", "path": []}"#,
            r#"{"kind": "text", "tokenizer": {"kind": "bpe", "vocab": 300, "size": 1}}"#,
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains("unknown field"), "{message}");
        }
    }

    #[test]
    fn configs_survive_serialization() {
        for config in [
            DataConfig::default(),
            DataConfig::Text(TextConfig {
                tokenizer: TokenizerConfig::File { path: "t".into() },
                ..TextConfig::default()
            }),
            DataConfig::Text(TextConfig {
                paths: vec!["a".into(), "b".into()],
                weights: vec![0.7, 0.3],
                split_documents: SplitDocuments::Whole,
                text_column: "body".into(),
                validation: vec!["v".into()],
                test: vec!["t".into()],
                ..TextConfig::default()
            }),
        ] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<DataConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn synthetic_fields_are_checked() {
        let check = |change: fn(&mut SyntheticConfig)| {
            let mut config = SyntheticConfig::default();
            change(&mut config);
            config.check()
        };
        check(|_| ()).unwrap();
        rejects(check(|c| c.domains = 0), "domains");
        rejects(check(|c| c.tokens = 0), "tokens");
        rejects(check(|c| c.successors = 0), "successors");
        rejects(check(|c| c.successors = 129), "successors");
        rejects(check(|c| c.document_tokens = 2), "document_tokens");
        rejects(check(|c| c.domain_zipf = -1.0), "domain_zipf");
        rejects(check(|c| c.domain_zipf = f64::NAN), "domain_zipf");
        rejects(
            check(|c| c.domains = usize::MAX),
            "domains * tokens * successors",
        );
    }

    #[test]
    fn text_fields_are_checked() {
        let check = |change: fn(&mut TextConfig)| {
            let mut config = TextConfig {
                paths: vec!["a.txt".into()],
                ..TextConfig::default()
            };
            change(&mut config);
            config.check()
        };
        check(|_| ()).unwrap();
        rejects(check(|c| c.cpt_share = 0.0), "cpt_share");
        rejects(check(|c| c.validation_share = 1.0), "validation_share");
        rejects(check(|c| c.validation_share = f64::NAN), "validation_share");
        rejects(check(|c| c.test_share = 0.0), "test_share");
        rejects(
            check(|c| c.cpt_share = 0.95),
            "cpt_share + validation_share + test_share",
        );
        rejects(
            check(|c| c.tokenizer = TokenizerConfig::Bpe { vocab: 256 }),
            "tokenizer.vocab",
        );
        rejects(check(|c| c.text_column.clear()), "text_column");
        check(|c| c.weights = vec![3.0]).unwrap();
        rejects(check(|c| c.weights = vec![0.5, 0.5]), "weights");
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = TextConfig {
                paths: vec!["a.txt".into(), "b.txt".into()],
                weights: vec![1.0, weight],
                ..TextConfig::default()
            };
            rejects(config.check(), "weights");
        }
        check(|c| c.paths = vec!["hf:a/b".into()]).unwrap();
        let beside = check(|c| c.paths.push("hf:a/b".into())).unwrap_err();
        assert!(beside.to_string().contains("hf:a/b=0.5"), "{beside}");
        let error = check(|c| c.paths.clear()).unwrap_err();
        assert!(error.to_string().contains("`paths` is empty"), "{error}");
    }

    #[test]
    fn training_text_is_enough_for_what_is_cut_from_it() {
        let mut config = TextConfig::default();
        assert_eq!(config.training_tokens_beside(1000), 19_000);
        config.validation = vec!["v.txt".into()];
        config.test_share = 0.05;
        assert_eq!(config.training_tokens_beside(1000), 9_500);
        config.test = vec!["t.txt".into()];
        assert_eq!(config.training_tokens_beside(1000), 0);
    }

    #[test]
    fn skills_have_names_and_sizes() {
        let skill = |text| DataConfig::skill(text).unwrap();
        let persons = KnowledgeConfig {
            persons: 50,
            seed: 0,
        };
        assert_eq!(skill("knowledge:50"), Some(DataConfig::Knowledge(persons)));
        assert_eq!(
            skill("lookup"),
            Some(DataConfig::Lookup(LookupConfig::default()))
        );
        assert_eq!(skill("books.txt"), None);
        for (text, part) in [
            ("knowledge:many", "`many`"),
            ("knowledge:0", "`persons` is 0"),
            ("arithmetic:3", "`modulus` is 3"),
            ("lookup:8", "`hops` is 8"),
        ] {
            let message = DataConfig::skill(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn fields_are_read_by_kind() {
        let read = |text| serde_json::from_str::<DataConfig>(text);
        let text = r#"{"kind": "arithmetic", "modulus": 7}"#;
        let expected = ArithmeticConfig {
            modulus: 7,
            seed: 0,
        };
        assert_eq!(read(text).unwrap(), DataConfig::Arithmetic(expected));
        assert!(read(r#"{"kind": "lookup", "hop": 1}"#).is_err());
    }
}
