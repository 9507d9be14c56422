//! What growing a model changed, on given tokens.

use burn::tensor::{ElementConversion, Tensor, activation::log_softmax, backend::Backend};
use serde::{Deserialize, Serialize};
use upcycle_kernels::{MoeBackend, SoftTargets};
use upcycle_moe::{ExpertSources, Routing, RoutingCounter, RoutingStats};

/// A model before and after growing, on the same tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Tokens compared.
    pub tokens: usize,
    /// Mean loss before, nats a token.
    pub loss_before: f64,
    /// Mean loss after, nats a token.
    pub loss_after: f64,
    /// Largest difference of a logit.
    pub largest_logit_difference: f64,
    /// Norm of all differences over the norm of all logits before.
    pub relative_logit_difference: f64,
    /// What every MoE layer does.
    pub layers: Vec<LayerVerification>,
}

/// Routing of one MoE layer before and after growing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerVerification {
    /// Share of tokens whose experts come from other sources than the token's experts before; none for a dense model.
    pub changed_sources: Option<f64>,
    /// Routing after. Its sources are the experts before, its load is that of every replica.
    pub routing: RoutingStats,
}

impl Verification {
    /// Difference of the losses, in nats a token.
    pub fn loss_difference(&self) -> f64 {
        self.loss_after - self.loss_before
    }
}

/// Sums over batches.
#[derive(Default)]
struct Sums {
    tokens: usize,
    weights: f64,
    losses: [f64; 2],
    largest: f64,
    difference: f64,
    norm: f64,
}

/// Logits of a batch, `[T, V]`, and the routing of every MoE layer in order.
pub type Outputs<B> = (Tensor<B, 2>, Vec<Routing<B>>);

/// Runs a model and the one that it was grown to over batches with the targets of their positions. `sources` says for each
/// MoE layer where its experts come from, see [`ReplicationPlan::sources`](crate::ReplicationPlan::sources).
///
/// Logits of a batch are held for both models at once, `[T, V]` each: let batches be small.
pub fn verify<B: MoeBackend, I: Clone>(
    sources: &[ExpertSources],
    batches: impl IntoIterator<Item = (I, SoftTargets<B>)>,
    before: impl Fn(I) -> Outputs<B>,
    after: impl Fn(I) -> Outputs<B>,
) -> Verification {
    let mut sums = Sums::default();
    let mut counters: Vec<_> = sources
        .iter()
        .map(|of| RoutingCounter::new(of.clone()))
        .collect();
    let mut changed = vec![None; sources.len()];
    for (inputs, targets) in batches {
        let (old_tv, old_routing) = before(inputs.clone());
        let (new_tv, new_routing) = after(inputs);
        sums.add(old_tv, new_tv, &targets);
        for (layer, routing) in new_routing.into_iter().enumerate() {
            let [_, k] = routing.experts_tk.dims();
            let experts = routing.host_experts();
            if let Some(old) = old_routing.get(layer) {
                let [_, old_k] = old.experts_tk.dims();
                let old = old.host_experts();
                let source_of = sources[layer].source_of();
                let tokens = old.chunks(old_k).zip(experts.chunks(k));
                let moved = tokens.filter(|(old, new)| {
                    let new: Vec<usize> = new.iter().map(|&expert| source_of[expert]).collect();
                    distinct(old) != distinct(&new)
                });
                *changed[layer].get_or_insert(0) += moved.count();
            }
            counters[layer].add(&experts, k);
        }
    }
    let tokens = sums.tokens.max(1) as f64;
    Verification {
        tokens: sums.tokens,
        loss_before: sums.losses[0] / sums.weights,
        loss_after: sums.losses[1] / sums.weights,
        largest_logit_difference: sums.largest,
        relative_logit_difference: (sums.difference / sums.norm).sqrt(),
        layers: counters
            .iter()
            .zip(changed)
            .map(|(counter, changed)| LayerVerification {
                changed_sources: changed.map(|count: usize| count as f64 / tokens),
                routing: counter.stats(),
            })
            .collect(),
    }
}

impl Sums {
    fn add<B: Backend>(
        &mut self,
        old_tv: Tensor<B, 2>,
        new_tv: Tensor<B, 2>,
        targets: &SoftTargets<B>,
    ) {
        self.tokens += old_tv.dims()[0];
        self.weights += number(targets.weights_tj.clone().sum());
        for (loss, logits_tv) in self.losses.iter_mut().zip([&old_tv, &new_tv]) {
            let log_p_tj = log_softmax(logits_tv.clone(), 1).gather(1, targets.ids_tj.clone());
            *loss -= number((log_p_tj * targets.weights_tj.clone()).sum());
        }
        let difference_tv = new_tv - old_tv.clone();
        let largest = number(difference_tv.clone().abs().max());
        if largest.is_nan() || largest > self.largest {
            self.largest = largest;
        }
        self.difference += number(difference_tv.square().sum());
        self.norm += number(old_tv.square().sum());
    }
}

fn number<B: Backend>(value: Tensor<B, 1>) -> f64 {
    value.into_scalar().elem()
}

fn distinct(experts: &[usize]) -> Vec<usize> {
    let mut experts = experts.to_vec();
    experts.sort_unstable();
    experts.dedup();
    experts
}
