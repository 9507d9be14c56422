//! The operator on records: shapes, exactness, optimizer state, plans.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    optim::{GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use proptest::prelude::*;
use upcycle_kernels::{AdamW, AdamWRecord, Precision, SoftTargets, adamw::state_of_rank};
use upcycle_lm::{Lm, LmConfig};
use upcycle_moe::ScoreFunction;
use upcycle_operator::*;

type B = Autodiff<Flex>;

const VOCAB: usize = 30;
const TOKENS: [usize; 2] = [4, 12];

fn config(score: ScoreFunction, renormalize: bool, top_k: usize) -> LmConfig {
    let json = serde_json::json!({
        "vocab": VOCAB, "context": 12, "d_model": 16, "layers": 3, "heads": 2, "kv_heads": 2,
        "d_ffn": 20, "pattern": { "list": [0, 2] }, "experts": 8, "top_k": top_k, "d_expert": 6,
        "score": score, "renormalize": renormalize,
    });
    serde_json::from_value(json).unwrap()
}

fn default_config() -> LmConfig {
    config(ScoreFunction::Sigmoid, true, 2)
}

fn recipe(selection: Selection, router: RouterExtension, optimizer: OptimizerPolicy) -> Recipe {
    Recipe {
        name: "test".into(),
        selection,
        router,
        optimizer,
    }
}

fn exact(strength: f32) -> RouterExtension {
    RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Random,
        strength,
    }
}

const NOISE: RouterExtension = RouterExtension::BiasNoise { half_width: 1e-3 };

fn tokens() -> Tensor<B, 2, Int> {
    let [b, s] = TOKENS;
    let ids: Vec<i32> = (0..b * s)
        .map(|i| ((i * i + 3 * i) % VOCAB) as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, TOKENS), &FlexDevice)
}

/// A model and optimizer after one step, so that moments are not zero.
fn trained(config: &LmConfig) -> (Lm<B>, AdamWRecord<B>) {
    let model: Lm<B> = config.init(5, &FlexDevice).unwrap();
    step(model, AdamWRecord::new())
}

fn step(model: Lm<B>, record: AdamWRecord<B>) -> (Lm<B>, AdamWRecord<B>) {
    let [b, s] = TOKENS;
    let targets = SoftTargets {
        ids_tj: tokens().reshape([b * s, 1]),
        weights_tj: Tensor::ones([b * s, 1], &FlexDevice),
    };
    let loss = model
        .forward(tokens(), targets, Precision::F32)
        .loss_t
        .mean();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let optimizer = AdamW {
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
    };
    let mut optimizer = OptimizerAdaptor::<AdamW, Lm<B>, B>::from(optimizer).load_record(record);
    let model = optimizer.step(1e-2, model, grads);
    let record = optimizer.to_record();
    (model, record)
}

fn grow(
    recipe: Recipe,
    target: usize,
    config: &LmConfig,
    evidence: &Evidence,
) -> (Lm<B>, Lm<B>, Upcycle, AdamWRecord<B>, ReplicationPlan) {
    let (model, record) = trained(config);
    let operator = Upcycle {
        recipe,
        target_experts: target,
        seed: 9,
    };
    let grown = operator
        .apply(
            config,
            model.clone().into_record(),
            record,
            evidence,
            &FlexDevice,
        )
        .unwrap_or_else(|error| panic!("{error}"));
    let big: Lm<B> = grown.config.init(0, &FlexDevice).unwrap();
    let big = big.load_record(grown.model);
    (model, big, operator, grown.optimizer, grown.plan)
}

