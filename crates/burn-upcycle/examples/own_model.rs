//! A model of one's own, balanced and grown: a classifier of points with two MoE layers inside of other modules, its own
//! loss, Burn's own AdamW, its own loop.
//!
//! `cargo run --release --example own_model`

use std::{error::Error, f32::consts::TAU};

use burn_upcycle::{
    burn::{
        module::Module,
        nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig, loss::CrossEntropyLossConfig},
        optim::{AdamWConfig, GradientsParams, Optimizer},
        tensor::{ElementConversion, Int, Tensor, TensorData, backend::Backend},
    },
    prelude::*,
};

const D: usize = 32;
const CLASSES: usize = 8;

/// A norm, a MoE layer, and a way around both.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    norm: RmsNorm<B>,
    moe: MoeLayer<B>,
}

#[derive(Module, Debug)]
struct Classifier<B: Backend> {
    embed: Linear<B>,
    blocks: Vec<Block<B>>,
    head: Linear<B>,
}

impl<B: MoeBackend> MoeModel<B> for Classifier<B> {
    fn moe_sites(&self) -> Vec<MoeSite<'_, B>> {
        let sites = self.blocks.iter();
        sites
            .map(|b| MoeSite::behind(&b.norm.gamma, &b.moe))
            .collect()
    }

    fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>> {
        self.blocks.iter_mut().map(|b| &mut b.moe).collect()
    }
}

impl<B: MoeBackend> Classifier<B> {
    fn new(experts: usize, device: &B::Device) -> Self {
        let (init, moe) = (Initializer::new(0), MoeLayerConfig::new(D, experts, 2, 16));
        let block = |index| Block {
            norm: RmsNormConfig::new(D).init(device),
            moe: moe.init(&format!("block {index}"), &init, device),
        };
        Self {
            embed: LinearConfig::new(2, D).init(device),
            blocks: (0..2).map(block).collect(),
            head: LinearConfig::new(D, CLASSES).init(device),
        }
    }

    /// Scores of the classes `[T, C]` of points `[T, 2]`, and where they were routed.
    fn forward(&self, points_t2: Tensor<B, 2>) -> (Tensor<B, 2>, Vec<Routing<B>>) {
        let mut x_td = self.embed.forward(points_t2);
        let mut all = Vec::new();
        for block in &self.blocks {
            let normed_td = block.norm.forward(x_td.clone());
            let (y_td, routing) = block.moe.forward(normed_td, Precision::F32);
            x_td = x_td + y_td;
            all.push(routing);
        }
        (self.head.forward(x_td), all)
    }

    fn loss(&self, batch: u64, device: &B::Device) -> (Tensor<B, 1>, Vec<Routing<B>>) {
        let (points_t2, classes_t) = points(batch, device);
        let (scores_tc, routing) = self.forward(points_t2);
        let loss = CrossEntropyLossConfig::new().init(device);
        (loss.forward(scores_tc, classes_t), routing)
    }
}

/// Points of a spiral, whose class turns with angle and radius.
fn points<B: Backend>(batch: u64, device: &B::Device) -> (Tensor<B, 2>, Tensor<B, 1, Int>) {
    const COUNT: usize = 256;
    let (mut points, mut classes) = (Vec::new(), Vec::new());
    for i in 0..COUNT as u64 {
        let n = (batch * COUNT as u64 + i) as f32;
        let (angle, radius) = (TAU * (n * 0.618_034).fract(), 3.0 * (n * 0.754_877).fract());
        points.extend([radius * angle.cos(), radius * angle.sin()]);
        let turn = (angle / TAU + radius).fract();
        classes.push((turn * CLASSES as f32) as i32 % CLASSES as i32);
    }
    let points_t2 = Tensor::from_data(TensorData::new(points, [COUNT, 2]), device);
    (
        points_t2,
        Tensor::from_data(TensorData::new(classes, [COUNT]), device),
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    type B = Autodiff<Flex>;
    let device = FlexDevice;
    let mut model: Classifier<B> = Classifier::new(4, &device);
    let mut optimizer = AdamWConfig::new().init::<B, Classifier<B>>();
    let balancing = BalancingConfig::default();
    for step in 0..600_u64 {
        if step == 300 {
            let recipe = Recipe::named("exact")?;
            let mut state = optimizer.to_record();
            let evidence = Evidence::gather(&recipe, &model, &state, 8, |model, batch| {
                let (loss, routing) = model.loss(batch, &device);
                Ok::<_, OperatorError>(ForwardPass { loss, routing })
            })?;
            let before = model.loss(step, &device).0.into_scalar();
            Upcycle::new(recipe, 8).grow(&mut model, &mut state, &evidence)?;
            let after = model.loss(step, &device).0.into_scalar();
            optimizer = optimizer.load_record(state);
            println!(
                "step {step}: grown to 8 experts, loss {before:.4} before and {after:.4} after"
            );
        }
        let (loss, routing) = model.loss(step, &device);
        if step % 100 == 99 {
            println!(
                "step {}: loss {:.4}",
                step + 1,
                loss.clone().into_scalar().elem::<f32>()
            );
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
        let loads: Vec<_> = routing.iter().map(Routing::load_e).collect();
        model.balance(&loads, &balancing);
    }
    Ok(())
}
