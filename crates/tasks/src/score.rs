//! Scores of sequences, in batches.

use crate::{
    error::TaskError,
    model::{ScoringModel, TokenBatch},
    sequence::Sequence,
};

/// How likely the targets of a sequence were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Logarithm of the probability of all targets, in nats.
    pub log_likelihood: f64,
    /// Whether each target was the most likely token.
    pub is_greedy: bool,
}

/// Scores sequences, the longest first, as many at a time as fill `budget` tokens (one, if it has
/// more). Apart from rounding the scores do not depend on the budget. `progress` is told after
/// each batch how many sequences are done.
///
/// # Errors
/// If a token is none of the model's, the device fails, or a score is no number.
pub fn score(
    model: &mut dyn ScoringModel,
    sequences: &[Sequence],
    budget: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Score>, TaskError> {
    let vocab = model.vocab_size();
    let tokens = sequences
        .iter()
        .flat_map(|it| it.inputs.iter().chain(&it.targets));
    if let Some(&token) = tokens.max().filter(|&&token| token as usize >= vocab) {
        return Err(TaskError::Vocabulary { token, vocab });
    }
    let none = Score {
        log_likelihood: 0.0,
        is_greedy: true,
    };
    let mut scores = vec![none; sequences.len()];
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    // Equal lengths stay in their order.
    order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].inputs.len()));
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        let length = sequences[longest].inputs.len();
        let rows = (budget / length.max(1)).clamp(1, rest.len());
        let (now, later) = rest.split_at(rows);
        let batch = batch(sequences, now, length);
        let tokens = model.score(&batch).map_err(TaskError::Model)?;
        for (token, &(place, _)) in tokens.iter().zip(&batch.scored) {
            let score = &mut scores[now[place / length]];
            score.log_likelihood += token.log_probability;
            score.is_greedy &= token.is_greedy;
        }
        rest = later;
        progress(order.len() - rest.len());
    }
    match scores.iter().all(|score| score.log_likelihood.is_finite()) {
        true => Ok(scores),
        false => Err(TaskError::NotFinite),
    }
}

/// Some of the sequences, filled up to one length.
fn batch(sequences: &[Sequence], indices: &[usize], length: usize) -> TokenBatch {
    let mut batch = TokenBatch {
        rows: indices.len(),
        length,
        inputs: Vec::with_capacity(indices.len() * length),
        scored: Vec::new(),
    };
    for &index in indices {
        let Sequence { inputs, targets } = &sequences[index];
        let end = batch.inputs.len() + inputs.len();
        let places = end - targets.len()..end;
        batch.scored.extend(places.zip(targets.iter().copied()));
        batch.inputs.extend(inputs);
        batch.inputs.resize(end - inputs.len() + length, 0);
    }
    batch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;

    fn sequence(inputs: &[u32], targets: &[u32]) -> Sequence {
        Sequence {
            inputs: inputs.to_vec(),
            targets: targets.to_vec(),
        }
    }

    #[test]
    fn rows_are_filled_up_behind() {
        let sequences = [sequence(&[1, 2, 3], &[3, 4]), sequence(&[5], &[6])];
        let batch = batch(&sequences, &[0, 1], 3);
        assert_eq!(batch.inputs, [1, 2, 3, 5, 0, 0]);
        assert_eq!(batch.scored, [(1, 3), (2, 4), (3, 6)]);
    }

    #[test]
    fn unknown_tokens_are_told() {
        let mut model = Fake::new(8);
        let error = score(&mut model, &[sequence(&[1], &[8])], 10, &mut |_| {});
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("token 8") && message.contains('8'),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn scores_do_not_depend_on_batches(
            lengths in prop::collection::vec((1_usize..9, 1_usize..4), 1..12),
            budget in 1_usize..40,
        ) {
            let sequences: Vec<Sequence> = lengths.iter().enumerate().map(|(i, &(length, scored))| {
                let inputs: Vec<u32> = (0..length).map(|j| ((i * 7 + j * 3) % 8) as u32).collect();
                let targets = inputs[..scored.min(length)].to_vec();
                Sequence { inputs, targets }
            }).collect();
            let mut done = Vec::new();
            let scores = score(&mut Fake::new(8), &sequences, budget, &mut |count| done.push(count)).unwrap();
            prop_assert_eq!(done.last().copied(), Some(sequences.len()));
            for (sequence, score_of_all) in sequences.iter().zip(&scores) {
                let alone = score(&mut Fake::new(8), std::slice::from_ref(sequence), 1, &mut |_| {}).unwrap();
                prop_assert!((alone[0].log_likelihood - score_of_all.log_likelihood).abs() < 1e-9);
                prop_assert_eq!(alone[0].is_greedy, score_of_all.is_greedy);
            }
        }
    }
}
