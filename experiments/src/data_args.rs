//! Flags that choose the data.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{
    Args,
    builder::{PathBufValueParser, TypedValueParser},
};
use upcycle_data::{DataConfig, Dataset, SplitDocuments, TextConfig, TokenizerConfig, remote_name};

use crate::{amount, output, packing, ui::Ui};

/// Which data; the built-in synthetic corpus without flags.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Text to train on: .txt, .jsonl (also .gz, .zst) or .parquet files, folders of them, or patterns in quotes; may be repeated. Or hf:ORG/NAME[@REVISION][:CONFIG][/SPLIT], a data set of the Hugging Face hub, of which as many files are downloaded as the run needs. With weights a mixture: a.parquet=0.7 gives seven tenths of the tokens. Or a built-in corpus that teaches one thing: knowledge[:PERSONS], arithmetic[:MODULUS], lookup[:HOPS]. [default: the built-in corpus of chains]
    #[arg(long, value_name = "PATH|hf:ORG/NAME[=WEIGHT]", value_parser = PathBufValueParser::new().map(Weighted::of), help_heading = "Data")]
    pub data: Vec<Weighted>,
    /// Field of JSON lines and column of Parquet files that holds the text; outer.inner is inside of another one. [default: text]
    #[arg(long, value_name = "NAME", requires = "data", help_heading = "Data")]
    pub text_column: Option<String>,
    /// Whether documents stay whole: `auto` (unless there are few, which are cut into a part for every split), `whole` or `cut`. [default: auto]
    #[arg(long, value_name = "HOW", requires = "data", value_parser = split_documents, help_heading = "Data")]
    pub split_documents: Option<SplitDocuments>,
    /// Text for validation, in place of a share of --data; may be repeated.
    #[arg(long, value_name = "PATH", requires = "data", help_heading = "Data")]
    pub validation: Vec<PathBuf>,
    /// Text for testing, in place of a share of --data; may be repeated.
    #[arg(long, value_name = "PATH", requires = "data", help_heading = "Data")]
    pub test: Vec<PathBuf>,
    /// Tokens that data sets of the hub (--data hf:ORG/NAME) hold for pre-training, and as many for CPT. Data with another number are other data: give more than is needed yet to train longer later. [default: as many as the run reads]
    #[arg(long, value_name = "TOKENS", requires = "data", value_parser = amount::parse, help_heading = "Data")]
    pub hub_tokens: Option<u64>,
    /// Tokenizer of text: `bytes`, `bpe:SIZE` (trained on the text), or a tokenizer.json. [default: bytes]
    #[arg(long, value_name = "TOKENIZER", requires = "data", value_parser = tokenizer, help_heading = "Data")]
    pub tokenizer: Option<TokenizerConfig>,
}

/// A path and its weight in a mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    path: PathBuf,
    weight: Option<f64>,
}

impl Weighted {
    /// What follows the last `=` is a weight if it is a number and there is no file of the whole name.
    fn of(arg: PathBuf) -> Self {
        let parts = arg.to_str().and_then(|text| text.rsplit_once('='));
        let weighted = parts.and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        match weighted.filter(|_| !arg.exists()) {
            Some((path, weight)) => Self {
                path: path.into(),
                weight: Some(weight),
            },
            None => Self {
                path: arg,
                weight: None,
            },
        }
    }
}

impl DataArgs {
    /// The data of the flags; none if there are none.
    ///
    /// # Errors
    /// If some paths have a weight and others none.
    pub fn config(&self) -> Result<Option<DataConfig>> {
        if self.data.is_empty() {
            return Ok(None);
        }
        if let Some(skill) = self.skill()? {
            return Ok(Some(skill));
        }
        let weights: Vec<f64> = self.data.iter().filter_map(|data| data.weight).collect();
        let unweighted = self.data.iter().find(|data| data.weight.is_none());
        if let Some(data) = unweighted.filter(|_| !weights.is_empty()) {
            let path = data.path.display();
            bail!(
                "--data {path} has no weight, and others have; give one to each, as in --data {path}=0.5, or to none"
            );
        }
        let held_out = self.validation.iter().chain(&self.test);
        let mut paths = self.data.iter().map(|data| &data.path).chain(held_out);
        if self.hub_tokens.is_some() && !paths.any(|path| remote_name(path).is_some()) {
            bail!(
                "--hub-tokens is for data sets of the Hugging Face hub, as in --data hf:ORG/NAME; leave it out"
            );
        }
        let defaults = TextConfig::default();
        Ok(Some(DataConfig::Text(TextConfig {
            paths: self.data.iter().map(|data| data.path.clone()).collect(),
            weights,
            split_documents: self.split_documents.unwrap_or_default(),
            text_column: self.text_column.clone().unwrap_or(defaults.text_column),
            validation: self.validation.clone(),
            test: self.test.clone(),
            hub_tokens: self.hub_tokens,
            tokenizer: self.tokenizer.clone().unwrap_or_default(),
            ..TextConfig::default()
        })))
    }

