//! A model and the one that it was grown to, on the same tokens.

use rand::Rng;
use upcycle_data::Batch;
use upcycle_digest::Digest;
use upcycle_kernels::MoeBackend;
use upcycle_lm::{Lm, WeightSource};
use upcycle_operator::{Verification, verify};

use crate::{
    error::TrainError,
    evaluate::{tensors, validation_sequences},
    job::CompareJob,
};

/// Compares logits, losses and routing.
pub fn compare<B: MoeBackend>(
    job: &CompareJob,
    device: &B::Device,
) -> Result<Verification, TrainError> {
    let load = |source: &dyn WeightSource| {
        Lm::<B>::from_weights(source, device).map_err(TrainError::Weights)
    };
    let (before, after) = (load(job.before)?, load(job.after)?);
    let vocab = before.config().vocab;
    let batches = match job.data {
        Some(data) => validation_sequences(data, job.context, job.rows, device)?,
        None => (0..job.rows as u64)
            .map(|row| tensors(&random(row, job.context, vocab), device))
            .collect(),
    };
    let logits = |model: &Lm<B>, tokens| model.logits(tokens, Default::default());
    Ok(verify(
        job.sources,
        batches,
        |tokens| logits(&before, tokens),
        |tokens| logits(&after, tokens),
    ))
}

/// A sequence of random tokens, of which each is to predict the next.
fn random(seed: u64, context: usize, vocab: usize) -> Batch {
    let mut rng = Digest::new("random tokens").number(seed).rng();
    let tokens: Vec<u32> = (0..=context)
        .map(|_| rng.random_range(0..vocab as u32))
        .collect();
    Batch {
        rows: 1,
        context,
        choices: 1,
        inputs: tokens[..context].to_vec(),
        targets: tokens[1..].to_vec(),
        weights: vec![1.0; context],
    }
}
