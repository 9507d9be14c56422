//! What the corpora of skills are made from.

use serde::{Deserialize, Serialize};

use crate::{DataError, require::require};

/// Names of persons there are.
pub(crate) const NAMES: usize = 1 << 21;

/// Facts about made-up persons.
///
/// Each person has a name of three words, and a birthplace, an employer, a subject, a birth year
/// and a favourite plant, each one of 64: 30 bits a person. A document is all facts of a random
/// person, each in one of three phrasings, in random order. All splits are about the same persons,
/// for what was not told cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnowledgeConfig {
    /// Persons. Default 1000.
    pub persons: usize,
    /// What the facts are drawn from. Default 0.
    pub seed: u64,
}

/// Sums, differences and products of two numbers, modulo a third.
///
/// A document is one equation. A quarter of all equations is held out: it is what the splits for
/// validation and testing are made of, and what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArithmeticConfig {
    /// Numbers are less than this. Default 31.
    pub modulus: usize,
    /// What is held out depends on it. Default 0.
    pub seed: u64,
}

/// Walks along arrows that are told in the document itself.
///
/// A document is a ring of random symbols, an arrow at a time in random order, and the end of a
/// walk along it. Nothing of it can be known by heart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookupConfig {
    /// Arrows of the longest walk, which is what is asked. Default 2.
    pub hops: usize,
    /// Symbols of a ring. Default 8.
    pub symbols: usize,
    /// What the documents are drawn from. Default 0.
    pub seed: u64,
}

impl Default for KnowledgeConfig {
    fn default() -> Self {
        KnowledgeConfig {
            persons: 1000,
            seed: 0,
        }
    }
}

impl Default for ArithmeticConfig {
    fn default() -> Self {
        ArithmeticConfig {
            modulus: 31,
            seed: 0,
        }
    }
}

impl Default for LookupConfig {
    fn default() -> Self {
        LookupConfig {
            hops: 2,
            symbols: 8,
            seed: 0,
        }
    }
}

impl KnowledgeConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        require(
            (1..=NAMES).contains(&self.persons),
            "persons",
            self.persons,
            "at least 1 and at most 2^21: there are no more names",
        )
    }
}

impl ArithmeticConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        require(
            (4..=512).contains(&self.modulus),
            "modulus",
            self.modulus,
            "at least 4, for four different answers, and at most 512",
        )
    }
}

impl LookupConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        require(
            (4..=64).contains(&self.symbols),
            "symbols",
            self.symbols,
            "at least 4, for four different answers, and at most 64",
        )?;
        require(
            (1..self.symbols).contains(&self.hops),
            "hops",
            self.hops,
            "at least 1 and less than `symbols`, so that a walk does not end where it began",
        )
    }
}
