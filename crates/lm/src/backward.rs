//! Gradients of a batch: from one pass over the whole model, or layer by layer from activations that are computed again.

use std::marker::PhantomData;

use burn::{
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Int, Tensor},
};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, Precision, SoftTargets};
use upcycle_moe::{BalancingConfig, MoeModel, Routing};

use crate::{attention::rotary_angles, block::FeedForward, model::Lm};

/// What is minimised on a batch, and how its gradients are computed.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// Positions that the loss is the mean of. Where the batch is a part of a larger one, those of the whole.
    pub scored: f64,
    /// Share of the larger batch that this one is; 1 for a whole batch. Losses of the routing count as much.
    pub share: f32,
    /// Losses of the routing.
    pub balancing: &'a BalancingConfig,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Keep the input of every layer alone, and compute the rest of its activations again when its gradients are due
    /// (activation checkpointing, [Chen et al., 2016](https://arxiv.org/abs/1604.06174)). It takes a third more time.
    pub recompute: bool,
}

/// Loss and gradients of a batch.
pub struct Backward<B: MoeAutodiffBackend> {
    /// The batch's part of the mean loss in nats, `[1]`, without losses of the routing.
    pub loss: Tensor<B::InnerBackend, 1>,
    /// Gradients of every parameter, and those that were there before.
    pub gradients: GradientsParams,
    /// Tokens of every expert of every MoE layer, `[E]` each.
    pub loads: Vec<Tensor<B, 1>>,
}

impl<B: MoeAutodiffBackend> Lm<B> {
    /// Loss and gradients of `[B, S]` tokens against targets of the `B * S` positions. Gradients are added to `sum`.
    ///
    /// Where experts are spread over a team of devices, all members call it with tokens of their own, and with objectives that
    /// differ in the share of the batch alone. Gradients of experts are then those of the tokens of all members.
    pub fn backward(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        targets: SoftTargets<B>,
        objective: &Objective,
        sum: GradientsParams,
    ) -> Backward<B> {
        let sum = Gradients::<B> {
            sum,
            backend: PhantomData,
        };
        match objective.recompute {
            true => self.backward_by_block(tokens_bs, targets, objective, sum),
            false => self.backward_at_once(tokens_bs, targets, objective, sum),
        }
    }

    fn backward_at_once(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        targets: SoftTargets<B>,
        objective: &Objective,
        mut gradients: Gradients<B>,
    ) -> Backward<B> {
        let output = self.forward(tokens_bs, targets, objective.precision);
        let loss = output.loss_t.sum() / objective.scored as f32;
        let total = match self.routing_loss(&output.routing, objective.balancing) {
            Some(routing_loss) => loss.clone() + routing_loss * objective.share,
            None => loss.clone(),
        };
        gradients.add(self, total.backward());
        Backward {
            loss: loss.inner(),
            gradients: gradients.sum,
            loads: output.routing.iter().map(Routing::load_e).collect(),
        }
    }

    /// The graph of one layer is there at a time. A layer's gradients follow from the sum of its outputs, each times the
    /// gradient that the layer above found for it.
    fn backward_by_block(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        targets: SoftTargets<B>,
        objective: &Objective,
        mut gradients: Gradients<B>,
    ) -> Backward<B> {
        let precision = objective.precision;
        let batch @ [b, s] = tokens_bs.dims();
        let device = tokens_bs.device();
        let tokens_t = tokens_bs.reshape([b * s]);
        let (width, theta) = (self.config.rotary_dim(), self.config.rope_theta);

        let frozen = self.valid();
        let angles = rotary_angles(0..s, width, theta, &device);
        let embedding_vd = frozen.embedding_vd.val();
        let mut x_td = B::InnerBackend::embed(embedding_vd, tokens_t.clone().inner());
        let mut inputs = Vec::with_capacity(frozen.blocks.len());
        for block in &frozen.blocks {
            inputs.push(x_td.clone());
            x_td = block.forward(x_td, batch, &angles, precision).0;
        }

        let x_td = Tensor::<B, 2>::from_inner(x_td).require_grad();
        let normed_td = self.norm.forward(x_td.clone());
        let loss_t = B::linear_cross_entropy(normed_td, self.head_vd.val(), targets, precision);
        let loss = loss_t.sum() / objective.scored as f32;
        let mut dx_td = gradients.take(self, loss.clone(), &x_td);

        let share = objective.share / self.moe_layers().count().max(1) as f32;
        let angles = rotary_angles(0..s, width, theta, &device);
        let mut loads = Vec::new();
        for (block, x_td) in self.blocks.iter().zip(inputs).rev() {
            let x_td = Tensor::<B, 2>::from_inner(x_td).require_grad();
            let (y_td, routing) = block.forward(x_td.clone(), batch, &angles, precision);
            let mut total = (y_td * Tensor::from_inner(dx_td)).sum();
            if let (FeedForward::Moe(layer), Some(routing)) = (&block.ffn, routing) {
                if let Some(routing_loss) = layer.routing_loss(&routing, objective.balancing) {
                    total = total + routing_loss * share;
                }
                loads.push(routing.load_e());
            }
            dx_td = gradients.take(block, total, &x_td);
        }
        loads.reverse();

        let x_td = B::embed(self.embedding_vd.val(), tokens_t);
        let total = (x_td * Tensor::from_inner(dx_td)).sum();
        gradients.add(self, total.backward());
        Backward {
            loss: loss.inner(),
            gradients: gradients.sum,
            loads,
        }
    }
}

/// Sums of gradients by parameter.
struct Gradients<B: MoeAutodiffBackend> {
    sum: GradientsParams,
    backend: PhantomData<B>,
}

impl<B: MoeAutodiffBackend> Gradients<B> {
    /// Adds the gradients of a module's parameters, and gives that of its input.
    fn take(
        &mut self,
        module: &impl Module<B>,
        total: Tensor<B, 1>,
        x_td: &Tensor<B, 2>,
    ) -> Tensor<B::InnerBackend, 2> {
        let mut found = total.backward();
        let dx_td = x_td.grad_remove(&mut found);
        self.add(module, found);
        dx_td.unwrap_or_else(|| x_td.clone().inner().zeros_like())
    }

    fn add(&mut self, module: &impl Module<B>, found: B::Gradients) {
        module.visit(&mut Add::<B> {
            found,
            sum: &mut self.sum,
        });
    }
}

struct Add<'a, B: MoeAutodiffBackend> {
    found: B::Gradients,
    sum: &'a mut GradientsParams,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Add<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(gradient) = param.val().grad_remove(&mut self.found) else {
            return;
        };
        let sum = match self.sum.remove::<B::InnerBackend, D>(param.id) {
            Some(sum) => B::InnerBackend::add(sum, gradient),
            None => gradient,
        };
        self.sum.register::<B::InnerBackend, D>(param.id, sum);
    }
}
