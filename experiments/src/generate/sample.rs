//! A short text of a model that was just trained.

use std::{ops::ControlFlow, path::Path};

use anyhow::Result;
use upcycle_data::{Dataset, Split};
use upcycle_lm::{GenerateConfig, SamplingConfig};
use upcycle_train::{Engine, GenerateJob};

use super::model::Model;

/// Tokens of validation text that a sample begins with, and those that the model adds.
const PROMPT: usize = 8;
const TOKENS: usize = 48;
/// Below 1: the text of a small model is easier to judge where unlikely tokens are rarer.
const TEMPERATURE: f64 = 0.8;

/// The beginning of a text, and how a model went on with it.
pub struct Sample {
    pub prompt: String,
    pub continuation: String,
}

/// What the model in the checkpoint `dir` makes of a prompt, or of the first tokens of the validation text.
///
/// # Errors
/// If the model cannot be read, or cannot continue the prompt.
pub fn take(
    engine: &dyn Engine,
    dir: &Path,
    prompt: Option<&str>,
    data: &Dataset,
    seed: u64,
) -> Result<Sample> {
    let model = Model::of_checkpoint(dir, None)?;
    let tokenizer = model.tokenizer()?;
    let ids = match prompt {
        Some(prompt) => model.encode(prompt)?,
        None => {
            let context = model.config.context;
            let mut inputs = data
                .evaluation_batch(Split::Validation, 0, 1, context)?
                .inputs;
            inputs.truncate(PROMPT.min(context / 2));
            inputs
        }
    };
    model.config.check_prompt(&ids)?;
    let config = GenerateConfig {
        max_tokens: TOKENS,
        sampling: SamplingConfig {
            temperature: TEMPERATURE,
            ..SamplingConfig::default()
        },
        seed,
        samples: 1,
        stop: model.stop.clone(),
        routing: false,
        precision: Default::default(),
    };
    let job = GenerateJob {
        model: &model.start,
        prompt: &ids,
        config: &config,
    };
    let mut added = Vec::new();
    engine.generate(&job, &mut |token| {
        added.push(token.id);
        ControlFlow::Continue(())
    })?;
    let mut stream = tokenizer.stream(&ids);
    let mut continuation = String::new();
    for id in added {
        continuation.push_str(&stream.push(id)?);
    }
    continuation.push_str(&stream.finish()?);
    Ok(Sample {
        prompt: tokenizer.decode(&ids)?,
        continuation,
    })
}
