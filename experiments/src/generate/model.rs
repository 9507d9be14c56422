//! A model to continue texts with: its shape, its tokens, and where its experts come from.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use upcycle_data::TextTokenizer;
use upcycle_hf::{HfCheckpoint, Import};
use upcycle_lm::{LmConfig, WeightSource};
use upcycle_moe::Lineage;
use upcycle_train::{CheckpointInfo, Start};

use crate::{
    inspect::checkpoint_of,
    sources,
    tokenizer::{self, Found},
};

/// A model that is not loaded yet.
pub struct Model {
    pub start: Start,
    pub config: LmConfig,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
    dir: PathBuf,
    tokenizer: Option<TextTokenizer>,
    /// Whether its texts have tokens around them, such as one for their beginning.
    special: bool,
    /// Where the experts of every MoE layer come from; empty if none was ever grown.
    lineages: Vec<Lineage>,
}

impl Model {
    /// The model of a checkpoint, with the tokenizer of `--tokenizer` or its own.
    pub fn open(from: &str, tokenizer: Option<&str>) -> Result<Self> {
        let dir = sources::folder(from)?;
        match sources::is_hugging_face(&dir) {
            true => Self::of_hugging_face(&dir, tokenizer),
            false => Self::of_checkpoint(&checkpoint_of(&dir), tokenizer),
        }
    }

    fn of_hugging_face(dir: &Path, tokenizer: Option<&str>) -> Result<Self> {
        let import = Import::new(HfCheckpoint::open(dir, None)?)?;
        let stop = import.checkpoint().end_of_text()?;
        let model = Self {
            config: import.config().clone(),
            start: Start::Weights(Arc::new(import)),
            stop,
            dir: dir.to_owned(),
            tokenizer: None,
            special: true,
            lineages: Vec::new(),
        };
        model.with_tokenizer(tokenizer)
    }

    /// The model of a checkpoint of this program, with the tokenizer of `--tokenizer` or its own.
    pub fn of_checkpoint(dir: &Path, tokenizer: Option<&str>) -> Result<Self> {
        let info = CheckpointInfo::read(dir)?;
        info.check_sizes(dir)?;
        let lineages = info.growths.into_iter().map(|state| state.lineage);
        let lineages: Vec<Lineage> = lineages.collect();
        let is_grown = lineages.iter().any(|it| !it.growths().is_empty());
        let model = Self {
            config: info.model,
            start: Start::Checkpoint(dir.to_owned()),
            stop: Vec::new(),
            dir: dir.to_owned(),
            tokenizer: None,
            special: false,
            lineages: if is_grown { lineages } else { Vec::new() },
        };
        model.with_tokenizer(tokenizer)
    }

    fn with_tokenizer(mut self, asked: Option<&str>) -> Result<Self> {
        let found = tokenizer::find(&self.dir, asked)?;
        self.tokenizer = found.map(|Found { tokenizer, .. }| tokenizer);
        // What a checkpoint says goes before what a tokenizer has a name for.
        if self.stop.is_empty() {
            let end = self.tokenizer.as_ref().and_then(TextTokenizer::separator);
            self.stop.extend(end);
        }
        Ok(self)
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If it has none.
    pub fn tokenizer(&self) -> Result<&TextTokenizer> {
        self.tokenizer.as_ref().with_context(|| {
            format!(
                "{}; or give token ids with --prompt-ids 1,2,3",
                tokenizer::missing(&self.dir)
            )
        })
    }

    /// Tokens of a prompt.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        Ok(match self.special {
            true => tokenizer.encode_input(prompt)?,
            false => tokenizer.encode(prompt)?,
        })
    }

    /// The experts before all growths that experts of a MoE layer come from; none in a model that was never grown.
    pub fn sources(&self, layer: usize, experts: &[usize]) -> Option<Vec<usize>> {
        let origins = self.lineages.get(layer)?.origins();
        let source_of = origins.source_of();
        Some(experts.iter().map(|&expert| source_of[expert]).collect())
    }
}
