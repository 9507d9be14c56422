//! `generate`: continues a text with a model.

mod listener;
mod model;
pub(crate) mod sample;

use std::{
    fs,
    io::{self, IsTerminal},
    num::NonZeroUsize,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use upcycle_lab::available_memory;
use upcycle_lm::{CostModel, Finish, GenerateConfig, LmConfig, SamplingConfig};
use upcycle_report::number;
use upcycle_train::{Engine, GenerateJob};

use self::{
    listener::{Listener, Sample, Show},
    model::Model,
};
use crate::{
    backend::{BackendKind, engine},
    limits::{Force, on_cpu, too_large},
    output, program,
    threads::ThreadsArg,
};

/// Continue a text with a model, token by token.
///
/// What the model adds to the prompt goes to standard output. It ends where the model ends the text, after --max-tokens, or
/// where the model's context is full.
#[derive(Debug, Parser)]
#[command(name = "generate", version = program::version())]
pub struct GenerateArgs {
    /// A checkpoint, the folder of a training run, or a checkpoint of Hugging Face's transformers, a folder or a model of the
    /// hub, of a family that can be run here (`upcycle --families`).
    #[arg(long, value_name = "DIR|hf:ORG/NAME[@REVISION]")]
    from: String,
    /// Text to continue. [default: standard input]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt_file", "prompt_ids"])]
    prompt: Option<String>,
    /// File with the text to continue. A line break at its end is no part of the text.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt_ids")]
    prompt_file: Option<PathBuf>,
    /// Token ids to continue, such as 1,2,3: for models whose tokens are no text, or to leave the tokenizer out.
    #[arg(long, value_name = "ID,..", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,
    /// Tokenizer: `bytes`, or a tokenizer.json. [default: that of the checkpoint]
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
    /// Tokens to add, at most.
    #[arg(long, value_name = "N", default_value = "128")]
    max_tokens: NonZeroUsize,
    /// Logits are divided by this before a token is drawn; 0 always takes the likeliest token.
    #[arg(
        long,
        value_name = "T",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    temperature: f64,
    /// Draw from the K likeliest tokens; 0 draws from all.
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = "Sampling")]
    top_k: usize,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    top_p: f64,
    /// Always take the likeliest token.
    #[arg(
        long,
        conflicts_with_all = ["temperature", "top_k", "top_p"],
        help_heading = "Sampling"
    )]
    greedy: bool,
    /// Seed of the draws: the same one gives the same text on the same machine.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    /// Continuations, one after the other.
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Sampling")]
    samples: NonZeroUsize,
    /// Show the experts of each token in every MoE layer, best first, and which experts they were copied from: a line a token.
    #[arg(long)]
    show_routing: bool,
    /// Print all samples as JSON when they are done.
    #[arg(long)]
    json: bool,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    force: Force,
}

/// What was generated, as JSON.
#[derive(Serialize)]
struct Generation<'a> {
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    prompt_ids: &'a [u32],
    sampling: SamplingConfig,
    seed: u64,
    samples: Vec<Sample>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
}

impl GenerateArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        self.threads.apply()?;
        let sampling = self.sampling();
        sampling.validate()?;
        let model = Model::open(&self.from, self.tokenizer.as_deref())?;
        let text = match self.prompt_ids {
            Some(_) => None,
            None => {
                // Said before anything is read.
                model.tokenizer()?;
                Some(self.text()?)
            }
        };
        let prompt = match (&text, &self.prompt_ids) {
            (Some(text), _) => model.encode(text)?,
            (None, ids) => ids.clone().unwrap_or_default(),
        };
        model.config.check_prompt(&prompt)?;
        let engine = engine(self.backend)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        self.check_memory(engine.as_ref(), &model.config)?;

        let config = GenerateConfig {
            max_tokens: self.max_tokens.get(),
            sampling,
            seed: self.seed,
            samples: self.samples.get(),
            stop: model.stop.clone(),
            routing: self.show_routing,
            precision: Default::default(),
        };
        let job = GenerateJob {
            model: &model.start,
            prompt: &prompt,
            config: &config,
        };
        let show = match (self.json, self.show_routing) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Routing,
            (false, false) => Show::Text,
        };
        let mut listener = Listener::new(&model, &prompt, config.samples, show);
        let finished = engine.generate(&job, &mut |token| listener.hear(&token))?;
        let (samples, speed) = listener.finish(&finished)?;
        self.note(&samples, speed, model.config.context);
        if self.json {
            let generation = Generation {
                from: &self.from,
                prompt: text.as_deref(),
                prompt_ids: &prompt,
                sampling,
                seed: self.seed,
                samples,
                tokens_per_second: speed,
            };
            output::line(serde_json::to_string_pretty(&generation)?)?;
        }
        Ok(())
    }

    fn sampling(&self) -> SamplingConfig {
        match self.greedy {
            true => SamplingConfig::greedy(),
            false => SamplingConfig {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
            },
        }
    }

    /// The prompt of the flags, or of standard input.
    fn text(&self) -> Result<String> {
        let text = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => return Ok(text.clone()),
            (None, Some(path)) => {
                let text = fs::read_to_string(path);
                text.with_context(|| format!("the prompt {} cannot be read", path.display()))?
            }
            (None, None) => {
                if io::stdin().is_terminal() {
                    bail!(
                        "there is no prompt; give --prompt TEXT, --prompt-file FILE, or text on standard input"
                    );
                }
                let text = io::read_to_string(io::stdin());
                text.context("the prompt on standard input cannot be read")?
            }
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }

    fn check_memory(&self, engine: &dyn Engine, config: &LmConfig) -> Result<()> {
        let memory = 4 * CostModel::new(config).parameters().total();
        let available = on_cpu(engine).then(available_memory).flatten();
        match available.filter(|&available| memory > available && !self.force.force) {
            Some(available) => bail!(
                "{}; use a smaller model or a GPU (--backend cuda), or go on all the same with --force",
                too_large("the model", memory, available)
            ),
            None => Ok(()),
        }
    }

    fn note(&self, samples: &[Sample], speed: Option<f64>, context: usize) {
        let tokens: usize = samples.iter().map(|sample| sample.ids.len()).sum();
        let speed = match speed {
            Some(speed) => format!(", {} tokens/s", number::count(speed)),
            None => String::new(),
        };
        output::note!("{tokens} tokens{speed}");
        if samples.iter().any(|it| it.finish == Finish::Context) {
            output::note!(
                "the model's context of {context} tokens is full; a shorter prompt leaves more of it"
            );
        }
    }
}
