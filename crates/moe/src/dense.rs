//! What a dense model must offer so that its feed-forward networks can become Mixture-of-Experts layers.

use burn::{
    module::Param,
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::MoeBackend;

use crate::{layer::MoeLayer, model::MoeModel, pattern::LayerPattern, router::RouterConfig};

/// The three matrices of a dense SwiGLU network.
#[derive(Debug, Clone)]
pub struct DenseNetwork<B: Backend> {
    /// Gate projection, `[D, F]`.
    pub gate_df: Param<Tensor<B, 2>>,
    /// Up projection, `[D, F]`.
    pub up_df: Param<Tensor<B, 2>>,
    /// Down projection, `[F, D]`.
    pub down_fd: Param<Tensor<B, 2>>,
}

/// A model whose dense networks can become MoE layers.
pub trait DenseModel<B: MoeBackend>: MoeModel<B> {
    /// How its routers are to choose; experts, top-K and scale of the gates follow from the recipe.
    fn router_config(&self) -> RouterConfig;

    /// The dense networks of the layers that `pattern` makes MoE, in order.
    fn dense_networks(&self, pattern: &LayerPattern) -> Vec<DenseNetwork<B>>;

    /// Puts MoE layers in the places of these networks.
    fn replace_dense(&mut self, pattern: &LayerPattern, layers: Vec<MoeLayer<B>>);
}