    /// The data of the flags for a model that was trained on the data `before`: the same without flags; `other` data with the same
    /// tokenizer.
    ///
    /// # Errors
    /// As for [`DataArgs::config`].
    pub fn config_after(
        &self,
        before: Option<&DataConfig>,
        checkpoint: &Path,
        other: bool,
    ) -> Result<DataConfig> {
        if let Some(skill) = self.skill()? {
            return Ok(skill);
        }
        let mut args = self.clone();
        let own = checkpoint.join("tokenizer.json");
        if args.tokenizer.is_none() && !args.data.is_empty() {
            args.tokenizer = match before {
                _ if other && own.is_file() => Some(TokenizerConfig::File { path: own }),
                Some(DataConfig::Text(text)) => Some(text.tokenizer.clone()),
                _ => None,
            };
        }
        let asked = args.config()?;
        Ok(asked.or(before.cloned()).unwrap_or_default())
    }

    /// The built-in corpus that they name; none if they name files.
    fn skill(&self) -> Result<Option<DataConfig>> {
        for data in self.data.iter().filter(|data| !data.path.exists()) {
            let name = data.path.to_str().unwrap_or_default();
            let Some(config) = DataConfig::skill(name)? else {
                continue;
            };
            let is_of_text = self.text_column.is_some()
                || self.split_documents.is_some()
                || self.hub_tokens.is_some()
                || self.tokenizer.is_some();
            let is_held_out = !self.validation.is_empty() || !self.test.is_empty();
            if self.data.len() > 1 || data.weight.is_some() || is_of_text || is_held_out {
                bail!(
                    "--data {name} is a built-in corpus, which stands alone; leave other --data, weights and flags of text out"
                );
            }
            return Ok(Some(config));
        }
        Ok(None)
    }

    /// The data of the flags, with the tokenizer of the checkpoint in `dir` where they name none; none if there are none.
    ///
    /// # Errors
    /// If there is no tokenizer, or as for [`DataArgs::config`].
    pub fn config_with(&self, dir: &Path) -> Result<Option<DataConfig>> {
        if let Some(skill) = self.skill()? {
            return Ok(Some(skill));
        }
        let own = dir.join("tokenizer.json");
        let mut args = self.clone();
        if args.tokenizer.is_none() && !args.data.is_empty() {
            if !own.is_file() {
                bail!(
                    "{} has no tokenizer.json; give the model's own with --tokenizer",
                    dir.display()
                );
            }
            args.tokenizer = Some(TokenizerConfig::File { path: own });
        }
        args.config()
    }
}

/// Opens data and says what people should know about it.
///
/// # Errors
/// If it cannot be opened.
pub fn open(config: &DataConfig, cache_dir: &Path, ui: Ui) -> Result<Dataset> {
    open_apart(config, cache_dir, cache_dir, ui)
}

/// [`open`], which leaves the cache as it is and packs text that is not there in `new_dir`.
///
/// # Errors
/// If it cannot be opened.
pub fn open_apart(
    config: &DataConfig,
    cache_dir: &Path,
    new_dir: &Path,
    ui: Ui,
) -> Result<Dataset> {
    let data = packing::open(config, cache_dir, new_dir, ui)?;
    for note in data.text_reports().iter().flat_map(|report| report.notes()) {
        output::note!("note: {note}");
    }
    Ok(data)
}

/// Data may have no token that the model, in words, does not know.
///
/// # Errors
/// If it has.
pub fn check_vocabulary(data: &Dataset, model: &str, vocab: usize) -> Result<()> {
    if data.vocab_size() > vocab {
        bail!(
            "the data has {} tokens, {model} knows {vocab}; give the --data and --tokenizer that it was trained with",
            data.vocab_size()
        );
    }
    Ok(())
}

