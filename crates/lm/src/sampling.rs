//! From logits to the next token.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use upcycle_digest::Digest;

/// How a token is drawn from its logits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Logits are divided by this: below 1 likely tokens get likelier. 0 always takes the likeliest.
    pub temperature: f64,
    /// The likeliest tokens that are drawn from; 0 draws from all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are drawn from
    /// ([Holtzman et al., 2019](https://arxiv.org/abs/1904.09751)), after the cut by `top_k`; 1 draws from all.
    pub top_p: f64,
}

/// A token that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SamplingError {
    /// A field of the configuration has an impossible value.
    #[error("sampling field `{field}`: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Logits that say nothing.
    #[error(
        "the logit of token {token} is {value}; the model is broken: check its loss, or use another checkpoint"
    )]
    NotFinite {
        /// The token.
        token: usize,
        /// What it is in place of a number.
        value: &'static str,
    },
    /// No token is possible.
    #[error("no token is possible: every logit is negative infinity; use another checkpoint")]
    NoToken,
}

impl Default for SamplingConfig {
    /// From all tokens, with the probabilities that the model gives them.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        }
    }
}

impl SamplingConfig {
    /// Always the likeliest token, the first of those that are as likely.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Checks that the fields can be.
    ///
    /// # Errors
    /// The first that cannot, and what would be right.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let fail = |field, problem| Err(SamplingError::Field { field, problem });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let found = self.temperature;
            return fail(
                "temperature",
                format!("{found} must be a positive number, or 0 for the likeliest token"),
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let found = self.top_p;
            return fail("top_p", format!("{found} must be above 0 and at most 1"));
        }
        Ok(())
    }
}

/// Draws tokens; the same ones for the same configuration, seed and logits.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplingConfig,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// The sampler of sample number `sample` of a seed.
    ///
    /// # Errors
    /// If a field of the configuration cannot be.
    pub fn new(config: SamplingConfig, seed: u64, sample: usize) -> Result<Self, SamplingError> {
        config.validate()?;
        let rng = (Digest::new("sampling").number(seed).number(sample as u64)).rng();
        Ok(Self { config, rng })
    }

    /// The next token from the logits of all tokens, `[V]`.
    ///
    /// # Errors
    /// If a logit is NaN or infinity, or all are negative infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Result<usize, SamplingError> {
        let best = likeliest(logits)?;
        if self.config.temperature == 0.0 {
            return Ok(best);
        }
        // In the order of the vocabulary, whatever is cut off: a cut that leaves all tokens changes no draw.
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        let weight = |token: usize| {
            let behind = f64::from(logits[token]) - f64::from(logits[best]);
            (behind / self.config.temperature).exp()
        };
        let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        let top_k = self.config.top_k;
        if (1..tokens.len()).contains(&top_k) {
            tokens.select_nth_unstable_by(top_k - 1, likelier);
            tokens.truncate(top_k);
            tokens.sort_unstable();
        }
        if self.config.top_p < 1.0 {
            tokens.sort_unstable_by(likelier);
            let total: f64 = tokens.iter().map(|&token| weight(token)).sum();
            let mut left = self.config.top_p * total;
            let kept = tokens.iter().take_while(|&&token| {
                let is_kept = left > 0.0;
                left -= weight(token);
                is_kept
            });
            let kept = kept.count();
            tokens.truncate(kept.max(1));
            tokens.sort_unstable();
        }
        let total: f64 = tokens.iter().map(|&token| weight(token)).sum();
        let mut left = uniform(&mut self.rng) * total;
        let drawn = tokens.iter().find(|&&token| {
            left -= weight(token);
            left < 0.0
        });
        // Rounding can leave a little behind the last one.
        Ok(drawn.copied().unwrap_or(best))
    }
}

/// The token with the largest logit, the first of those that are as large.
fn likeliest(logits: &[f32]) -> Result<usize, SamplingError> {
    let mut best: Option<usize> = None;
    for (token, &logit) in logits.iter().enumerate() {
        let value = match logit {
            it if it.is_nan() => "NaN",
            f32::INFINITY => "infinity",
            _ => {
                let before = best.map_or(f32::NEG_INFINITY, |best| logits[best]);
                if logit > before {
                    best = Some(token);
                }
                continue;
            }
        };
        return Err(SamplingError::NotFinite { token, value });
    }
    best.ok_or(SamplingError::NoToken)
}

