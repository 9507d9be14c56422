//! The Mixture-of-Experts layer: router and experts.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision};

use crate::{
    experts::Experts,
    init::Initializer,
    router::{Router, RouterConfig, Routing},
};

/// Shape of a [`MoeLayer`].
#[derive(Debug, Clone, PartialEq)]
pub struct MoeLayerConfig {
    /// The router.
    pub router: RouterConfig,
    /// Hidden width of an expert, F.
    pub d_expert: usize,
    /// Further scale of the down projections at initialisation.
    pub residual_scale: f32,
}

/// A dropless Mixture-of-Experts layer.
#[derive(Module, Debug)]
pub struct MoeLayer<B: Backend> {
    /// Chooses experts and gates.
    pub router: Router<B>,
    /// The experts.
    pub experts: Experts<B>,
}

impl MoeLayerConfig {
    /// A layer named `name`.
    pub fn init<B: Backend>(
        &self,
        name: &str,
        initializer: &Initializer,
        device: &B::Device,
    ) -> MoeLayer<B> {
        let shape = [self.router.experts, self.router.d_model, self.d_expert];
        MoeLayer {
            router: self
                .router
                .init(&format!("{name}.router"), initializer, device),
            experts: Experts::init(
                &format!("{name}.experts"),
                shape,
                self.residual_scale,
                initializer,
                device,
            ),
        }
    }
}

impl<B: MoeBackend> MoeLayer<B> {
    /// Output and routing of tokens, `[T, D] -> [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>, precision: Precision) -> (Tensor<B, 2>, Routing<B>) {
        let routing = self.router.forward(x_td.clone());
        let y_td = self.experts.forward(x_td, &routing, precision);
        (y_td, routing)
    }
}
