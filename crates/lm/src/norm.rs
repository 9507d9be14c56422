//! Root mean square normalisation.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::MoeBackend;
use upcycle_moe::Initializer;

/// RMSNorm with a learned scale ([Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467)).
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// Scale, `[D]`.
    pub scale_d: Param<Tensor<B, 1>>,
    eps: f64,
}

impl<B: Backend> RmsNorm<B> {
    /// A norm over `d` channels with scale 1.
    pub fn init(d: usize, eps: f32, device: &B::Device) -> Self {
        Self {
            scale_d: Initializer::ones([d], device),
            eps: f64::from(eps),
        }
    }
}

impl<B: MoeBackend> RmsNorm<B> {
    /// `[T, D] -> [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(x_td, self.scale_d.val(), self.eps as f32)
    }
}
