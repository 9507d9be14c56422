//! A checkpoint to be evaluated, with its tokenizer.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use upcycle_data::TextTokenizer;
use upcycle_hf::{HfCheckpoint, Import};
use upcycle_lab::available_memory;
use upcycle_lm::{CostModel, LmConfig, WeightSource as _};
use upcycle_tasks::{Encoder, ScoringModel};
use upcycle_train::{CheckpointInfo, Engine, Start};

use crate::{
    inspect::checkpoint_of,
    limits::{on_cpu, too_large},
    sources,
    tokenizer::{self, Found},
};

/// A checkpoint to be evaluated.
pub struct Subject {
    start: Start,
    config: LmConfig,
    /// Turns texts into its tokens.
    pub encoder: Encoder,
}

impl Subject {
    /// Reads what a checkpoint says of itself, and its tokenizer.
    ///
    /// # Errors
    /// If there is no such checkpoint, it cannot be run here, or it has no tokenizer.
    pub fn open(from: &str, tokenizer: Option<&str>) -> Result<Self> {
        let dir = sources::folder(from)?;
        let (dir, start, config) = if sources::is_hugging_face(&dir) {
            let import = Import::new(HfCheckpoint::open(&dir, None)?)?;
            let config = import.config().clone();
            (dir, Start::Weights(Arc::new(import)), config)
        } else {
            let dir = checkpoint_of(&dir);
            let info = CheckpointInfo::read(&dir)?;
            info.check_sizes(&dir)?;
            (dir.clone(), Start::Checkpoint(dir), info.model)
        };
        let encoder = encoder(&dir, tokenizer)?;
        Ok(Self {
            start,
            config,
            encoder,
        })
    }

    /// Loads the model.
    ///
    /// # Errors
    /// If it cannot be loaded, or this machine has not enough memory.
    pub fn load(&self, engine: &dyn Engine) -> Result<Box<dyn ScoringModel>> {
        let parameters = CostModel::new(&self.config).parameters().total();
        // The model, and a copy of its largest parts while it is read.
        let needed = 4 * parameters + 2 * parameters;
        let available = available_memory().unwrap_or(u64::MAX);
        if on_cpu(engine) && needed > available {
            bail!(
                "{}; evaluate it on a GPU (--backend cuda) or a larger machine",
                too_large("the model", needed, available)
            );
        }
        Ok(engine.scorer(&self.start)?)
    }
}

/// The tokenizer of a checkpoint, with the token that stands before its texts.
fn encoder(dir: &Path, asked: Option<&str>) -> Result<Encoder> {
    let found = tokenizer::find(dir, asked)?;
    let Found { tokenizer, file } = found.with_context(|| tokenizer::missing(dir))?;
    let named = match &file {
        Some(file) => named_prefix(file, &tokenizer)?,
        None => None,
    };
    let prefix = named.or(tokenizer.separator()).with_context(|| {
        format!(
            "{} has no token that texts begin or end with; name one as bos_token or eos_token in a tokenizer_config.json beside it",
            file.as_deref().unwrap_or(dir).display()
        )
    })?;
    Ok(Encoder::new(tokenizer, prefix))
}

/// What `tokenizer_config.json` beside a tokenizer says that texts begin with, or else end with.
fn named_prefix(tokenizer_json: &Path, tokenizer: &TextTokenizer) -> Result<Option<u32>> {
    let path = tokenizer_json.with_file_name("tokenizer_config.json");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    let config: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    for field in ["bos_token", "eos_token"] {
        let token = &config[field];
        // A name, or an object that has it.
        let name = token.as_str().or(token["content"].as_str());
        let Some(name) = name else { continue };
        let id = tokenizer.token(name).with_context(|| {
            format!(
                "{}: the {field} {name:?} is not in the tokenizer",
                path.display()
            )
        })?;
        return Ok(Some(id));
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "<b>": 1, "<e>": 2}, "unk_token": "a"}
    }"#;

    #[test]
    fn the_first_token_is_what_the_tokenizer_begins_texts_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, TOKENIZER).unwrap();
        let tokenizer = TextTokenizer::read(&path).unwrap();
        assert_eq!(named_prefix(&path, &tokenizer).unwrap(), None);
        for (config, expected) in [
            (r#"{"bos_token": "<b>", "eos_token": "<e>"}"#, Some(1)),
            (
                r#"{"bos_token": null, "eos_token": {"content": "<e>"}}"#,
                Some(2),
            ),
            ("{}", None),
        ] {
            fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            assert_eq!(named_prefix(&path, &tokenizer).unwrap(), expected);
        }
        let missing = encoder(folder.path(), None).map(drop).unwrap_err();
        assert!(missing.to_string().contains("bos_token"), "{missing}");
        assert!(encoder(folder.path(), Some("bytes")).is_ok());
    }
}
