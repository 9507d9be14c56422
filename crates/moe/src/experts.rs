//! SwiGLU experts, stacked: one parameter a matrix.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::{ExpertWeights, MoeBackend, Precision};

use crate::{init::Initializer, router::Routing};

/// All experts of a layer. Growing, moments and norms of one expert are slices along the first axis.
#[derive(Module, Debug)]
pub struct Experts<B: Backend> {
    /// Gate projections, `[E, D, F]`.
    pub gate_edf: Param<Tensor<B, 3>>,
    /// Up projections, `[E, D, F]`.
    pub up_edf: Param<Tensor<B, 3>>,
    /// Down projections, `[E, F, D]`.
    pub down_efd: Param<Tensor<B, 3>>,
}

impl<B: Backend> Experts<B> {
    /// Experts with fan-in scaled normal weights; the down projections are scaled by `residual_scale` more.
    pub fn init(
        name: &str,
        [e, d, f]: [usize; 3],
        residual_scale: f32,
        initializer: &Initializer,
        device: &B::Device,
    ) -> Self {
        let normal = |part: &str, shape: [usize; 3], scale: f32| {
            let std = scale * (shape[1] as f32).powf(-0.5);
            initializer.normal(&format!("{name}.{part}"), shape, std, device)
        };
        Self {
            gate_edf: normal("gate", [e, d, f], 1.0),
            up_edf: normal("up", [e, d, f], 1.0),
            down_efd: normal("down", [e, f, d], residual_scale),
        }
    }

    /// Inner products of the weights of every two experts, all three matrices together, `[E, E]`.
    pub fn inner_products(&self) -> Tensor<B, 2> {
        let products = |w: &Param<Tensor<B, 3>>| {
            let w_en: Tensor<B, 2> = w.val().flatten(1, 2);
            w_en.clone().matmul(w_en.transpose())
        };
        products(&self.gate_edf) + products(&self.up_edf) + products(&self.down_efd)
    }
}

impl<B: MoeBackend> Experts<B> {
    /// The weighted sum of each token's experts, `[T, D] -> [T, D]`.
    pub fn forward(
        &self,
        x_td: Tensor<B, 2>,
        routing: &Routing<B>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let weights = ExpertWeights {
            gate_edf: self.gate_edf.val(),
            up_edf: self.up_edf.val(),
            down_efd: self.down_efd.val(),
        };
        B::expert_ffn(
            x_td,
            weights,
            routing.experts_tk.clone(),
            routing.gates_tk.clone(),
            precision,
        )
    }
}
