//! What scoring sees of a model.

/// A language model that tells how likely tokens are.
pub trait ScoringModel {
    /// Longest sequence in tokens.
    fn context(&self) -> usize;

    /// Token ids, all less than this number.
    fn vocab_size(&self) -> usize;

    /// A score for each target of a batch, in the order of [`TokenBatch::scored`].
    ///
    /// # Errors
    /// If the device fails.
    fn score(&mut self, batch: &TokenBatch) -> Result<Vec<TokenScore>, String>;
}

/// Sequences of tokens, filled up behind to one length, and the tokens that should follow some of
/// their positions. The model is causal: what stands behind a position changes nothing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Sequences.
    pub rows: usize,
    /// Positions of a sequence.
    pub length: usize,
    /// Token ids, `[rows * length]`.
    pub inputs: Vec<u32>,
    /// Positions that are scored, as places in `inputs`, and the token that follows each.
    pub scored: Vec<(usize, u32)>,
}

/// How likely a token was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Logarithm of its probability, in nats.
    pub log_probability: f64,
    /// Whether no token was more likely.
    pub is_greedy: bool,
}
