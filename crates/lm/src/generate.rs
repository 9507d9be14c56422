//! Text from a model, token by token.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_moe::Routing;

use crate::{
    config::LmConfig,
    decode::{DecodeError, Decoder},
    model::Lm,
    sampling::{Sampler, SamplingConfig, SamplingError},
};

/// How a text is continued.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    /// Tokens of a continuation, at most.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingConfig,
    /// Seed of the draws. Every sample has a stream of random numbers of its own.
    pub seed: u64,
    /// Continuations, one after the other. The prompt is read once.
    pub samples: usize,
    /// Tokens that end a continuation, and are no part of it.
    pub stop: Vec<u32>,
    /// Tell the experts of every token. Its last one is then read as well.
    pub routing: bool,
    /// Precision of matrix products.
    pub precision: Precision,
}

/// A token of a continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedToken {
    /// Number of the continuation.
    pub sample: usize,
    /// The token.
    pub id: u32,
    /// The experts that the token is routed to when it is read, best first, of every MoE layer; empty unless they are asked for.
    pub experts: Vec<Vec<usize>>,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// It has as many tokens as were asked for.
    MaxTokens,
    /// The model's context is full.
    Context,
    /// Whoever was told of its tokens wanted no more.
    Stopped,
}

/// A text that cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GenerateError {
    /// Nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// No room for a continuation.
    #[error(
        "the prompt has {prompt} tokens, and the model's context of {context} must hold at least one more; shorten the prompt"
    )]
    LongPrompt {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of the model.
        context: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {id} of the prompt is none of the model's {vocab}; use the tokenizer that it was trained with"
    )]
    UnknownToken {
        /// The token.
        id: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// A token cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A token cannot be drawn.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

impl LmConfig {
    /// Checks that a model of this shape can continue a prompt.
    ///
    /// # Errors
    /// If there is nothing to continue, no room for a token more, or a token that the model does not have.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<(), GenerateError> {
        let (vocab, context) = (self.vocab, self.context);
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(GenerateError::LongPrompt {
                prompt: prompt.len(),
                context,
            });
        }
        match prompt.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(GenerateError::UnknownToken { id, vocab }),
            None => Ok(()),
        }
    }
}

impl<B: MoeBackend> Lm<B> {
    /// Continues a prompt, and tells each token as soon as it is there. Returns why each continuation ended; there are fewer than
    /// asked for where one was stopped.
    ///
    /// # Errors
    /// If the prompt or the configuration cannot be, or the model's logits are no numbers.
    pub fn generate(
        &self,
        prompt: &[u32],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(GeneratedToken) -> ControlFlow<()>,
    ) -> Result<Vec<Finish>, GenerateError> {
        config.sampling.validate()?;
        self.config.check_prompt(prompt)?;
        let mut decoder = self.decoder(config.precision);
        let (logits_bv, _) = decoder.next_logits(self.tokens(prompt))?;
        let logits = on_host(logits_bv);
        let mut finished = Vec::with_capacity(config.samples);
        for sample in 0..config.samples {
            let mut continuation = Continuation {
                decoder: decoder.clone(),
                logits: logits.clone(),
            };
            let finish = continuation.run(config, sample, on_token)?;
            finished.push(finish);
            if finish == Finish::Stopped {
                break;
            }
        }
        Ok(finished)
    }

    /// One sequence, `[1, N]`.
    fn tokens(&self, ids: &[u32]) -> Tensor<B, 2, Int> {
        let values: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let data = TensorData::new(values, [1, ids.len()]);
        Tensor::from_data(data, &self.embedding_vd.val().device())
    }
}

/// A text that is being continued.
struct Continuation<'a, B: MoeBackend> {
    decoder: Decoder<'a, B>,
    /// Those of the next token.
    logits: Vec<f32>,
}

impl<B: MoeBackend> Continuation<'_, B> {
    fn run(
        &mut self,
        config: &GenerateConfig,
        sample: usize,
        on_token: &mut dyn FnMut(GeneratedToken) -> ControlFlow<()>,
    ) -> Result<Finish, GenerateError> {
        let mut sampler = Sampler::new(config.sampling, config.seed, sample)?;
        let room = self.decoder.room();
        let most = config.max_tokens.min(room);
        for count in 1..=most {
            let id = sampler.sample(&self.logits)? as u32;
            if config.stop.contains(&id) {
                return Ok(Finish::EndOfText);
            }
            let token = |experts| GeneratedToken {
                sample,
                id,
                experts,
            };
            let told = if config.routing {
                let routing = self.read(id)?;
                on_token(token(routing.iter().map(Routing::host_experts).collect()))
            } else {
                on_token(token(Vec::new()))
            };
            if told.is_break() {
                return Ok(Finish::Stopped);
            }
            // What nothing follows need not be read.
            if !config.routing && count < most {
                self.read(id)?;
            }
        }
        Ok(match config.max_tokens <= room {
            true => Finish::MaxTokens,
            false => Finish::Context,
        })
    }

    /// Reads a token, and gives its routing.
    fn read(&mut self, id: u32) -> Result<Vec<Routing<B>>, GenerateError> {
        let tokens = self.decoder.model().tokens(&[id]);
        let (logits_bv, routing) = self.decoder.next_logits(tokens)?;
        self.logits = on_host(logits_bv);
        Ok(routing)
    }
}

fn on_host<B: Backend>(logits_bv: Tensor<B, 2>) -> Vec<f32> {
    logits_bv.into_data().iter().collect()
}
