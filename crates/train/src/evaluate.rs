//! Loss and routing on a split that is not trained on.

use burn::tensor::{ElementConversion, Int, Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};
use upcycle_data::{Batch, Dataset, Split};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets};
use upcycle_lm::Lm;
use upcycle_moe::{RoutingCounter, RoutingStats};

use crate::{crew::Crew, error::TrainError};

/// Evaluation of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean loss of the scored positions, nats a token.
    pub loss: f64,
    /// Routing of every MoE layer.
    pub routing: Vec<RoutingStats>,
    /// How alike replicas are; none in a model that was not grown, and in results of old versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<Twins>,
}

/// How alike the replicas of one source are, means over MoE layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Twins {
    /// Mean cosine of the weights of two replicas of one source: 1 for copies.
    pub cosine: f64,
    /// Share of tokens with two replicas of one source among their experts.
    pub coselection: f64,
}

impl Twins {
    fn new<B: Backend>(model: &Lm<B>, routing: &[RoutingStats]) -> Option<Self> {
        let cosines: Vec<f64> = (model.moe_layers())
            .filter_map(|layer| {
                let origins = layer.lineage().origins();
                let products = layer.experts.inner_products().into_data();
                cosine_of_replicas(origins.source_of(), &products.iter().collect::<Vec<f64>>())
            })
            .collect();
        let mean = |values: &mut dyn ExactSizeIterator<Item = f64>| {
            let count = values.len() as f64;
            values.sum::<f64>() / count
        };
        (!cosines.is_empty()).then(|| Self {
            cosine: mean(&mut cosines.into_iter()),
            coselection: mean(&mut routing.iter().map(|layer| layer.twin_coselection)),
        })
    }
}

/// Mean cosine over all pairs of experts with one source; `products` are the inner products of all pairs, `[E * E]`. None
/// without such a pair.
fn cosine_of_replicas(source_of: &[usize], products: &[f64]) -> Option<f64> {
    let experts = source_of.len();
    let (mut sum, mut pairs) = (0.0, 0_u64);
    for a in 0..experts {
        for b in a + 1..experts {
            if source_of[a] == source_of[b] {
                let norms = products[a * experts + a] * products[b * experts + b];
                // An expert of zeros has no direction.
                if norms > 0.0 {
                    sum += products[a * experts + b] / norms.sqrt();
                    pairs += 1;
                }
            }
        }
    }
    (pairs > 0).then(|| sum / pairs as f64)
}

/// Sequences of one forward pass of an evaluation, at most.
const ROWS: usize = 32;
/// Tokens of one forward pass of an evaluation, unless a single sequence has more.
const TOKENS: usize = 8192;

/// Evaluates a model on the first `rows` sequences of `context` tokens of a split, of which each device takes some.
pub fn evaluate<B: MoeBackend>(
    model: &Lm<B>,
    (data, split): (&Dataset, Split),
    context: usize,
    rows: usize,
    precision: Precision,
    crew: &Crew,
    device: &B::Device,
) -> Result<Evaluation, TrainError> {
    let rows = data.evaluation_rows(split, context, rows);
    let origins = model.moe_layers().map(|layer| layer.lineage().origins());
    let mut counters: Vec<_> = origins.map(RoutingCounter::new).collect();
    let (mut loss, mut scored) = (0.0, 0.0);
    let devices = crew.all.size();
    let pass = (TOKENS / context).clamp(1, ROWS);
    let pass = pass.min(rows.div_ceil(devices).max(1));
    let firsts: Vec<usize> = (0..rows).step_by(pass).collect();
    for firsts in firsts.chunks(devices) {
        // A device whose sequences are over still computes with its experts for those of others.
        let own = firsts.get(crew.all.rank());
        let batch = match own {
            Some(&first) => data.evaluation_batch(split, first, pass.min(rows - first), context)?,
            None => blank(context),
        };
        let (tokens, targets) = tensors::<B>(&batch, device);
        let output = model.forward(tokens, targets, precision);
        if own.is_none() {
            continue;
        }
        loss += output.loss_t.sum().into_scalar().elem::<f64>();
        scored += batch.scored();
        for (counter, routing) in counters.iter_mut().zip(output.routing) {
            let top_k = routing.experts_tk.dims()[1];
            counter.add(&routing.host_experts(), top_k);
        }
    }
    let [loss, scored] = crew.sums([loss, scored])?;
    let routing: Vec<RoutingStats> = (sum_of_counters(counters, crew)?.iter())
        .map(RoutingCounter::stats)
        .collect();
    let twins = Twins::new(model, &routing);
    crew.check()?;
    Ok(Evaluation {
        loss: loss / scored,
        twins,
        routing,
    })
}

/// A sequence that scores nothing.
pub fn blank(context: usize) -> Batch {
    Batch {
        rows: 1,
        context,
        choices: 1,
        inputs: vec![0; context],
        targets: vec![0; context],
        weights: vec![0.0; context],
    }
}

/// What all devices have counted.
fn sum_of_counters(
    own: Vec<RoutingCounter>,
    crew: &Crew,
) -> Result<Vec<RoutingCounter>, TrainError> {
    let all = crew.all.gather_values(&own)?.into_iter();
    let sum = all.reduce(|mut sum, counters| {
        for (sum, counter) in sum.iter_mut().zip(&counters) {
            sum.merge(counter);
        }
        sum
    });
    Ok(sum.unwrap_or_default())
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
    (0..data.evaluation_rows(Split::Validation, context, rows))
        .map(|row| {
            let batch = data.evaluation_batch(Split::Validation, row, 1, context)?;
            Ok(tensors(&batch, device))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_compared_with_their_twins_only() {
        // Weights (1, 0), (0, 2), (3, 3): the first and the last have one source.
        let products = [1.0, 0.0, 3.0, 0.0, 4.0, 6.0, 3.0, 6.0, 18.0];
        let cosine = cosine_of_replicas(&[0, 1, 0], &products).unwrap();
        assert!((cosine - 0.5_f64.sqrt()).abs() < 1e-12, "{cosine}");
        assert_eq!(cosine_of_replicas(&[0, 1, 2], &products), None);
    }
}
