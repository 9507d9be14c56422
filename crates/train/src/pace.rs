//! What the steps since an evaluation were like.

use crate::metrics::MetricsLine;

/// The steps since an evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pace {
    tokens: u64,
    seconds: f64,
    /// Learning rate and gradient norm of the last one.
    last: Option<(f64, f64)>,
}

impl Pace {
    /// Adds a step of `tokens` tokens.
    pub fn add(&mut self, line: &MetricsLine, tokens: u64) {
        if let MetricsLine::Step {
            lr,
            gradient_norm,
            seconds,
            ..
        } = line
        {
            self.tokens += tokens;
            self.seconds += seconds;
            self.last = Some((*lr, *gradient_norm));
        }
    }

    /// Learning rate of the last step.
    pub fn lr(&self) -> Option<f64> {
        self.last.map(|(lr, _)| lr)
    }

    /// Gradient norm of the last step.
    pub fn gradient_norm(&self) -> Option<f64> {
        self.last.map(|(_, gradient_norm)| gradient_norm)
    }

    /// Tokens over the seconds of their steps.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.last.map(|_| rate(self.tokens, self.seconds))
    }
}

/// Tokens a second; a clock that stood still does not make it infinite.
pub(crate) fn rate(tokens: u64, seconds: f64) -> f64 {
    tokens as f64 / seconds.max(1e-9)
}
