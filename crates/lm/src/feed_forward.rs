//! The dense feed-forward network.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::silu, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_moe::Initializer;

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
