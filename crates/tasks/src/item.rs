//! What a task is made of.

use serde::{Deserialize, Serialize};
use upcycle_digest::Digest;

/// Version of how scores are computed.
const SCORES_VERSION: u64 = 1;
/// Letters of a fingerprint.
const LETTERS: usize = 20;

/// A task: items of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// What it is called in tables.
    pub name: String,
    /// What is asked.
    pub items: Items,
    /// What is measured, the number that stands for the task first.
    pub metrics: Vec<MetricKind>,
}

impl Task {
    /// Hexadecimal digits that differ where scores of one model may: by what is asked and measured, and by how scores are
    /// computed.
    pub fn fingerprint(&self) -> String {
        // Texts and numbers always serialise.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut digest = Digest::new("upcycle-tasks task");
        digest.number(SCORES_VERSION).bytes(&json).hex()[..LETTERS].to_owned()
    }
}

/// Items of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Items {
    /// Candidates of which one is right: multiple choice, minimal pairs, partial evaluation.
    Choices(Vec<Choice>),
    /// The words that follow.
    Clozes(Vec<Continuation>),
    /// Texts.
    Documents(Vec<String>),
}

impl Items {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Items::Choices(items) => items.len(),
            Items::Clozes(items) => items.len(),
            Items::Documents(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Candidates of which one is right. The model's answer is the most likely one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// At least two.
    pub candidates: Vec<Candidate>,
    /// The right one, from 0.
    pub answer: usize,
}

/// One of the things to choose from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// What is scored.
    pub scored: Continuation,
    /// The answer by whose length scores are divided: the continuation without what parts it from
    /// the context, or where contexts differ their answer.
    pub answer: String,
}

/// A text and what may follow it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Continuation {
    /// What stands before.
    pub context: String,
    /// What is scored.
    pub text: String,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Share of items whose most likely candidate is the right one; of cloze items whose every
    /// token is the most likely one.
    Acc,
    /// The same, by log-likelihood a character of the answer.
    AccNorm,
    /// The same, by log-likelihood a byte of the answer.
    AccBytes,
    /// Mean bits a byte of the right answer.
    AnswerBitsPerByte,
    /// Exponential of the mean negative log-likelihood of an item.
    Perplexity,
    /// Exponential of the negative log-likelihood a word of all texts.
    WordPerplexity,
    /// The same a byte.
    BytePerplexity,
    /// Bits a byte of all texts.
    BitsPerByte,
}

impl MetricKind {
    /// What can be measured of candidates, in the order of tables.
    pub const OF_CHOICES: [MetricKind; 4] = [
        MetricKind::Acc,
        MetricKind::AccNorm,
        MetricKind::AccBytes,
        MetricKind::AnswerBitsPerByte,
    ];
    /// What can be measured of clozes.
    pub const OF_CLOZES: [MetricKind; 2] = [MetricKind::Acc, MetricKind::Perplexity];
    /// What can be measured of texts.
    pub const OF_DOCUMENTS: [MetricKind; 3] = [
        MetricKind::WordPerplexity,
        MetricKind::BytePerplexity,
        MetricKind::BitsPerByte,
    ];

    /// The name in task files, tables and JSON; where lm-evaluation-harness has it, the same.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Acc => "acc",
            MetricKind::AccNorm => "acc_norm",
            MetricKind::AccBytes => "acc_bytes",
            MetricKind::AnswerBitsPerByte => "answer_bits_per_byte",
            MetricKind::Perplexity => "perplexity",
            MetricKind::WordPerplexity => "word_perplexity",
            MetricKind::BytePerplexity => "byte_perplexity",
            MetricKind::BitsPerByte => "bits_per_byte",
        }
    }

    /// Whether it is a share of items.
    pub fn is_accuracy(self) -> bool {
        matches!(
            self,
            MetricKind::Acc | MetricKind::AccNorm | MetricKind::AccBytes
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn fingerprints_tell_tasks_apart() {
        let task = |text: &str, metric| Task {
            name: "own".into(),
            items: Items::Documents(vec![text.into()]),
            metrics: vec![metric],
        };
        let one = task("a", MetricKind::BitsPerByte).fingerprint();
        assert_eq!(one, task("a", MetricKind::BitsPerByte).fingerprint());
        assert_ne!(one, task("b", MetricKind::BitsPerByte).fingerprint());
        assert_ne!(one, task("a", MetricKind::BytePerplexity).fingerprint());
    }

    #[test]
    fn the_name_is_the_serialized_form() {
        let all = MetricKind::OF_CHOICES.into_iter();
        let all = all
            .chain(MetricKind::OF_CLOZES)
            .chain(MetricKind::OF_DOCUMENTS);
        for kind in all {
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, serde_json::Value::from(kind.name()));
        }
    }
}