/// A number from 0 to 1, without 1.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// Logits of the probabilities 0.5, 0.1, 0.3, 0.1 and 0.
    fn logits() -> Vec<f32> {
        [0.5_f32, 0.1, 0.3, 0.1, 0.0].map(f32::ln).to_vec()
    }

    fn draws(config: SamplingConfig, seed: u64, count: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(config, seed, 0).unwrap();
        let draw = |_| sampler.sample(&logits()).unwrap();
        (0..count).map(draw).collect()
    }

    /// Shares of the tokens among many draws.
    fn shares(config: SamplingConfig) -> [f64; 5] {
        let mut shares = [0.0; 5];
        for token in draws(config, 3, 20_000) {
            shares[token] += 1.0 / 20_000.0;
        }
        shares
    }

    fn assert_close(found: [f64; 5], expected: [f64; 5]) {
        for (found, expected) in found.iter().zip(expected) {
            // Four standard errors of a share.
            assert!((found - expected).abs() < 0.015, "{found} {expected}");
        }
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let plain = SamplingConfig::default();
        assert_close(shares(plain), [0.5, 0.1, 0.3, 0.1, 0.0]);
        let cold = SamplingConfig {
            temperature: 0.5,
            ..plain
        };
        let squares = [0.25, 0.01, 0.09, 0.01, 0.0].map(|square| square / 0.36);
        assert_close(shares(cold), squares);
    }

    #[test]
    fn cuts_leave_the_likeliest_tokens() {
        let plain = SamplingConfig::default();
        let top_k = |top_k| shares(SamplingConfig { top_k, ..plain });
        assert_close(top_k(1), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_close(top_k(2), [0.625, 0.0, 0.375, 0.0, 0.0]);
        // Of equally likely tokens the first.
        let third = [0.5 / 0.9, 0.1 / 0.9, 0.3 / 0.9, 0.0, 0.0];
        assert_close(top_k(3), third);
        let top_p = |top_p| shares(SamplingConfig { top_p, ..plain });
        assert_close(top_p(0.01), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_close(top_p(0.6), [0.625, 0.0, 0.375, 0.0, 0.0]);
        assert_close(top_p(0.85), third);
        // The cut by K comes first: the first token is more than 0.6 of what that leaves.
        let both = SamplingConfig {
            top_k: 2,
            top_p: 0.6,
            ..plain
        };
        assert_close(shares(both), [1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn cuts_that_leave_all_change_no_draw() {
        let plain = draws(SamplingConfig::default(), 7, 200);
        for (top_k, top_p) in [(5, 1.0), (100, 1.0), (4, 1.0), (0, 1.0 - 1e-12)] {
            let config = SamplingConfig {
                top_k,
                top_p,
                ..SamplingConfig::default()
            };
            assert_eq!(draws(config, 7, 200), plain, "{top_k} {top_p}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_and_another_seed_others() {
        let config = SamplingConfig::default();
        assert_eq!(draws(config, 1, 50), draws(config, 1, 50));
        assert_ne!(draws(config, 1, 50), draws(config, 2, 50));
        let mut other = Sampler::new(config, 1, 1).unwrap();
        let other: Vec<usize> = (0..50).map(|_| other.sample(&logits()).unwrap()).collect();
        assert_ne!(draws(config, 1, 50), other);
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut greedy = Sampler::new(SamplingConfig::greedy(), 0, 0).unwrap();
        assert_eq!(greedy.sample(&[0.0, 2.0, 1.0, 2.0]), Ok(1));
        // However cold, a draw is not greedy by division by zero.
        let cold = SamplingConfig {
            temperature: 1e-300,
            ..SamplingConfig::default()
        };
        assert_eq!(draws(cold, 0, 5), [0; 5]);
    }

    #[test]
    fn broken_logits_are_errors() {
        for config in [SamplingConfig::default(), SamplingConfig::greedy()] {
            let mut sampler = Sampler::new(config, 0, 0).unwrap();
            let not_finite = |token, value| Err(SamplingError::NotFinite { token, value });
            assert_eq!(sampler.sample(&[0.0, f32::NAN]), not_finite(1, "NaN"));
            let infinite = [0.0, 1.0, f32::INFINITY];
            assert_eq!(sampler.sample(&infinite), not_finite(2, "infinity"));
            let none = [f32::NEG_INFINITY; 3];
            assert_eq!(sampler.sample(&none), Err(SamplingError::NoToken));
            assert_eq!(sampler.sample(&[]), Err(SamplingError::NoToken));
        }
    }

    #[test]
    fn impossible_fields_are_named() {
        let field = |temperature: f64, top_p: f64| {
            let config = SamplingConfig {
                temperature,
                top_k: 0,
                top_p,
            };
            match config.validate().unwrap_err() {
                SamplingError::Field { field, .. } => field,
                other => panic!("{other}"),
            }
        };
        assert_eq!(field(-1.0, 1.0), "temperature");
        assert_eq!(field(f64::NAN, 1.0), "temperature");
        assert_eq!(field(1.0, 0.0), "top_p");
        assert_eq!(field(1.0, 1.5), "top_p");
        assert_eq!(field(1.0, f64::NAN), "top_p");
    }
}
