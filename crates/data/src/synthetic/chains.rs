//! The Markov chains.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};
use upcycle_digest::Digest;

use super::categorical::Categorical;
use crate::{
    SyntheticConfig,
    random::{below, shuffle},
};

/// One first-order chain a domain, all over the same tokens.
pub(crate) struct Chains {
    tokens: usize,
    /// The tokens that can follow, most probable first: `[domains, tokens, choices]`.
    successors: Vec<u32>,
    /// The probabilities of the successors of any token, `[choices]`.
    probabilities: Vec<f32>,
    ranks: Categorical,
    entropy: f64,
}

impl Chains {
    pub(crate) fn new(config: &SyntheticConfig) -> Chains {
        let weights = (1..=config.successors).map(|rank| 1.0 / rank as f64);
        let sum: f64 = weights.clone().sum();
        let probabilities = weights.clone().map(|weight| weight / sum);
        Chains {
            tokens: config.tokens,
            successors: draw_successors(config),
            probabilities: probabilities.clone().map(|p| p as f32).collect(),
            ranks: Categorical::new(weights),
            entropy: probabilities.map(|p| p * p.recip().ln()).sum(),
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The entropy of what follows a token, in nats. It is the same for every token of every
    /// domain, so it is the entropy rate whatever the stationary distributions are.
    pub(crate) fn entropy(&self) -> f64 {
        self.entropy
    }

    pub(crate) fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    pub(crate) fn successors(&self, domain: usize, token: u32) -> &[u32] {
        let choices = self.probabilities.len();
        let state = domain * self.tokens + token as usize;
        &self.successors[state * choices..][..choices]
    }

    /// Fills `path` with a uniformly random start and the chain that follows it.
    pub(crate) fn walk(&self, domain: usize, rng: &mut ChaCha8Rng, path: &mut [u32]) {
        let Some((start, rest)) = path.split_first_mut() else {
            return;
        };
        *start = below(self.tokens, rng);
        let mut token = *start;
        for next in rest {
            token = self.successors(domain, token)[self.ranks.sample(rng.next_u32())];
            *next = token;
        }
    }
}

fn draw_successors(config: &SyntheticConfig) -> Vec<u32> {
    let mut rng = Digest::new("upcycle-data synthetic chains 1")
        .number(config.seed)
        .rng();
    let choices = config.successors;
    let mut successors = Vec::with_capacity(config.domains * config.tokens * choices);
    // The first steps of a Fisher-Yates shuffle. They draw uniformly from any starting order, so
    // the order that one state leaves behind serves the next.
    let mut order: Vec<u32> = (0..config.tokens as u32).collect();
    for _ in 0..config.domains * config.tokens {
        shuffle(&mut order, choices, &mut rng);
        successors.extend_from_slice(&order[..choices]);
    }
    successors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(successors: usize) -> Chains {
        Chains::new(&SyntheticConfig {
            successors,
            ..SyntheticConfig::default()
        })
    }

    #[test]
    fn successors_are_distinct_tokens() {
        let chains = chains(4);
        for domain in 0..16 {
            for token in 0..128 {
                let mut successors = chains.successors(domain, token).to_vec();
                successors.sort_unstable();
                successors.dedup();
                assert_eq!(successors.len(), 4);
                assert!(successors.iter().all(|&token| token < 128));
            }
        }
        assert_ne!(chains.successors(0, 5), chains.successors(1, 5));
    }

    #[test]
    fn every_token_is_a_successor_about_equally_often() {
        let chains = chains(4);
        let mut counts = [0; 128];
        for token in &chains.successors {
            counts[*token as usize] += 1;
        }
        // 16 * 128 * 4 draws over 128 tokens: 64 each, standard deviation below 8.
        assert!(counts.iter().all(|count| (30..100).contains(count)));
    }

    #[test]
    fn all_tokens_can_be_successors() {
        let mut successors = chains(128).successors(3, 7).to_vec();
        successors.sort_unstable();
        assert!(successors.into_iter().eq(0..128));
    }

    #[test]
    fn one_successor_leaves_no_entropy() {
        assert_eq!(chains(1).entropy(), 0.0);
    }
}
