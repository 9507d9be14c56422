//! The dense feed-forward network, and the expert that all tokens share.

use burn::{
    module::{Module, Param},
    tensor::{
        Tensor,
        activation::{sigmoid, silu},
        backend::Backend,
    },
};
use upcycle_kernels::{MoeBackend, Precision};

use crate::init::Initializer;

/// SwiGLU ([Shazeer, 2020](https://arxiv.org/abs/2002.05202)): `down(silu(x gate) * (x up))`.
#[derive(Module, Debug)]
pub struct SwiGlu<B: Backend> {
    /// Gate projection, `[D, F]`.
    pub gate_df: Param<Tensor<B, 2>>,
    /// Up projection, `[D, F]`.
    pub up_df: Param<Tensor<B, 2>>,
    /// Down projection, `[F, D]`.
    pub down_fd: Param<Tensor<B, 2>>,
}

/// An expert that every token uses beside those that the router chooses for it.
#[derive(Module, Debug)]
pub struct SharedExpert<B: Backend> {
    /// What it computes.
    pub network: SwiGlu<B>,
    /// Its output is weighted by the sigmoid of the token's product with this row, `[1, D]` (Qwen2-MoE); without, it counts as
    /// it is (DeepSeek-V2, V3).
    pub gate_1d: Option<Param<Tensor<B, 2>>>,
}

impl<B: Backend> SwiGlu<B> {
    /// A network named `name`, with fan-in scaled normal weights.
    pub fn init(
        name: &str,
        [d, f]: [usize; 2],
        residual_scale: f32,
        initializer: &Initializer,
        device: &B::Device,
    ) -> Self {
        let normal = |part: &str, shape: [usize; 2], scale: f32| {
            let std = scale * (shape[0] as f32).powf(-0.5);
            initializer.normal(&format!("{name}.{part}"), shape, std, device)
        };
        Self {
            gate_df: normal("gate", [d, f], 1.0),
            up_df: normal("up", [d, f], 1.0),
            down_fd: normal("down", [f, d], residual_scale),
        }
    }
}

impl<B: MoeBackend> SwiGlu<B> {
    /// `[T, D] -> [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        let gate_tf = B::project(x_td.clone(), self.gate_df.val(), precision);
        let up_tf = B::project(x_td, self.up_df.val(), precision);
        B::project(silu(gate_tf) * up_tf, self.down_fd.val(), precision)
    }
}

impl<B: Backend> SharedExpert<B> {
    /// A shared expert named `name` for tokens of width D, of hidden width F, with fan-in scaled normal weights.
    pub fn init(
        name: &str,
        [d, f]: [usize; 2],
        gated: bool,
        residual_scale: f32,
        initializer: &Initializer,
        device: &B::Device,
    ) -> Self {
        let gate = || {
            let std = (d as f32).powf(-0.5);
            initializer.normal(&format!("{name}.output_gate"), [1, d], std, device)
        };
        Self {
            network: SwiGlu::init(name, [d, f], residual_scale, initializer, device),
            gate_1d: gated.then(gate),
        }
    }
}

impl<B: MoeBackend> SharedExpert<B> {
    /// `[T, D] -> [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        let y_td = self.network.forward(x_td.clone(), precision);
        match &self.gate_1d {
            Some(gate_1d) => y_td * sigmoid(x_td.matmul(gate_1d.val().transpose())),
            None => y_td,
        }
    }
}
