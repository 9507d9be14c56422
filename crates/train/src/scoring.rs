//! A model as downstream tasks see it.

use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_lm::Lm;
use upcycle_tasks::{ScoringModel, TokenBatch, TokenScore};

/// A model on a device.
pub struct LmScorer<B: MoeBackend> {
    model: Lm<B>,
    device: B::Device,
}

impl<B: MoeBackend> LmScorer<B> {
    /// A model on its device.
    pub fn new(model: Lm<B>, device: &B::Device) -> Self {
        Self {
            model,
            device: device.clone(),
        }
    }
}

impl<B: MoeBackend> ScoringModel for LmScorer<B> {
    fn context(&self) -> usize {
        self.model.config().context
    }

    fn vocab_size(&self) -> usize {
        self.model.config().vocab
    }

    fn score(&mut self, batch: &TokenBatch) -> Result<Vec<TokenScore>, String> {
        if batch.scored.is_empty() {
            return Ok(Vec::new());
        }
        let Self { model, device } = self;
        Ok(B::run(move || score(model, batch, device)))
    }
}

fn score<B: MoeBackend>(model: &Lm<B>, batch: &TokenBatch, device: &B::Device) -> Vec<TokenScore> {
    let tokens = batch.inputs.iter().map(|&token| token as i32).collect();
    let tokens = TensorData::new::<i32, _>(tokens, [batch.rows, batch.length]);
    let places = batch.scored.iter().map(|&(place, _)| place as i32);
    let next = batch.scored.iter().map(|&(_, token)| token as i32);
    let likelihood = model.likelihood(
        Tensor::from_data(tokens, device),
        integers(places.collect(), device),
        integers(next.collect(), device),
        Precision::default(),
    );
    let logs = likelihood.log_probability_n.into_data();
    let deficits = likelihood.deficit_n.into_data();
    let scores = logs.iter::<f64>().zip(deficits.iter::<f64>());
    let scores = scores.map(|(log_probability, deficit)| TokenScore {
        log_probability,
        is_greedy: deficit <= 0.0,
    });
    scores.collect()
}

fn integers<B: Backend>(values: Vec<i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
