//! A model as downstream tasks see it.

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::Precision;
use upcycle_lm::LmConfig;
use upcycle_tasks::TokenBatch;
use upcycle_train::{BurnEngine, Checkpoint, Engine, Start};

type B = Autodiff<Flex>;

/// Logarithms of the probabilities of all tokens after each of some, `[tokens, vocab]`.
fn log_probabilities(checkpoint: &Checkpoint<B>, tokens: &[i32]) -> Vec<Vec<f64>> {
    let data = TensorData::new(tokens.to_vec(), [1, tokens.len()]);
    let tokens = Tensor::<Flex, 2, Int>::from_data(data, &FlexDevice);
    let (logits, _) = checkpoint.model.valid().logits(tokens, Precision::F32);
    let vocab = logits.dims()[1];
    let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
    let rows = logits.chunks(vocab).map(|row| {
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        row.iter().map(|logit| logit - sum.ln()).collect()
    });
    rows.collect()
}

#[test]
fn scores_of_padded_rows_are_those_of_the_logits() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    let config = LmConfig {
        vocab: 40,
        ..LmConfig::default()
    };
    let checkpoint = Checkpoint::<B>::initial(&config, 3, &FlexDevice).unwrap();
    checkpoint.save(&dir).unwrap();
    let engine = BurnEngine::<B>::new("cpu", "test".into(), FlexDevice);
    let mut scorer = engine.scorer(&Start::Checkpoint(dir)).unwrap();
    assert_eq!((scorer.context(), scorer.vocab_size()), (64, 40));

    let long = log_probabilities(&checkpoint, &[1, 2, 3, 4]);
    let short = log_probabilities(&checkpoint, &[7, 8]);
    let best = |row: &[f64]| {
        let places = 0..row.len();
        places.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    };
    let likely = best(&long[3]);
    let batch = TokenBatch {
        rows: 2,
        length: 4,
        inputs: vec![1, 2, 3, 4, 7, 8, 0, 0],
        scored: vec![(2, 9), (3, likely as u32), (5, 11)],
    };
    let scores = scorer.score(&batch).unwrap();
    let expected = [long[2][9], long[3][likely], short[1][11]];
    for (score, expected) in scores.iter().zip(expected) {
        let difference = (score.log_probability - expected).abs();
        assert!(difference < 1e-5, "{difference}");
    }
    assert_eq!(scores.len(), 3);
    assert!(scores[1].is_greedy);
    assert_eq!(scores[0].is_greedy, best(&long[2]) == 9);
    let nothing = TokenBatch {
        scored: Vec::new(),
        ..batch
    };
    assert!(scorer.score(&nothing).unwrap().is_empty());
}
