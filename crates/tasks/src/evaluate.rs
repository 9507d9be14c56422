//! A model on a task.

use serde::{Deserialize, Serialize};

use crate::{
    error::TaskError,
    item::{Choice, Continuation, Items, MetricKind, Task},
    model::ScoringModel,
    score::{Score, score},
    sequence::{Encoder, Sequence, SequenceError, count_words},
    statistics::Estimate,
};

/// Tokens of a forward pass, unless a single sequence has more.
pub const TOKENS_OF_A_PASS: usize = 8192;

/// What a model reached on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The task.
    pub task: String,
    /// Items of it.
    pub items: usize,
    /// In the order of the task.
    pub metrics: Vec<Metric>,
}

/// A number that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is.
    pub name: MetricKind,
    /// Its value: shares from 0 to 1.
    pub value: f64,
    /// Its standard error over items; none for a single one.
    pub standard_error: Option<f64>,
    /// What guessing reaches; none where nothing is chosen.
    pub chance: Option<f64>,
}

/// Evaluates a model. `progress` is told how many of how many sequences are done.
///
/// # Errors
/// If the task has no item, one of them cannot be scored, or the device fails.
pub fn evaluate(
    task: &Task,
    model: &mut dyn ScoringModel,
    encoder: &Encoder,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Outcome, TaskError> {
    if task.items.is_empty() {
        return Err(TaskError::NoItems {
            task: task.name.clone(),
        });
    }
    let (sequences, counts) = sequences(task, encoder, model.context())?;
    let count = sequences.len();
    let scores = score(model, &sequences, TOKENS_OF_A_PASS, &mut |done| {
        progress(done, count);
    })?;
    let mut rest = scores.as_slice();
    let scores = counts.into_iter().map(|count| {
        let (item, later) = rest.split_at(count);
        rest = later;
        item
    });
    let scores: Vec<&[Score]> = scores.collect();
    let metrics = task.metrics.iter().map(|&name| {
        let estimate = match &task.items {
            Items::Choices(items) => of_choices(name, items, &scores),
            Items::Clozes(_) => of_clozes(name, &scores),
            Items::Documents(items) => of_documents(name, items, &scores),
        };
        Metric {
            name,
            value: estimate.value,
            standard_error: estimate.standard_error,
            chance: match &task.items {
                Items::Choices(items) if name.is_accuracy() => Some(chance(items)),
                _ => None,
            },
        }
    });
    Ok(Outcome {
        task: task.name.clone(),
        items: task.items.len(),
        metrics: metrics.collect(),
    })
}

/// The sequences of all items, and how many each has.
fn sequences(
    task: &Task,
    encoder: &Encoder,
    context: usize,
) -> Result<(Vec<Sequence>, Vec<usize>), TaskError> {
    let (mut sequences, mut counts) = (Vec::new(), Vec::new());
    let mut add = |item: usize, found: Result<Vec<Sequence>, SequenceError>| {
        let mut found = found.map_err(|reason| TaskError::Item {
            task: task.name.clone(),
            item: item + 1,
            reason: Box::new(reason),
        })?;
        counts.push(found.len());
        sequences.append(&mut found);
        Ok::<(), TaskError>(())
    };
    let continuation = |it: &Continuation| encoder.continuation(it, context);
    match &task.items {
        Items::Choices(items) => {
            for (index, item) in items.iter().enumerate() {
                let candidates = item.candidates.iter();
                add(
                    index,
                    candidates.map(|it| continuation(&it.scored)).collect(),
                )?;
            }
        }
        Items::Clozes(items) => {
            for (index, item) in items.iter().enumerate() {
                add(index, continuation(item).map(|sequence| vec![sequence]))?;
            }
        }
        Items::Documents(items) => {
            for (index, item) in items.iter().enumerate() {
                add(index, encoder.windows(item, context))?;
            }
        }
    }
    Ok((sequences, counts))
}

/// The share of right answers of who chooses uniformly at random.
fn chance(items: &[Choice]) -> f64 {
    let shares = items.iter().map(|item| 1.0 / item.candidates.len() as f64);
    shares.sum::<f64>() / items.len() as f64
}

fn of_choices(name: MetricKind, items: &[Choice], scores: &[&[Score]]) -> Estimate {
    let values = items.iter().zip(scores).map(|(item, scores)| {
        let by = |length: fn(&str) -> usize| {
            let candidates = scores.iter().zip(&item.candidates);
            let scores = candidates.map(|(score, candidate)| {
                score.log_likelihood / length(&candidate.answer).max(1) as f64
            });
            f64::from(first_of_largest(scores) == Some(item.answer))
        };
        match name {
            MetricKind::AccNorm => by(|answer| answer.chars().count()),
            MetricKind::AccBytes => by(str::len),
            MetricKind::AnswerBitsPerByte => {
                let bytes = item.candidates[item.answer].answer.len().max(1) as f64;
                -scores[item.answer].log_likelihood / bytes / std::f64::consts::LN_2
            }
            _ => by(|_| 1),
        }
    });
    Estimate::mean(&values.collect::<Vec<f64>>())
}

/// The place of the largest value, the first of several.
fn first_of_largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (place, value) in values.enumerate() {
        if best.is_none_or(|(_, largest)| value > largest) {
            best = Some((place, value));
        }
    }
    best.map(|(place, _)| place)
}

