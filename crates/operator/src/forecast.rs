//! What growing does to the routers, told from their rows alone.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use upcycle_digest::Digest;
use upcycle_moe::{GroupStrength, RouterConfig, ScoreFunction};

use crate::{experts::normal, router::RouterRows};

/// How router logits become the scores that gates are made of, in the models of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateScore {
    /// Sigmoid of each logit (DeepSeek-V3).
    Sigmoid,
    /// Softmax over all experts, before the top K are taken (Qwen3-MoE).
    Softmax,
    /// Softmax over the K selected logits (Mixtral).
    TopKSoftmax,
    /// Square root of the softplus of each logit (DeepSeek-V4).
    SqrtSoftplus,
}

impl From<ScoreFunction> for GateScore {
    fn from(score: ScoreFunction) -> Self {
        match score {
            ScoreFunction::Sigmoid => Self::Sigmoid,
            ScoreFunction::Softmax => Self::Softmax,
            ScoreFunction::TopKSoftmax => Self::TopKSoftmax,
        }
    }
}

/// What biases of a router are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterBias {
    /// Logits: they change scores.
    #[default]
    Logits,
    /// Scores, for the selection alone.
    Selection,
    /// Logits, for the selection alone.
    LogitsOfSelection,
}

/// How a router chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RoutingRule {
    /// From logits to scores.
    pub score: GateScore,
    /// Gates of a token are divided by their sum.
    pub renormalize: bool,
    /// What biases are added to.
    pub bias_of: RouterBias,
    /// Groups of consecutive experts; 1 where there are none.
    pub groups: usize,
    /// Groups that a token may choose from.
    pub top_groups: usize,
    /// Which groups these are.
    pub groups_by: GroupStrength,
}

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

impl RoutingRule {
    /// That of a router of this project without two-level selection, whose experts stand group by group.
    pub fn of(config: &RouterConfig) -> Self {
        let groups = config.groups.as_ref();
        Self {
            score: config.score.into(),
            renormalize: config.renormalize,
            bias_of: RouterBias::Selection,
            groups: groups.map_or(1, |groups| groups.of.count()),
            top_groups: groups.map_or(1, |groups| groups.top),
            groups_by: groups.map_or(GroupStrength::Ignored, |groups| groups.by),
        }
    }

    /// Gate of every source for an input: the sum over its replicas that are chosen.
    fn gates(
        &self,
        rows: &RouterRows,
        source_of: &[usize],
        input: &[f32],
        top_k: usize,
    ) -> Vec<f64> {
        let dot =
            |row: &[f32]| -> f64 { row.iter().zip(input).map(|(w, x)| f64::from(w * x)).sum() };
        let mut logits: Vec<f64> = rows.weight.chunks_exact(rows.d).map(dot).collect();
        let biases = rows.bias.iter().map(|&bias| f64::from(bias));
        if self.bias_of == RouterBias::Logits {
            logits
                .iter_mut()
                .zip(biases.clone())
                .for_each(|(logit, bias)| *logit += bias);
        }
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let scores: Vec<f64> = match self.score {
            GateScore::Sigmoid => logits
                .iter()
                .map(|logit| 1.0 / (1.0 + (-logit).exp()))
                .collect(),
            GateScore::SqrtSoftplus => logits
                .iter()
                .map(|logit| (logit.max(0.0) + (-logit.abs()).exp().ln_1p()).sqrt())
                .collect(),
            GateScore::Softmax | GateScore::TopKSoftmax => {
                let exps: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
                let sum: f64 = exps.iter().sum();
                exps.iter().map(|exp| exp / sum).collect()
            }
        };
        // A softmax over the selected is one over all, divided by its sum over the selected.
        let over_selected = self.score == GateScore::TopKSoftmax;
        let by: Vec<f64> = match (self.bias_of, over_selected) {
            (RouterBias::Selection, false) => scores
                .iter()
                .zip(biases)
                .map(|(s, bias)| s + bias)
                .collect(),
            (RouterBias::Selection, true) | (RouterBias::LogitsOfSelection, _) => logits
                .iter()
                .zip(biases)
                .map(|(l, bias)| l + bias)
                .collect(),
            (RouterBias::Logits, _) => logits,
        };
        let mut open: Vec<usize> = self.in_top_groups(&by);
        open.sort_by(|&a, &b| by[b].total_cmp(&by[a]));
        open.truncate(top_k);
        let total: f64 = match self.renormalize || over_selected {
            true => open
                .iter()
                .map(|&expert| scores[expert])
                .sum::<f64>()
                .max(1e-20),
            false => 1.0,
        };
        let count = source_of.iter().max().map_or(0, |&last| last + 1);
        let mut gates = vec![0.0; count];
        for expert in open {
            gates[source_of[expert]] += scores[expert] / total;
        }
        gates
    }

