//! Walks along arrows.

use rand_chacha::ChaCha8Rng;

use super::{Skill, words::Words};
use crate::{
    Split,
    random::{below, shuffle},
    skill_config::LookupConfig,
};

/// Symbols that rings are drawn from: two letters each.
const SYMBOLS: usize = 64;
const LETTERS: [&str; 8] = ["b", "d", "f", "k", "m", "p", "t", "z"];

/// Rings of arrows.
pub(super) struct Lookup {
    words: Words,
    symbols: Vec<u32>,
    ring: usize,
    /// `1`, `2` and so on, up to the longest walk.
    counts: Vec<u32>,
    arrow: u32,
    comma: u32,
    after: u32,
    steps: u32,
}

impl Lookup {
    pub(super) fn new(config: &LookupConfig) -> Lookup {
        let mut words = Words::new();
        let symbols = (0..SYMBOLS).map(|number| {
            let letters = [LETTERS[number / 8], LETTERS[number % 8]];
            words.add(&letters.concat())
        });
        let symbols = symbols.collect();
        let counts = (1..=config.hops).map(|hops| words.add(&hops.to_string()));
        let counts = counts.collect();
        Lookup {
            symbols,
            ring: config.symbols,
            counts,
            arrow: words.add(">"),
            comma: words.add(","),
            after: words.add("after"),
            steps: words.add("steps:"),
            words,
        }
    }

    /// Adds a ring and a walk of some steps, and gives its end and the other symbols.
    fn add_walk(
        &self,
        hops: usize,
        rng: &mut ChaCha8Rng,
        tokens: &mut Vec<u32>,
    ) -> (u32, Vec<u32>) {
        let mut ring = self.symbols.clone();
        shuffle(&mut ring, self.ring, rng);
        ring.truncate(self.ring);
        let next = |place: usize, hops: usize| ring[(place + hops) % self.ring];
        let mut order: Vec<usize> = (0..self.ring).collect();
        shuffle(&mut order, self.ring, rng);
        for place in order {
            tokens.extend([ring[place], self.arrow, next(place, 1), self.comma]);
        }
        let start = below(self.ring, rng) as usize;
        tokens.extend([ring[start], self.after, self.counts[hops - 1], self.steps]);
        let end = next(start, hops);
        let others = ring.iter().copied().filter(|&symbol| symbol != end);
        (end, others.collect())
    }
}

impl Skill for Lookup {
    fn words(&self) -> &Words {
        &self.words
    }

    fn add_document(&self, _: Split, rng: &mut ChaCha8Rng, tokens: &mut Vec<u32>) {
        let hops = 1 + below(self.counts.len(), rng) as usize;
        let (end, _) = self.add_walk(hops, rng, tokens);
        tokens.push(end);
    }

    fn question(&self, _: u64, rng: &mut ChaCha8Rng) -> Option<(Vec<u32>, u32, Vec<u32>)> {
        let mut context = Vec::new();
        let (end, others) = self.add_walk(self.counts.len(), rng, &mut context);
        Some((context, end, others))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::HashMap;

    use upcycle_digest::Digest;

    use super::*;

    #[test]
    fn walks_end_where_the_arrows_lead() {
        let lookup = Lookup::new(&LookupConfig {
            hops: 3,
            symbols: 5,
            seed: 0,
        });
        let mut rng = Digest::new("test").rng();
        for _ in 0..50 {
            let mut tokens = Vec::new();
            lookup.add_document(Split::Pretrain, &mut rng, &mut tokens);
            let text = lookup.words.text(&tokens);
            let (arrows, walk) = text.rsplit_once(" , ").unwrap();
            let arrows: HashMap<&str, &str> = arrows
                .split(" , ")
                .map(|arrow| arrow.split_once(" > ").unwrap())
                .collect();
            assert_eq!(arrows.len(), 5);
            let walk: Vec<&str> = walk.split(' ').collect();
            let [start, "after", hops, "steps:", end] = walk[..] else {
                panic!("{text}")
            };
            let hops: usize = hops.parse().unwrap();
            assert_eq!((0..hops).fold(start, |place, _| arrows[place]), end);
        }
    }

    #[test]
    fn the_longest_walk_is_asked_for() {
        let lookup = Lookup::new(&LookupConfig::default());
        let mut rng = Digest::new("test").rng();
        let (context, end, others) = lookup.question(0, &mut rng).unwrap();
        assert!(lookup.words.text(&context).ends_with("after 2 steps:"));
        assert_eq!(others.len(), 7);
        assert!(!others.contains(&end));
    }
}
