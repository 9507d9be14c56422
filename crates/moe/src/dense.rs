//! What a dense model must offer so that its feed-forward networks can become Mixture-of-Experts layers.

use upcycle_kernels::MoeBackend;

use crate::{
    feed_forward::SwiGlu, layer::MoeLayer, model::MoeModel, pattern::LayerPattern,
    router::RouterConfig,
};

/// A model whose dense networks can become MoE layers.
pub trait DenseModel<B: MoeBackend>: MoeModel<B> {
    /// How its routers are to choose; experts, top-K and scale of the gates follow from the recipe.
    fn router_config(&self) -> RouterConfig;

    /// The dense networks of the layers that `pattern` makes MoE, in order.
    fn dense_networks(&self, pattern: &LayerPattern) -> Vec<SwiGlu<B>>;

    /// Puts MoE layers in the places of these networks.
    fn replace_dense(&mut self, pattern: &LayerPattern, layers: Vec<MoeLayer<B>>);
}