fn of_clozes(name: MetricKind, scores: &[&[Score]]) -> Estimate {
    let scores = scores.iter().copied().flatten();
    match name {
        MetricKind::Perplexity => {
            let losses: Vec<f64> = scores.map(|score| -score.log_likelihood).collect();
            Estimate::mean(&losses).exp()
        }
        _ => {
            let greedy: Vec<f64> = scores.map(|score| f64::from(score.is_greedy)).collect();
            Estimate::mean(&greedy)
        }
    }
}

fn of_documents(name: MetricKind, items: &[String], scores: &[&[Score]]) -> Estimate {
    let losses = scores.iter().map(|windows| {
        -windows
            .iter()
            .map(|score| score.log_likelihood)
            .sum::<f64>()
    });
    let losses: Vec<f64> = losses.collect();
    let per = |length: fn(&str) -> usize| {
        let lengths: Vec<f64> = items.iter().map(|text| length(text) as f64).collect();
        Estimate::ratio(&losses, &lengths)
    };
    match name {
        MetricKind::WordPerplexity => per(count_words).exp(),
        MetricKind::BytePerplexity => per(str::len).exp(),
        _ => per(str::len).times(1.0 / std::f64::consts::LN_2),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use upcycle_data::TextTokenizer;

    use super::*;
    use crate::{fake::Fake, item::Candidate};

    const VOCAB: usize = 257;
    /// Logarithms of the fake model's two probabilities.
    fn logs() -> (f64, f64) {
        let rest = 0.5 / VOCAB as f64;
        ((0.5 + rest).ln(), rest.ln())
    }

    fn run(items: Items, metrics: &[MetricKind]) -> Vec<Metric> {
        let task = Task {
            name: "test".into(),
            items,
            metrics: metrics.to_vec(),
        };
        let encoder = Encoder::new(TextTokenizer::bytes(), 256);
        let mut told = (0, 0);
        let outcome = evaluate(&task, &mut Fake::new(VOCAB), &encoder, &mut |done, of| {
            told = (done, of);
        });
        let outcome = outcome.unwrap();
        assert_eq!(told.0, told.1);
        assert_eq!(outcome.items, task.items.len());
        outcome.metrics
    }

    fn choice(context: &str, answers: &[&str], answer: usize) -> Choice {
        let candidates = answers.iter().map(|text| Candidate {
            scored: Continuation {
                context: context.into(),
                text: (*text).into(),
            },
            answer: (*text).into(),
        });
        Choice {
            candidates: candidates.collect(),
            answer,
        }
    }

    #[test]
    fn lengths_decide_what_normalisation_chooses() {
        let (likely, unlikely) = logs();
        let items = vec![
            choice("a", &["bcdefg", "x"], 0),
            choice("a", &["bx", "xyz{"], 1),
            choice("a", &["éé", "xq"], 0),
        ];
        let metrics = run(Items::Choices(items), &MetricKind::OF_CHOICES);
        let [acc, norm, bytes, bits] = &metrics[..] else {
            panic!("{metrics:?}")
        };
        // Likely tokens cost 0.69 nats, unlikely ones 6.24. First: 4.2 against 6.2, right in all ways. Second: 6.9 against
        // 8.3, but 3.5 against 2.1 a character. Third: 25 against 12.5; 12.5 against 6.2 a character; 6.2 each a byte, and
        // the first is chosen.
        for (metric, expected) in [(acc, 1.0 / 3.0), (norm, 2.0 / 3.0), (bytes, 1.0)] {
            assert!((metric.value - expected).abs() < 1e-12, "{metric:?}");
        }
        let expected = [-likely, -(unlikely + 3.0 * likely) / 4.0, -unlikely];
        let expected = expected.iter().sum::<f64>() / 3.0 / 2_f64.ln();
        assert!((bits.value - expected).abs() < 1e-9, "{bits:?} {expected}");
        assert_eq!(acc.chance, Some(0.5));
        assert_eq!(bits.chance, None);
        // p (1 - p) / (n - 1) with p = 1/3 and n = 3.
        let error = acc.standard_error.unwrap();
        assert!((error - 1.0 / 3.0).abs() < 1e-12, "{error}");
    }

    #[test]
    fn the_first_of_equals_is_chosen_and_chance_is_exact() {
        let items = vec![
            choice("a", &["x", "y"], 0),
            choice("a", &["x", "y", "z", "w"], 1),
        ];
        let metrics = run(Items::Choices(items), &[MetricKind::Acc]);
        assert_eq!(metrics[0].value, 0.5);
        assert_eq!(metrics[0].chance, Some(0.375));
    }

    #[test]
    fn clozes_count_if_every_token_is_the_most_likely() {
        let (likely, unlikely) = logs();
        let cloze = |text: &str| Continuation {
            context: "a".into(),
            text: text.into(),
        };
        let items = Items::Clozes(vec![cloze("bc"), cloze("bd")]);
        let metrics = run(items, &MetricKind::OF_CLOZES);
        assert_eq!(metrics[0].value, 0.5);
        let perplexity = (-(3.0 * likely + unlikely) / 2.0).exp();
        assert!((metrics[1].value / perplexity - 1.0).abs() < 1e-9);
    }

    #[test]
    fn documents_are_scored_as_one_text() {
        let (likely, unlikely) = logs();
        // After the prefix 256 comes byte 0 with probability a half.
        let items = Items::Documents(vec!["ab cd".into(), "x".into()]);
        let metrics = run(items, &MetricKind::OF_DOCUMENTS);
        // Likely: b and d.
        let loss = -(2.0 * likely + 4.0 * unlikely);
        for (metric, expected) in metrics.iter().zip([
            (loss / 3.0).exp(),
            (loss / 6.0).exp(),
            loss / 6.0 / 2_f64.ln(),
        ]) {
            assert!((metric.value / expected - 1.0).abs() < 1e-9, "{metric:?}");
        }
    }

    #[test]
    fn items_that_cannot_be_scored_are_named() {
        let task = Task {
            name: "short".into(),
            items: Items::Choices(vec![choice("a", &["b", ""], 0)]),
            metrics: vec![MetricKind::Acc],
        };
        let encoder = Encoder::new(TextTokenizer::bytes(), 256);
        let run = |task: &Task| {
            let outcome = evaluate(task, &mut Fake::new(VOCAB), &encoder, &mut |_, _| {});
            outcome.unwrap_err().to_string()
        };
        let message = run(&task);
        assert!(
            message.contains("short, item 1") && message.contains("no token"),
            "{message}"
        );
        let empty = Task {
            items: Items::Documents(Vec::new()),
            ..task
        };
        assert!(run(&empty).contains("no item"));
    }
}
