//! A small trained model and what growing it takes.

#![allow(clippy::unwrap_used, dead_code)]

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    optim::{GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::{AdamW, AdamWRecord, Precision, SoftTargets};
use upcycle_lm::{Lm, LmConfig};
use upcycle_moe::{BalancingConfig, MoeModel, Routing, ScoreFunction};
use upcycle_operator::*;

pub type B = Autodiff<Flex>;

pub const VOCAB: usize = 30;
pub const TOKENS: [usize; 2] = [4, 12];

pub fn config(score: ScoreFunction, renormalize: bool, top_k: usize) -> LmConfig {
    let json = serde_json::json!({
        "vocab": VOCAB, "context": 12, "d_model": 16, "layers": 3, "heads": 2, "kv_heads": 2,
        "d_ffn": 20, "pattern": { "list": [0, 2] }, "experts": 8, "top_k": top_k, "d_expert": 6,
        "score": score, "renormalize": renormalize,
    });
    serde_json::from_value(json).unwrap()
}

pub fn default_config() -> LmConfig {
    config(ScoreFunction::Sigmoid, true, 2)
}

pub fn recipe(selection: Selection, router: RouterExtension, optimizer: OptimizerPolicy) -> Recipe {
    Recipe {
        name: "test".into(),
        of_paper: false,
        grows: Grows::Experts,
        selection,
        experts: ExpertInit::Copy {},
        router,
        optimizer,
        boost: None,
        dense: None,
    }
}

pub fn exact(strength: f32) -> RouterExtension {
    RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Random,
        strength,
        separation: 0.0,
        release: None,
    }
}

pub const NOISE: RouterExtension = RouterExtension::BiasNoise {
    half_width: 1e-3,
    shift: 0.0,
};

pub fn tokens() -> Tensor<B, 2, Int> {
    let [b, s] = TOKENS;
    let ids: Vec<i32> = (0..b * s)
        .map(|i| ((i * i + 3 * i) % VOCAB) as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, TOKENS), &FlexDevice)
}

/// A model and optimizer after one step, so that moments are not zero.
pub fn trained(config: &LmConfig) -> (Lm<B>, AdamWRecord<B>) {
    let model: Lm<B> = config.init(5, &FlexDevice).unwrap();
    step(model, AdamWRecord::new())
}

pub fn step(model: Lm<B>, record: AdamWRecord<B>) -> (Lm<B>, AdamWRecord<B>) {
    let [b, s] = TOKENS;
    let targets = SoftTargets {
        ids_tj: tokens().reshape([b * s, 1]),
        weights_tj: Tensor::ones([b * s, 1], &FlexDevice),
    };
    let output = model.forward(tokens(), targets, Precision::F32);
    let loss = output.loss_t.mean();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let optimizer = AdamW {
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
    };
    let mut optimizer = OptimizerAdaptor::<AdamW, Lm<B>, B>::from(optimizer).load_record(record);
    let mut model = optimizer.step(1e-2, model, grads);
    let record = optimizer.to_record();
    // Balancing at a high rate, so that no bias is zero.
    let balancing = BalancingConfig {
        bias_rate: 0.03,
        ..BalancingConfig::default()
    };
    let loads: Vec<_> = output.routing.iter().map(Routing::load_e).collect();
    model.balance(&loads, &balancing);
    (model, record)
}

/// A grown model beside its source.
pub struct Pair {
    pub small: Lm<B>,
    pub big: Lm<B>,
    pub plan: ReplicationPlan,
    /// State of the optimizer before and after.
    pub optimizer: [AdamWRecord<B>; 2],
}

/// Applied after 100 steps.
pub fn operator(recipe: Recipe, target_experts: usize) -> Upcycle {
    Upcycle::new(recipe, target_experts)
        .with_seed(9)
        .at_step(100)
}

/// Grows a model by the operator that fits it.
pub fn try_grow(
    (model, optimizer): &mut (Lm<B>, AdamWRecord<B>),
    operator: &Upcycle,
    evidence: &Evidence,
) -> Result<Grown, OperatorError> {
    let is_dense = model.moe_layers().next().is_none();
    match is_dense {
        false => operator.grow(model, optimizer, evidence),
        true => operator.grow_dense(model, optimizer),
    }
}

/// Grows a trained model.
pub fn grow_model(
    parent: &(Lm<B>, AdamWRecord<B>),
    recipe: Recipe,
    target: usize,
    evidence: &Evidence,
) -> Pair {
    let mut grown = parent.clone();
    let done = try_grow(&mut grown, &operator(recipe, target), evidence);
    let done = done.unwrap_or_else(|error| panic!("{error}"));
    Pair {
        small: parent.0.clone(),
        big: grown.0,
        plan: done.choice.plan,
        optimizer: [parent.1.clone(), grown.1],
    }
}

pub fn grow(recipe: Recipe, target: usize, config: &LmConfig, evidence: &Evidence) -> Pair {
    grow_model(&trained(config), recipe, target, evidence)
}

pub fn logits(model: &Lm<B>) -> Vec<f32> {
    let (logits, _) = model.valid().logits(tokens().inner(), Precision::F32);
    logits.into_data().iter::<f32>().collect()
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

pub fn values<const N: usize>(tensor: Tensor<B, N>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

pub fn greedy() -> Selection {
    Selection::Greedy {
        score: Score::GradientSquared,
        on: Projections::Average,
        cap: 3,
    }
}