    /// Experts of the strongest groups.
    fn in_top_groups(&self, by: &[f64]) -> Vec<usize> {
        let size = by.len() / self.groups;
        if self.groups == 1 || size == 0 || self.groups_by == GroupStrength::Ignored {
            return (0..by.len()).collect();
        }
        let strength = |group: usize| {
            let mut values = by[group * size..][..size].to_vec();
            values.sort_by(|a, b| b.total_cmp(a));
            let best = match self.groups_by {
                GroupStrength::Best => 1,
                GroupStrength::TopTwo | GroupStrength::Ignored => 2,
            };
            values.iter().take(best).sum::<f64>()
        };
        let mut groups: Vec<(usize, f64)> = (0..self.groups)
            .map(|group| (group, strength(group)))
            .collect();
        groups.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        groups.truncate(self.top_groups.max(1));
        groups
            .into_iter()
            .flat_map(|(group, _)| group * size..(group + 1) * size)
            .collect()
    }
}

/// Looks at layers one by one.
#[derive(Debug, Clone, Default)]
pub struct Forecaster {
    layers: usize,
    changed: usize,
    moved: f64,
}

impl Forecaster {
    /// The layers of `count` that are worth a look, evenly spread.
    pub fn layers(count: usize) -> Vec<usize> {
        let looked_at = count.min(LAYERS);
        (0..looked_at)
            .map(|index| index * count / looked_at)
            .collect()
    }

    /// Routes random inputs, scaled by the norm before the router, `[D]`, by the rows before and after. `source_of` says
    /// which expert before each of the rows after belongs to, `top_k` how many experts a token has before and after.
    pub fn add(
        &mut self,
        rule: &RoutingRule,
        layer: usize,
        [before, after]: [&RouterRows; 2],
        source_of: &[usize],
        scale: &[f32],
        [old_k, new_k]: [usize; 2],
    ) {
        let identity: Vec<usize> = (0..before.bias.len()).collect();
        let seen = (0..INPUTS).into_par_iter().map(|index| {
            let mut rng = Digest::new("forecast")
                .number(layer as u64)
                .number(index as u64)
                .rng();
            let input: Vec<f32> = scale.iter().map(|scale| scale * normal(&mut rng)).collect();
            let old = rule.gates(before, &identity, &input, old_k);
            let new = rule.gates(after, source_of, &input, new_k);
            let chosen = |gates: &[f64]| -> Vec<bool> { gates.iter().map(|&g| g > 0.0).collect() };
            let distance: f64 = old.iter().zip(&new).map(|(a, b)| (a - b).abs()).sum();
            let moved = distance / old.iter().sum::<f64>().max(1e-20);
            (chosen(&old) != chosen(&new), moved)
        });
        // Added up in order, so that the sum is the same for any number of threads.
        let seen: Vec<(bool, f64)> = seen.collect();
        self.layers += 1;
        self.changed += seen.iter().filter(|(changed, _)| *changed).count();
        self.moved += seen.iter().map(|(_, moved)| moved).sum::<f64>();
    }

    /// What was seen; none without a layer.
    pub fn finish(self) -> Option<RoutingForecast> {
        let inputs = (self.layers * INPUTS) as f64;
        (self.layers > 0).then(|| RoutingForecast {
            layers: self.layers,
            inputs: INPUTS,
            changed_sources: self.changed as f64 / inputs,
            gate_change: self.moved / inputs,
        })
    }
}