fn logits(model: &Lm<B>) -> Vec<f32> {
    let (logits, _) = model.valid().logits(tokens().inner(), Precision::F32);
    logits.into_data().iter::<f32>().collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn two_level_selection_is_exact_and_the_plain_copy_is_not() {
    let mut cases = Vec::new();
    for score in [
        ScoreFunction::Sigmoid,
        ScoreFunction::Softmax,
        ScoreFunction::TopKSoftmax,
    ] {
        for (renormalize, top_k) in [(true, 1), (true, 2), (false, 2), (true, 4), (false, 8)] {
            cases.push((score, renormalize, top_k));
        }
    }
    for (score, renormalize, top_k) in cases {
        let config = config(score, renormalize, top_k);
        for target in [12, 16, 24, 32] {
            let exact = recipe(Selection::Uniform {}, exact(0.3), OptimizerPolicy::Copy);
            let (model, big, ..) = grow(exact, target, &config, &Evidence::default());
            let difference = largest_difference(&logits(&model), &logits(&big));
            assert!(difference < 1e-5, "{config:?} to {target}: {difference}");
        }
        if top_k == 2 {
            let plain = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Reset);
            let (model, big, ..) = grow(plain, 16, &config, &Evidence::default());
            let difference = largest_difference(&logits(&model), &logits(&big));
            assert!(difference > 1e-2, "{config:?}: {difference}");
        }
    }
}

#[test]
fn two_level_selection_is_exact_for_uneven_counts() {
    let evidence = Evidence {
        gradient_squared: Some(vec![vec![1.0, 8.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0]; 2]),
        ..Evidence::default()
    };
    let greedy = Selection::GradientSquared { cap: 3 };
    let recipe = recipe(greedy, exact(0.3), OptimizerPolicy::Copy);
    let (model, big, _, _, plan) = grow(recipe, 16, &default_config(), &evidence);
    assert_eq!(plan.layers[0].counts(), [1, 4, 1, 1, 1, 3, 4, 1]);
    assert!(largest_difference(&logits(&model), &logits(&big)) < 1e-5);
}

fn values<const N: usize>(tensor: Tensor<B, N>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn experts_and_router_rows_are_copies_and_all_else_is_kept() {
    let recipe = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Copy);
    let (model, big, _, _, plan) = grow(recipe, 20, &default_config(), &Evidence::default());
    assert_eq!(
        values(model.embedding_vd.val()),
        values(big.embedding_vd.val())
    );
    assert_eq!(values(model.head_vd.val()), values(big.head_vd.val()));
    for (small, grown) in model.blocks.iter().zip(&big.blocks) {
        assert_eq!(
            values(small.attention.query.val()),
            values(grown.attention.query.val())
        );
    }
    for ((small, grown), plan) in model.moe_layers().zip(big.moe_layers()).zip(&plan.layers) {
        assert_eq!(grown.experts.gate_edf.dims(), [20, 16, 6]);
        assert_eq!(grown.experts.down_efd.dims(), [20, 6, 16]);
        let (rows, grown_rows) = (
            values(small.router.weight_ed.val()),
            values(grown.router.weight_ed.val()),
        );
        let (down, grown_down) = (
            values(small.experts.down_efd.val()),
            values(grown.experts.down_efd.val()),
        );
        let bias = values(grown.router.selection_bias_e.val());
        for (expert, &source) in plan.source_of().iter().enumerate() {
            assert_eq!(rows[source * 16..][..16], grown_rows[expert * 16..][..16]);
            assert_eq!(down[source * 96..][..96], grown_down[expert * 96..][..96]);
            // Biases start at zero, so what is there is the noise: on replicas only.
            assert_eq!(bias[expert] != 0.0, plan.is_replica(expert));
            assert!(bias[expert].abs() <= 1e-3);
        }
        assert!(grown.experts.gate_edf.is_require_grad());
        assert!(grown.router.weight_ed.is_require_grad());
        assert!(!grown.router.selection_bias_e.is_require_grad());
    }
}

#[test]
fn moments_are_copied_or_start_anew() {
    let policy = |policy| recipe(Selection::Uniform {}, NOISE, policy);
    let config = default_config();
    let (_, big, _, record, _) = grow(
        policy(OptimizerPolicy::Reset),
        16,
        &config,
        &Evidence::default(),
    );
    assert!(record.is_empty());
    let (_, record) = step(big, record);
    assert!(!record.is_empty());

    let (model, before) = trained(&config);
    let (_, big, _, after, plan) = grow(
        policy(OptimizerPolicy::Copy),
        16,
        &config,
        &Evidence::default(),
    );
    assert_eq!(before.len(), after.len());
    for ((small, grown), plan) in model.moe_layers().zip(big.moe_layers()).zip(&plan.layers) {
        let moments = |record: &AdamWRecord<B>, id| {
            let state = record.get(&id).unwrap().clone();
            state_of_rank::<B, 3>(state).unwrap().momentum
        };
        let old = moments(&before, small.experts.up_edf.id);
        let new = moments(&after, grown.experts.up_edf.id);
        assert_eq!(old.time, new.time);
        let (old, new): (Vec<f32>, Vec<f32>) = (
            old.moment_2.into_data().iter().collect(),
            new.moment_2.into_data().iter().collect(),
        );
        assert!(old.iter().any(|&v| v > 0.0));
        for (expert, &source) in plan.source_of().iter().enumerate() {
            assert_eq!(old[source * 96..][..96], new[expert * 96..][..96]);
        }
    }
    let (stepped, _) = step(big, after);
    assert!(logits(&stepped).iter().all(|value| value.is_finite()));
}