fn split_documents(text: &str) -> Result<SplitDocuments, String> {
    match text {
        "auto" => Ok(SplitDocuments::Auto),
        "whole" => Ok(SplitDocuments::Whole),
        "cut" => Ok(SplitDocuments::Cut),
        _ => Err("use `auto`, `whole` or `cut`".into()),
    }
}

fn tokenizer(text: &str) -> Result<TokenizerConfig, String> {
    if text == "bytes" {
        return Ok(TokenizerConfig::Bytes);
    }
    if let Some(size) = text.strip_prefix("bpe:") {
        let vocab = size
            .parse()
            .map_err(|_| format!("`{size}` is not a vocabulary size; an example is bpe:4096"))?;
        return Ok(TokenizerConfig::Bpe { vocab });
    }
    if text.ends_with(".json") {
        return Ok(TokenizerConfig::File { path: text.into() });
    }
    Err("use `bytes`, `bpe:SIZE` or the path of a tokenizer.json".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        data: DataArgs,
    }

    fn config(args: &[&str]) -> Result<Option<DataConfig>> {
        let args = [&["program"], args].concat();
        Command::try_parse_from(args)?.data.config()
    }

    fn text(args: &[&str]) -> TextConfig {
        match config(args).unwrap() {
            Some(DataConfig::Text(text)) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    #[test]
    fn flags_become_a_configuration() {
        assert_eq!(config(&[]).unwrap(), None);
        let plain = TextConfig {
            paths: vec!["a.txt".into(), "b=c.txt".into()],
            ..TextConfig::default()
        };
        assert_eq!(text(&["--data", "a.txt", "--data", "b=c.txt"]), plain);
        let args = [
            "--data",
            "a.parquet=0.7",
            "--data",
            "year=2024=3",
            "--text-column",
            "body",
            "--split-documents",
            "whole",
            "--validation",
            "v.txt",
            "--test",
            "t.txt",
            "--test",
            "u/",
        ];
        let all = TextConfig {
            paths: vec!["a.parquet".into(), "year=2024".into()],
            weights: vec![0.7, 3.0],
            split_documents: SplitDocuments::Whole,
            text_column: "body".into(),
            validation: vec!["v.txt".into()],
            test: vec!["t.txt".into(), "u/".into()],
            ..TextConfig::default()
        };
        assert_eq!(text(&args), all);
    }

    #[test]
    fn built_in_corpora_stand_alone() {
        let knowledge = config(&["--data", "knowledge:50"]).unwrap();
        assert_eq!(knowledge, DataConfig::skill("knowledge:50").unwrap());
        for further in [["--data", "a.txt"], ["--text-column", "body"]] {
            let args = [&["--data", "lookup"][..], &further].concat();
            let error = config(&args).unwrap_err().to_string();
            assert!(error.contains("stands alone"), "{error}");
        }
        assert!(config(&["--data", "arithmetic:x"]).is_err());
    }

    #[test]
    fn weights_are_for_all_or_none() {
        let error = config(&["--data", "a=1", "--data", "b"]).unwrap_err();
        assert!(error.to_string().contains("--data b=0.5"), "{error}");
        assert!(config(&["--validation", "v.txt"]).is_err());
    }

    #[test]
    fn data_sets_of_the_hub_stand_where_paths_do() {
        let args = [
            "--data",
            "hf:org/name@v1:en/train=0.7",
            "--data",
            "b/=0.3",
            "--hub-tokens",
            "5M",
        ];
        let expected = TextConfig {
            paths: vec!["hf:org/name@v1:en/train".into(), "b/".into()],
            weights: vec![0.7, 0.3],
            hub_tokens: Some(5_000_000),
            ..TextConfig::default()
        };
        assert_eq!(text(&args), expected);
        let error = config(&["--data", "a.txt", "--hub-tokens", "5M"]).unwrap_err();
        assert!(error.to_string().contains("--data hf:ORG/NAME"), "{error}");
    }

    #[test]
    fn a_file_whose_name_ends_like_a_weight_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("year=2024");
        std::fs::create_dir(&path).unwrap();
        let expected = Weighted {
            path: path.clone(),
            weight: None,
        };
        assert_eq!(Weighted::of(path), expected);
    }
}
