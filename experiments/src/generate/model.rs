//! A model to continue texts with: its shape, its tokens, and where its experts come from.

use std::{path::Path, sync::Arc};

use anyhow::{Result, anyhow};
use upcycle_data::TextTokenizer;
use upcycle_hf::{HfCheckpoint, Import};
use upcycle_lm::{LmConfig, WeightSource};
use upcycle_moe::Lineage;
use upcycle_train::{CheckpointInfo, Start};

use crate::{inspect::checkpoint_of, sources};

/// A model that is not loaded yet.
pub struct Model {
    pub start: Start,
    pub config: LmConfig,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
    tokenizer: Option<TextTokenizer>,
    /// Whether its texts have tokens around them, such as one for their beginning.
    special: bool,
    /// What to do without a tokenizer.
    untold: String,
    /// Where the experts of every MoE layer come from; empty if none was ever grown.
    lineages: Vec<Lineage>,
}

impl Model {
    /// The model of a checkpoint, with the tokenizer of `--tokenizer` or its own.
    pub fn open(from: &str, tokenizer: Option<&str>) -> Result<Self> {
        let dir = sources::folder(from)?;
        let given = match tokenizer {
            Some("bytes") => Some(TextTokenizer::bytes()),
            Some(path) => Some(TextTokenizer::read(Path::new(path))?),
            None => None,
        };
        match sources::is_hugging_face(&dir) {
            true => Self::of_hugging_face(&dir, given),
            false => Self::of_checkpoint(&checkpoint_of(&dir), given),
        }
    }

    fn of_hugging_face(dir: &Path, given: Option<TextTokenizer>) -> Result<Self> {
        let import = Import::new(HfCheckpoint::open(dir, None)?)?;
        let stop = import.checkpoint().end_of_text()?;
        let model = Self {
            config: import.config().clone(),
            start: Start::Weights(Arc::new(import)),
            stop,
            tokenizer: None,
            special: true,
            untold: format!(
                "{} has no tokenizer.json; give the model's own with --tokenizer, or token ids with --prompt-ids 1,2,3",
                dir.display()
            ),
            lineages: Vec::new(),
        };
        model.with_tokenizer(given, dir)
    }

    /// The model of a checkpoint of this program, with this tokenizer or its own.
    pub fn of_checkpoint(dir: &Path, given: Option<TextTokenizer>) -> Result<Self> {
        let info = CheckpointInfo::read(dir)?;
        info.check_sizes(dir)?;
        let lineages = info.growths.into_iter().map(|state| state.lineage);
        let lineages: Vec<Lineage> = lineages.collect();
        let is_grown = lineages.iter().any(|it| !it.growths().is_empty());
        let model = Self {
            config: info.model,
            start: Start::Checkpoint(dir.to_owned()),
            stop: Vec::new(),
            tokenizer: None,
            special: false,
            untold: format!(
                "{} has no tokenizer: tokens of the built-in corpus are no text; give token ids with --prompt-ids 1,2,3, or --tokenizer bytes for a model of text that an older version trained on bytes",
                dir.display()
            ),
            lineages: if is_grown { lineages } else { Vec::new() },
        };
        model.with_tokenizer(given, dir)
    }

    fn with_tokenizer(mut self, given: Option<TextTokenizer>, dir: &Path) -> Result<Self> {
        let own = dir.join("tokenizer.json");
        self.tokenizer = match given {
            None if own.is_file() => Some(TextTokenizer::read(&own)?),
            given => given,
        };
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
        self.tokenizer
            .as_ref()
            .ok_or_else(|| anyhow!("{}", self.untold))
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
