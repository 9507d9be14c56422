//! Validation loss and routing.

use burn::tensor::{ElementConversion, Int, Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};
use upcycle_data::{Batch, Dataset};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets};
use upcycle_lm::Lm;
use upcycle_moe::{Lineage, RoutingCounter, RoutingStats};

use crate::error::TrainError;

/// Validation of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean loss of the scored positions, nats a token.
    pub loss: f64,
    /// Routing of every MoE layer.
    pub routing: Vec<RoutingStats>,
}

/// Sequences of one forward pass of an evaluation.
const ROWS: usize = 32;

/// Evaluates a model on the first `rows` validation sequences of `context` tokens.
///
/// `lineage` says which experts of each MoE layer come from one source.
pub fn evaluate<B: MoeBackend>(
    model: &Lm<B>,
    data: &Dataset,
    context: usize,
    rows: usize,
    lineage: &[Lineage],
    precision: Precision,
    device: &B::Device,
) -> Result<Evaluation, TrainError> {
    let rows = data.validation_rows(context, rows);
    let origins = lineage.iter().map(Lineage::origins);
    let mut counters: Vec<_> = origins.map(RoutingCounter::new).collect();
    let (mut loss, mut scored) = (0.0, 0.0);
    for first in (0..rows).step_by(ROWS) {
        let batch = data.validation_batch(first, ROWS.min(rows - first), context)?;
        let (tokens, targets) = tensors::<B>(&batch, device);
        let output = model.forward(tokens, targets, precision);
        loss += output.loss_t.sum().into_scalar().elem::<f64>();
        scored += batch.scored();
        for (counter, routing) in counters.iter_mut().zip(output.routing) {
            let top_k = routing.experts_tk.dims()[1];
            counter.add(routing.host_experts(), top_k);
        }
    }
    Ok(Evaluation {
        loss: loss / scored,
        routing: counters.iter().map(RoutingCounter::stats).collect(),
    })
}

/// Tokens `[B, S]` and the targets of their positions.
pub type Scored<B> = (Tensor<B, 2, Int>, SoftTargets<B>);

/// Inputs `[B, S]` and targets `[B * S, J]` of a batch.
pub fn tensors<B: Backend>(batch: &Batch, device: &B::Device) -> Scored<B> {
    let int = |values: &[u32], shape: [usize; 2]| {
        let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    };
    let flat = [batch.rows * batch.context, batch.choices];
    let targets = SoftTargets {
        ids_tj: int(&batch.targets, flat),
        weights_tj: Tensor::from_data(TensorData::new(batch.weights.clone(), flat), device),
    };
    (int(&batch.inputs, [batch.rows, batch.context]), targets)
}

/// At most `rows` validation sequences of `context` tokens, a batch each, with their targets.
pub fn validation_sequences<B: Backend>(
    data: &Dataset,
    context: usize,
    rows: usize,
    device: &B::Device,
) -> Result<Vec<Scored<B>>, TrainError> {
    (0..data.validation_rows(context, rows))
        .map(|row| {
            let batch = data.validation_batch(row, 1, context)?;
            Ok(tensors(&batch, device))
        })
        .collect()
}
