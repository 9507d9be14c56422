//! A model for tests.

use crate::model::{ScoringModel, TokenBatch, TokenScore};

/// A model whose most likely token after `t` is `t + 1`, with probability a half; the other half is
/// shared by all tokens alike.
pub struct Fake {
    vocab: usize,
    context: usize,
}

impl Fake {
    pub fn new(vocab: usize) -> Fake {
        Fake { vocab, context: 64 }
    }

    /// Probability of a token after another.
    pub fn probability(&self, before: u32, token: u32) -> f64 {
        let rest = 0.5 / self.vocab as f64;
        match token == (before + 1) % self.vocab as u32 {
            true => 0.5 + rest,
            false => rest,
        }
    }
}

impl ScoringModel for Fake {
    fn context(&self) -> usize {
        self.context
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn score(&mut self, batch: &TokenBatch) -> Result<Vec<TokenScore>, String> {
        let scores = batch.scored.iter().map(|&(place, token)| {
            let probability = self.probability(batch.inputs[place], token);
            TokenScore {
                log_probability: probability.ln(),
                is_greedy: probability > 0.5,
            }
        });
        Ok(scores.collect())
    }
}
