//! The arithmetic of a training step: gradients, their norm, the update.

use std::borrow::Cow;

use burn::{
    optim::{GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{ElementConversion, Tensor},
};
use upcycle_data::Batch;
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, Precision};
use upcycle_lm::Lm;
use upcycle_moe::BalancingConfig;

use crate::{config::OptimizerConfig, error::TrainError, evaluate::tensors, gradients, team::Peer};

/// A model and its optimizer.
pub struct Learner<'a, B: MoeAutodiffBackend> {
    pub model: Lm<B>,
    pub optimizer: AdamWRecord<B>,
    pub settings: Settings<'a>,
    pub device: &'a B::Device,
}

/// How a step is computed.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    pub optimizer: &'a OptimizerConfig,
    pub balancing: &'a BalancingConfig,
    pub precision: Precision,
}

/// Sums over the forward passes of a step.
pub struct StepSums<B: MoeAutodiffBackend> {
    passes: usize,
    loss: f64,
    gradients: GradientsParams,
    /// Tokens of every expert of every MoE layer, `[E]` each.
    loads: Vec<Tensor<B, 1>>,
}

/// What an update needs.
pub struct StepGradients<B: MoeAutodiffBackend> {
    /// Global norm of the gradients.
    pub norm: f64,
    gradients: GradientsParams,
    loads: Vec<Tensor<B, 1>>,
}

impl<B: MoeAutodiffBackend> StepSums<B> {
    /// Nothing yet, of `passes` forward passes.
    pub fn new(passes: usize) -> Self {
        Self {
            passes,
            loss: 0.0,
            gradients: GradientsParams::new(),
            loads: Vec::new(),
        }
    }

    /// Mean loss, in nats a token.
    pub fn loss(&self) -> f64 {
        self.loss / self.passes as f64
    }

    /// The sums over all devices.
    ///
    /// # Errors
    /// If another device failed.
    pub fn over_all(mut self, peer: Peer, device: &B::Device) -> Result<Self, TrainError> {
        if peer.count() > 1 {
            let loss = Tensor::from_floats([self.loss as f32], device);
            self.loss = peer.sum::<B>(loss)?.into_scalar().elem();
            self.gradients = peer.sum_gradients::<B>(self.gradients)?;
            let sum = |load: Tensor<B, 1>| peer.sum::<B>(load.inner()).map(Tensor::from_inner);
            self.loads = self.loads.into_iter().map(sum).collect::<Result<_, _>>()?;
        }
        Ok(self)
    }

    /// Gradients and their norm, for which one number is read from the device.
    pub fn gradients(self, model: &Lm<B>) -> StepGradients<B> {
        StepGradients {
            norm: gradients::global_norm(model, &self.gradients),
            gradients: self.gradients,
            loads: self.loads,
        }
    }
}

impl<B: MoeAutodiffBackend> Learner<'_, B> {
    /// Forward and backward pass of this device's share of a batch.
    pub fn accumulate(&self, batch: &Batch, peer: Peer, sums: &mut StepSums<B>) {
        let scored = batch.scored();
        let share = match peer.count() {
            1 => Cow::Borrowed(batch),
            _ => Cow::Owned(batch.part(peer.share(batch.rows))),
        };
        let (inputs, targets) = tensors::<B>(&share, self.device);
        let output = self.model.forward(inputs, targets, self.settings.precision);
        let loss = output.loss_t.sum() / scored as f32;
        sums.loss += loss.clone().into_scalar().elem::<f64>();
        let score = self.model.config().score;
        let objective = output
            .routing
            .iter()
            .filter_map(|routing| self.settings.balancing.loss(routing, score))
            .chain(self.model.separation_loss(&output.routing))
            .fold(loss, |objective, loss| {
                objective + loss / peer.count() as f32
            });
        for (layer, routing) in output.routing.iter().enumerate() {
            match sums.loads.get_mut(layer) {
                Some(load) => *load = load.clone() + routing.load_e(),
                None => sums.loads.push(routing.load_e()),
            }
        }
        let gradients = (objective / sums.passes as f32).backward();
        let gradients = GradientsParams::from_grads(gradients, &self.model);
        let sum = std::mem::take(&mut sums.gradients);
        sums.gradients = gradients::accumulate(&self.model, sum, gradients);
    }

    /// Updates parameters, moments and selection biases.
    pub fn update(mut self, step: StepGradients<B>, lr: f64) -> Self {
        let adamw = self.settings.optimizer.adamw(step.norm);
        let mut optimizer = OptimizerAdaptor::from(adamw).load_record(self.optimizer);
        let model = optimizer.step(lr, self.model, step.gradients);
        self.optimizer = optimizer.to_record();
        self.model = model.balance(step.loads, self.settings.balancing);
        self
    }
}