#[test]
fn what_cannot_be_done_is_said() {
    let config = default_config();
    let apply = |recipe: Recipe, target, config: &LmConfig, record: Option<AdamWRecord<B>>| {
        let (model, trained_record) = trained(config);
        let operator = Upcycle {
            recipe,
            target_experts: target,
            seed: 0,
        };
        operator
            .apply(
                config,
                model.into_record(),
                record.unwrap_or(trained_record),
                &Evidence::default(),
                &FlexDevice,
            )
            .err()
            .unwrap()
    };
    let uniform = |router| recipe(Selection::Uniform {}, router, OptimizerPolicy::Copy);
    assert_eq!(
        apply(uniform(NOISE), 8, &config, None),
        OperatorError::TargetNotAbove {
            target: 8,
            experts: 8
        }
    );
    let greedy = recipe(
        Selection::GradientSquared { cap: 3 },
        NOISE,
        OptimizerPolicy::Reset,
    );
    assert!(matches!(
        apply(greedy, 16, &config, None),
        OperatorError::MissingEvidence { .. }
    ));
    // States of another model: the same shapes, other parameters.
    let foreign = trained(&config).1;
    assert!(matches!(
        apply(uniform(NOISE), 16, &config, Some(foreign)),
        OperatorError::OptimizerMismatch(_)
    ));
    let dense = LmConfig {
        pattern: upcycle_lm::LayerPattern::AllDense,
        ..config
    };
    assert_eq!(
        apply(uniform(NOISE), 16, &dense, None),
        OperatorError::NoMoeLayer
    );
}

#[test]
fn greedy_selection_caps_extra_copies() {
    let greedy = Selection::GradientSquared { cap: 3 };
    // The paper's extreme: of 32 experts the best 11 take all 32 copies, the last of them 2.
    let scores: Vec<f64> = (0..32).map(f64::from).collect();
    let counts = greedy.counts(32, 64, &scores, 0).unwrap();
    let copied = counts.iter().filter(|&&count| count > 1).count();
    assert_eq!((copied, counts[31], counts[21]), (11, 4, 3));
    assert!(matches!(
        greedy.counts(8, 33, &scores[..8], 0),
        Err(OperatorError::CapTooSmall { most: 32, .. })
    ));
}

proptest! {
    #[test]
    fn counts_reach_the_target_and_drop_nobody(
        experts in 1_usize..40,
        extra in 1_usize..100,
        seed: u64,
        scores in prop::collection::vec(0.0..1.0_f64, 40),
    ) {
        let target = experts + extra;
        let uniform = Selection::Uniform {};
        let counts = uniform.counts(experts, target, &[], seed).unwrap();
        prop_assert_eq!(counts.iter().sum::<usize>(), target);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(*least >= 1 && most - least <= 1);
        prop_assert_eq!(&counts, &uniform.counts(experts, target, &[], seed).unwrap());

        let plan = LayerPlan::from_counts(&counts);
        prop_assert_eq!(plan.counts(), counts);
        prop_assert_eq!(&plan.source_of()[..experts], (0..experts).collect::<Vec<_>>());

        let cap = 3;
        let greedy = Selection::GradientSquared { cap };
        match greedy.counts(experts, target, &scores[..experts], seed) {
            Ok(counts) => {
                prop_assert_eq!(counts.iter().sum::<usize>(), target);
                prop_assert!(counts.iter().all(|&count| (1..=1 + cap).contains(&count)));
            }
            Err(_) => prop_assert!(target > experts * (1 + cap)),
        }
    }
}
