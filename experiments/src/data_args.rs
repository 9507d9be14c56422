//! Flags that choose the data.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use upcycle_data::{DataConfig, Dataset, TextConfig, TokenizerConfig};

/// Which data; the built-in synthetic corpus without flags.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Text to train on: .txt or .jsonl files or folders of them; may be repeated. [default: the built-in corpus]
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    pub data: Vec<PathBuf>,
    /// Tokenizer of text: `bytes`, `bpe:SIZE` (trained on the text), or a tokenizer.json. [default: bytes]
    #[arg(long, value_name = "TOKENIZER", requires = "data", value_parser = tokenizer, help_heading = "Data")]
    pub tokenizer: Option<TokenizerConfig>,
}

impl DataArgs {
    /// The data of the flags; none if there are none.
    pub fn config(&self) -> Option<DataConfig> {
        (!self.data.is_empty()).then(|| {
            DataConfig::Text(TextConfig {
                paths: self.data.clone(),
                tokenizer: self.tokenizer.clone().unwrap_or_default(),
                ..TextConfig::default()
            })
        })
    }

    /// The data of the flags, with the tokenizer of the checkpoint in `dir` where they name none; none if there are none.
    ///
    /// # Errors
    /// If there is no tokenizer.
    pub fn config_with(&self, dir: &Path) -> Result<Option<DataConfig>> {
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
        Ok(args.config())
    }
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
