//! Decoding token by token: keys and values of the positions before are kept, so that a new token costs one position.

use burn::tensor::{Int, Tensor};
use thiserror::Error;
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_moe::Routing;

use crate::{key_values::KeyValues, model::Lm};

/// A model and what it has read of some sequences of equal length. A clone goes on by itself, and shares what was read before.
#[derive(Debug, Clone)]
pub struct Decoder<'a, B: MoeBackend> {
    model: &'a Lm<B>,
    precision: Precision,
    /// Of every layer.
    seen: Vec<KeyValues<B>>,
    sequences: usize,
    length: usize,
}

/// Tokens that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More tokens than the model knows positions.
    #[error(
        "{length} tokens and {more} more are longer than the model's context of {context}; shorten the text"
    )]
    TooLong {
        /// Tokens read before.
        length: usize,
        /// Tokens to be read.
        more: usize,
        /// Positions of the model.
        context: usize,
    },
    /// Nothing to read.
    #[error("there are no tokens to read; give at least one a sequence")]
    NoTokens,
    /// Another number of sequences than before.
    #[error("{found} sequences cannot follow {expected}; give a token to each of those begun")]
    OtherSequences {
        /// Sequences begun.
        expected: usize,
        /// Sequences given.
        found: usize,
    },
}

impl<B: MoeBackend> Lm<B> {
    /// A decoder that has read nothing.
    pub fn decoder(&self, precision: Precision) -> Decoder<'_, B> {
        Decoder {
            model: self,
            precision,
            seen: vec![KeyValues::default(); self.blocks.len()],
            sequences: 0,
            length: 0,
        }
    }
}

impl<'a, B: MoeBackend> Decoder<'a, B> {
    /// The model.
    pub fn model(&self) -> &'a Lm<B> {
        self.model
    }

    /// Tokens of each sequence that were read.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens of each sequence that can still be read.
    pub fn room(&self) -> usize {
        self.model.config.context.saturating_sub(self.length)
    }

    /// Reads `[B, N]` tokens that follow those read before. Returns the logits of all of their positions, `[B * N, V]`, which are
    /// those of [`Lm::logits`] but for rounding, and the routing of every MoE layer.
    ///
    /// # Errors
    /// If there are none, they do not fit the model's context, or `B` is not as before.
    pub fn logits(
        &mut self,
        tokens_bn: Tensor<B, 2, Int>,
    ) -> Result<(Tensor<B, 2>, Vec<Routing<B>>), DecodeError> {
        let (x_td, routing) = self.read(tokens_bn)?;
        Ok((self.model.head(x_td, self.precision), routing))
    }

    /// The same with the logits of the last position of each sequence alone, `[B, V]`.
    ///
    /// # Errors
    /// As for [`logits`](Self::logits).
    pub fn next_logits(
        &mut self,
        tokens_bn: Tensor<B, 2, Int>,
    ) -> Result<(Tensor<B, 2>, Vec<Routing<B>>), DecodeError> {
        let [b, n] = tokens_bn.dims();
        let (x_td, routing) = self.read(tokens_bn)?;
        let [_, d] = x_td.dims();
        let last_bd = x_td.reshape([b, n, d]).narrow(1, n - 1, 1).reshape([b, d]);
        Ok((self.model.head(last_bd, self.precision), routing))
    }

    /// Hidden states before the head, `[B * N, D]`.
    fn read(
        &mut self,
        tokens_bn: Tensor<B, 2, Int>,
    ) -> Result<(Tensor<B, 2>, Vec<Routing<B>>), DecodeError> {
        let batch @ [b, n] = tokens_bn.dims();
        if b == 0 || n == 0 {
            return Err(DecodeError::NoTokens);
        }
        if n > self.room() {
            return Err(DecodeError::TooLong {
                length: self.length,
                more: n,
                context: self.model.config.context,
            });
        }
        if self.length > 0 && b != self.sequences {
            return Err(DecodeError::OtherSequences {
                expected: self.sequences,
                found: b,
            });
        }
        let (model, precision, first) = (self.model, self.precision, self.length);
        let seen = &mut self.seen;
        let read = model.hidden_from(first, tokens_bn, |index, x_td, angles| {
            model.blocks[index].extend(x_td, batch, angles, &mut seen[index], precision)
        });
        self.sequences = b;
        self.length += n;
        Ok(read)
    }
}
