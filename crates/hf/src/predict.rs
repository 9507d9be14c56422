//! What growing does to the routers, told from their rows alone.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use upcycle_operator::RouterRows;

use crate::{error::HfError, floats, grow::Growth, layout::Score, moe::RoutingRule};

/// How routers choose afterwards, on random inputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoutingForecast {
    /// MoE layers that were looked at.
    pub layers: usize,
    /// Inputs of each.
    pub inputs: usize,
    /// Share of inputs whose experts come from other sources.
    pub changed_sources: f64,
    /// Mean distance of the gates of all sources: the sum of differences over the sum before.
    pub gate_change: f64,
}

/// Layers that are looked at, at most.
const LAYERS: usize = 4;
/// Inputs for each of them.
const INPUTS: usize = 128;

/// Gates that move less leave the function as it is.
const NOTHING: f64 = 1e-3;
/// Gates that move more are a clear jump.
const MUCH: f64 = 0.15;

impl RoutingForecast {
    /// Whether gates stay as they are.
    pub fn is_exact(&self) -> bool {
        self.gate_change < NOTHING
    }

    /// Whether the loss will clearly jump.
    pub fn is_a_jump(&self) -> bool {
        self.gate_change >= MUCH
    }

    /// What it means for the loss.
    pub fn in_words(&self) -> &'static str {
        match self.gate_change {
            change if change < NOTHING => "routers choose as they did, so the loss does not jump",
            change if change < MUCH => {
                "expect a small jump of the loss that continued pre-training soon makes good"
            }
            _ => "expect a clear jump of the loss that continued pre-training has to make good",
        }
    }
}

impl Growth<'_> {
    /// Routes random inputs, as the norm before the router would scale them, before and after.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn forecast(&self) -> Result<RoutingForecast, HfError> {
        let count = self.moe.layers.len();
        let layers = count.min(LAYERS);
        let (mut changed, mut moved) = (0, 0.0);
        for layer in (0..layers).map(|index| index * count / layers) {
            let before = self.rows_before(layer)?;
            let after = self.rounded_rows(layer)?;
            let sources: Vec<usize> = self.source_of(layer).collect();
            let scale = self
                .checkpoint
                .input_scale(&self.moe, &self.moe.layers[layer])?;
            let identity: Vec<usize> = (0..self.moe.experts).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(layer as u64);
            for _ in 0..INPUTS {
                let input: Vec<f32> = scale
                    .iter()
                    .map(|scale| {
                        let value: f32 = StandardNormal.sample(&mut rng);
                        scale * value
                    })
                    .collect();
                let rule = &self.moe.routing;
                let old = gates(&before, &identity, &input, rule, self.moe.top_k);
                let new = gates(&after, &sources, &input, rule, self.top_k);
                let chosen =
                    |gates: &[f64]| -> Vec<bool> { gates.iter().map(|&g| g > 0.0).collect() };
                changed += usize::from(chosen(&old) != chosen(&new));
                let distance: f64 = old.iter().zip(&new).map(|(a, b)| (a - b).abs()).sum();
                moved += distance / old.iter().sum::<f64>().max(1e-20);
            }
        }
        let inputs = (layers * INPUTS) as f64;
        Ok(RoutingForecast {
            layers,
            inputs: INPUTS,
            changed_sources: changed as f64 / inputs,
            gate_change: moved / inputs,
        })
    }

    /// Rows and biases as they are written, in their own types.
    pub(crate) fn rounded_rows(&self, layer: usize) -> Result<RouterRows, HfError> {
        let grown = self.rows(layer)?;
        let tensors = &self.moe.layers[layer];
        let round = |name: &str, values: Vec<f32>| {
            let dtype = self.checkpoint.tensor(name)?.dtype;
            let fault = |problem| self.checkpoint.fault(name, problem);
            let bytes = floats::encode(dtype, &values).map_err(fault)?;
            Ok::<_, HfError>(floats::decode(dtype, &bytes).unwrap_or(values))
        };
        Ok(RouterRows {
            weight: round(&tensors.weight, grown.weight)?,
            bias: match &tensors.bias {
                Some(bias) => round(bias, grown.bias)?,
                None => grown.bias,
            },
            ..grown
        })
    }
}

/// Gate of every source for an input: the sum over its replicas that are chosen.
fn gates(
    rows: &RouterRows,
    sources: &[usize],
    input: &[f32],
    rule: &RoutingRule,
    top_k: usize,
) -> Vec<f64> {
    let dot = |row: &[f32]| -> f64 { row.iter().zip(input).map(|(w, x)| f64::from(w * x)).sum() };
    let mut logits: Vec<f64> = rows.weight.chunks_exact(rows.d).map(dot).collect();
    let biases = rows.bias.iter().map(|&bias| f64::from(bias));
    if !rule.selection_bias {
        logits
            .iter_mut()
            .zip(biases.clone())
            .for_each(|(logit, bias)| *logit += bias);
    }
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scores: Vec<f64> = match rule.score {
        Score::Sigmoid => logits
            .iter()
            .map(|logit| 1.0 / (1.0 + (-logit).exp()))
            .collect(),
        Score::Softmax => {
            let exps: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.iter().map(|exp| exp / sum).collect()
        }
    };
    let by: Vec<f64> = match rule.selection_bias {
        true => scores
            .iter()
            .zip(biases)
            .map(|(score, bias)| score + bias)
            .collect(),
        false => logits,
    };
    let mut open: Vec<usize> = in_top_groups(&by, rule);
    open.sort_by(|&a, &b| by[b].total_cmp(&by[a]));
    open.truncate(top_k);
    let total: f64 = match rule.renormalize {
        true => open
            .iter()
            .map(|&expert| scores[expert])
            .sum::<f64>()
            .max(1e-20),
        false => 1.0,
    };
    let count = sources.iter().max().map_or(0, |&last| last + 1);
    let mut gates = vec![0.0; count];
    for expert in open {
        gates[sources[expert]] += scores[expert] / total;
    }
    gates
}

/// Experts of the groups with the largest sums of their two best (DeepSeek-V3).
fn in_top_groups(by: &[f64], rule: &RoutingRule) -> Vec<usize> {
    let size = by.len() / rule.groups;
    if rule.groups == 1 || size == 0 {
        return (0..by.len()).collect();
    }
    let strength = |group: usize| {
        let mut values = by[group * size..][..size].to_vec();
        values.sort_by(|a, b| b.total_cmp(a));
        values.iter().take(2).sum::<f64>()
    };
    let mut groups: Vec<(usize, f64)> = (0..rule.groups)
        .map(|group| (group, strength(group)))
        .collect();
    groups.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    groups.truncate(rule.top_groups.max(1));
    groups
        .into_iter()
        .flat_map(|(group, _)| group * size..(group + 1) * size)
        .collect()
}
