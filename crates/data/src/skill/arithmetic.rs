//! Equations modulo a number.

use rand_chacha::ChaCha8Rng;
use upcycle_digest::Digest;

use super::{Skill, words::Words};
use crate::{
    Split,
    random::{below, shuffle},
    skill_config::ArithmeticConfig,
};

const SIGNS: [&str; 3] = ["+", "-", "*"];

/// All equations, some of them held out.
pub(super) struct Arithmetic {
    words: Words,
    modulus: usize,
    numbers: Vec<u32>,
    signs: Vec<u32>,
    equals: u32,
    /// Numbers of all equations, in random order, those held out first.
    equations: Vec<u32>,
    held_out: usize,
}

impl Arithmetic {
    pub(super) fn new(config: &ArithmeticConfig) -> Arithmetic {
        let mut words = Words::new();
        let modulus = config.modulus;
        let numbers = (0..modulus).map(|number| words.add(&number.to_string()));
        let numbers = numbers.collect();
        let signs = SIGNS.iter().map(|sign| words.add(sign)).collect();
        let equals = words.add("=");
        let count = SIGNS.len() * modulus * modulus;
        let mut equations: Vec<u32> = (0..count as u32).collect();
        let mut rng = Digest::new("upcycle-data equations 1")
            .number(config.seed)
            .rng();
        shuffle(&mut equations, count, &mut rng);
        Arithmetic {
            words,
            modulus,
            numbers,
            signs,
            equals,
            equations,
            held_out: count / 4,
        }
    }

    /// Adds the left side of an equation, and gives the right one.
    fn add_left(&self, equation: u32, tokens: &mut Vec<u32>) -> u32 {
        let (rest, b) = (
            equation as usize / self.modulus,
            equation as usize % self.modulus,
        );
        let (sign, a) = (rest / self.modulus, rest % self.modulus);
        let result = match SIGNS[sign] {
            "+" => a + b,
            "-" => a + self.modulus - b,
            _ => a * b,
        };
        tokens.extend([
            self.numbers[a],
            self.signs[sign],
            self.numbers[b],
            self.equals,
        ]);
        self.numbers[result % self.modulus]
    }
}

impl Skill for Arithmetic {
    fn words(&self) -> &Words {
        &self.words
    }

    fn add_document(&self, split: Split, rng: &mut ChaCha8Rng, tokens: &mut Vec<u32>) {
        let (held_out, taught) = self.equations.split_at(self.held_out);
        let equations = match split {
            Split::Pretrain | Split::Cpt => taught,
            Split::Validation | Split::Test => held_out,
        };
        let equation = equations[below(equations.len(), rng) as usize];
        let result = self.add_left(equation, tokens);
        tokens.push(result);
    }

    fn question(&self, index: u64, _: &mut ChaCha8Rng) -> Option<(Vec<u32>, u32, Vec<u32>)> {
        let held_out = &self.equations[..self.held_out];
        let equation = *held_out.get(usize::try_from(index).ok()?)?;
        let mut context = Vec::new();
        let right = self.add_left(equation, &mut context);
        let wrong = self
            .numbers
            .iter()
            .copied()
            .filter(|&number| number != right);
        Some((context, right, wrong.collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn documents(split: Split) -> Vec<String> {
        let arithmetic = Arithmetic::new(&ArithmeticConfig {
            modulus: 7,
            seed: 2,
        });
        let mut rng = Digest::new("test").rng();
        let documents = (0..500).map(|_| {
            let mut tokens = Vec::new();
            arithmetic.add_document(split, &mut rng, &mut tokens);
            arithmetic.words.text(&tokens)
        });
        documents.collect()
    }

    #[test]
    fn equations_hold() {
        for document in documents(Split::Pretrain) {
            let words: Vec<&str> = document.split(' ').collect();
            let number = |place: usize| words[place].parse::<i64>().unwrap();
            let (a, b) = (number(0), number(2));
            let result = match words[1] {
                "+" => a + b,
                "-" => a - b,
                _ => a * b,
            };
            assert_eq!(number(4), result.rem_euclid(7), "{document}");
        }
    }

    #[test]
    fn what_is_asked_was_never_taught() {
        let taught = documents(Split::Cpt);
        let held_out = documents(Split::Test);
        assert!(held_out.iter().all(|document| !taught.contains(document)));
        let arithmetic = Arithmetic::new(&ArithmeticConfig {
            modulus: 7,
            seed: 2,
        });
        let mut rng = Digest::new("test").rng();
        for index in 0..36 {
            let (mut context, right, wrong) = arithmetic.question(index, &mut rng).unwrap();
            context.push(right);
            assert!(held_out.contains(&arithmetic.words.text(&context)));
            assert_eq!(wrong.len(), 6);
        }
        assert!(arithmetic.question(36, &mut rng).is_none());
    }
}
