//! One layer: attention, then a dense or Mixture-of-Experts feed-forward network.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision, RotaryAngles};
use upcycle_moe::{MoeLayer, Routing, SwiGlu};

use crate::{attention::Attention, key_values::KeyValues, norm::RmsNorm};

/// A pre-norm transformer layer.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// Before attention.
    pub attention_norm: RmsNorm<B>,
    /// Attention.
    pub attention: Attention<B>,
    /// Before the feed-forward network.
    pub ffn_norm: RmsNorm<B>,
    /// Dense or MoE.
    pub ffn: FeedForward<B>,
}

/// The feed-forward half of a layer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // A model has a handful of these; a box would only hide them.
pub enum FeedForward<B: Backend> {
    /// One network for all tokens.
    Dense(SwiGlu<B>),
    /// Experts behind a router.
    Moe(MoeLayer<B>),
}

impl<B: MoeBackend> Block<B> {
    /// Output `[B * S, D]`, and the routing of a MoE layer.
    pub fn forward(
        &self,
        x_td: Tensor<B, 2>,
        batch: [usize; 2],
        angles: &RotaryAngles<B>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Option<Routing<B>>) {
        let attend = |x_td| self.attention.forward(x_td, batch, angles, precision);
        self.around(x_td, attend, precision)
    }

    /// The same for tokens that follow those whose keys and values are in `seen`.
    pub(crate) fn extend(
        &self,
        x_td: Tensor<B, 2>,
        batch: [usize; 2],
        angles: &RotaryAngles<B>,
        seen: &mut KeyValues<B>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Option<Routing<B>>) {
        let attend = |x_td| (self.attention).extend(x_td, batch, angles, seen, precision);
        self.around(x_td, attend, precision)
    }

    /// The layer around its attention.
    fn around(
        &self,
        x_td: Tensor<B, 2>,
        attend: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Option<Routing<B>>) {
        let normed_td = self.attention_norm.forward(x_td.clone());
        let x_td = B::add(x_td, attend(normed_td));
        let normed_td = self.ffn_norm.forward(x_td.clone());
        match &self.ffn {
            FeedForward::Dense(dense) => (B::add(x_td, dense.forward(normed_td, precision)), None),
            FeedForward::Moe(moe) => {
                let (y_td, routing) = moe.forward(normed_td, precision);
                (B::add(x_td, y_td), Some(routing))
            }
        }
    }
}
