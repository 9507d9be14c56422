//! How the activations of a batch share memory changes memory, and no result.

use std::{num::NonZeroUsize, path::Path};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset, Split};
use upcycle_lm::LmConfig;
use upcycle_moe::BalancingConfig;
use upcycle_operator::{Evidence, Upcycle};
use upcycle_train::*;

use crate::common::parameters;

type B = Autodiff<Flex>;

fn model() -> LmConfig {
    let json = serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 32, "layers": 4, "heads": 2, "kv_heads": 1, "d_ffn": 48,
        "pattern": { "list": [1, 2] }, "experts": 4, "top_k": 2, "d_expert": 16, "d_shared": 8,
    });
    serde_json::from_value(json).unwrap()
}

fn passes(micro_batches: usize, recompute: bool) -> PassConfig {
    PassConfig {
        micro_batches: NonZeroUsize::new(micro_batches).unwrap(),
        recompute,
    }
}

/// Some steps of two batches, with a growth in the middle and a separation loss of this weight after it.
fn learn(
    balancing: &BalancingConfig,
    separation: f32,
    passes: PassConfig,
) -> (Vec<Update>, Vec<f32>) {
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let config = LearnerConfig {
        balancing: balancing.clone(),
        passes,
        ..LearnerConfig::default()
    };
    let model = model().init::<B>(0, &FlexDevice).unwrap();
    let mut learner = Learner::new(model, config, &FlexDevice);
    let recipe = serde_json::from_value(serde_json::json!({
        "name": "separated",
        "selection": { "kind": "uniform" },
        "optimizer": { "kind": "copy" },
        "router": { "kind": "two-level", "tie_break": "random", "strength": 0.3, "separation": separation },
    }));
    let operator = Upcycle::new(recipe.unwrap(), 8);
    let mut updates = Vec::new();
    for step in 0..8 {
        if step == 4 {
            learner.grow(&operator, &Evidence::default()).unwrap();
        }
        for pass in 0..2 {
            let batch = data.batch(Split::Pretrain, 0, 2 * step + pass, 5, 48);
            learner.accumulate(&batch.unwrap());
        }
        updates.push(learner.update(1e-2).unwrap());
    }
    (updates, parameters(learner.model()))
}

#[test]
fn activations_that_are_computed_again_change_no_bit() {
    let balancing = BalancingConfig::default();
    let kept = learn(&balancing, 0.0, passes(1, false));
    let recomputed = learn(&balancing, 0.0, passes(1, true));
    assert_eq!(kept.0, recomputed.0);
    assert_eq!(kept.1, recomputed.1);
}

/// Where several losses meet at the logits of a router, their gradients may be added in another order.
#[test]
fn losses_of_the_routing_are_those_of_activations_that_were_kept() {
    let balancing = BalancingConfig {
        auxiliary_loss: 0.01,
        z_loss: 0.001,
        ..BalancingConfig::default()
    };
    let kept = learn(&balancing, 0.1, passes(1, false));
    let recomputed = learn(&balancing, 0.1, passes(1, true));
    let without = learn(&BalancingConfig::default(), 0.0, passes(1, true));
    for ((kept, recomputed), without) in kept.1.iter().zip(&recomputed.1).zip(&without.1) {
        assert!(
            (kept - recomputed).abs() < 1e-4,
            "{kept} {recomputed} {without}"
        );
    }
    assert_ne!(recomputed.1, without.1, "the losses were left out");
}

#[test]
fn micro_batches_change_the_order_of_sums_alone() {
    let whole = learn(&BalancingConfig::default(), 0.0, passes(1, false));
    // Five sequences: uneven parts, and more parts than sequences.
    for (count, recompute) in [(2, false), (5, true), (9, false)] {
        let parts = learn(&BalancingConfig::default(), 0.0, passes(count, recompute));
        for (whole, parts) in whole.0.iter().zip(&parts.0) {
            assert!(
                (whole.loss - parts.loss).abs() < 1e-4,
                "{whole:?} {parts:?}"
            );
            let norms = whole.gradient_norm - parts.gradient_norm;
            assert!(
                norms.abs() < 1e-3 * whole.gradient_norm,
                "{whole:?} {parts:?}"
            );
        }
        assert_ne!(whole.1, parts.1, "the batch was not cut");
    }
}
