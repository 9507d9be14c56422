//! The decoder-only language model.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets};
use upcycle_moe::{BalancingConfig, Initializer, MoeLayer, MoeLayerConfig, Router, Routing};

use crate::{
    attention::{Attention, rotary_angles},
    block::{Block, FeedForward},
    config::{ConfigError, LayerKind, LmConfig},
    feed_forward::SwiGlu,
    norm::RmsNorm,
};

/// A decoder-only language model with separate input and output embeddings.
#[derive(Module, Debug)]
pub struct Lm<B: Backend> {
    /// Input embedding, `[V, D]`.
    pub embedding_vd: Param<Tensor<B, 2>>,
    /// Layers.
    pub blocks: Vec<Block<B>>,
    /// Before the head.
    pub norm: RmsNorm<B>,
    /// Output embedding, `[V, D]`.
    pub head_vd: Param<Tensor<B, 2>>,
    #[module(skip)]
    config: LmConfig,
}

/// Losses and routing of one forward pass.
#[derive(Debug)]
pub struct LmOutput<B: Backend> {
    /// Weighted cross-entropy of every position in nats, `[B * S]`.
    pub loss_t: Tensor<B, 1>,
    /// Routing of every MoE layer.
    pub routing: Vec<Routing<B>>,
}

impl LmConfig {
    /// The model, with weights that depend on the seed alone.
    ///
    /// # Errors
    /// If the configuration cannot be built, see [`LmConfig::validate`].
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Result<Lm<B>, ConfigError> {
        self.validate()?;
        let initializer = Initializer::new(seed);
        let (v, d) = (self.vocab, self.d_model);
        // Every layer adds twice to the residual stream; GPT-2's scaling keeps its variance independent of depth.
        let residual_scale = (2.0 * self.layers as f32).powf(-0.5);
        let mut moe_layer = 0;
        let blocks = (0..self.layers)
            .map(|index| {
                let name = format!("blocks.{index}");
                let ffn = match self.layer_kind(index) {
                    LayerKind::Dense => FeedForward::Dense(SwiGlu::init(
                        &format!("{name}.dense"),
                        [d, self.d_ffn],
                        residual_scale,
                        &initializer,
                        device,
                    )),
                    LayerKind::Moe => {
                        let config = MoeLayerConfig {
                            router: self.router(moe_layer),
                            d_expert: self.d_expert,
                            residual_scale,
                        };
                        moe_layer += 1;
                        let name = format!("{name}.moe");
                        FeedForward::Moe(config.init(&name, &initializer, device))
                    }
                };
                Block {
                    attention_norm: RmsNorm::init(d, self.norm_eps, device),
                    attention: Attention::init(
                        &format!("{name}.attention"),
                        self,
                        residual_scale,
                        &initializer,
                        device,
                    ),
                    ffn_norm: RmsNorm::init(d, self.norm_eps, device),
                    ffn,
                }
            })
            .collect();
        Ok(Lm {
            embedding_vd: initializer.normal("embedding", [v, d], self.embedding_std, device),
            blocks,
            norm: RmsNorm::init(d, self.norm_eps, device),
            head_vd: initializer.normal("head", [v, d], (d as f32).powf(-0.5), device),
            config: self.clone(),
        })
    }
}

impl<B: Backend> Lm<B> {
    /// The configuration that it was made from.
    pub fn config(&self) -> &LmConfig {
        &self.config
    }

    /// The MoE layers, in order.
    pub fn moe_layers(&self) -> impl Iterator<Item = &MoeLayer<B>> {
        self.blocks.iter().filter_map(|block| match &block.ffn {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense(_) => None,
        })
    }
}

impl<B: MoeBackend> Lm<B> {
    /// Losses of `[B, S]` tokens against targets of the `B * S` positions.
    pub fn forward(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        targets: SoftTargets<B>,
        precision: Precision,
    ) -> LmOutput<B> {
        let (x_td, routing) = self.hidden(tokens_bs, precision);
        let loss_t = B::linear_cross_entropy(x_td, self.head_vd.val(), targets, precision);
        LmOutput { loss_t, routing }
    }

    /// Logits of `[B, S]` tokens, `[B * S, V]`, and the routing of every MoE layer.
    pub fn logits(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Vec<Routing<B>>) {
        let (x_td, routing) = self.hidden(tokens_bs, precision);
        let logits_tv = precision.matmul(x_td, self.head_vd.val().transpose());
        (logits_tv, routing)
    }

    /// Normalised hidden states before the head, `[B * S, D]`.
    fn hidden(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Vec<Routing<B>>) {
        let device = tokens_bs.device();
        let [b, s] = tokens_bs.dims();
        let angles = rotary_angles(s, self.config.head_dim(), self.config.rope_theta, &device);
        let mut x_td = B::embed(self.embedding_vd.val(), tokens_bs.reshape([b * s]));
        let mut all_routing = Vec::new();
        for block in &self.blocks {
            let (y_td, routing) = block.forward(x_td, [b, s], &angles, precision);
            x_td = y_td;
            all_routing.extend(routing);
        }
        (self.norm.forward(x_td), all_routing)
    }

    /// One step of loss-free balancing of every MoE layer, from the load `[E]` of each.
    pub fn balance(self, loads: Vec<Tensor<B, 1>>, config: &BalancingConfig) -> Self {
        if config.bias_rate <= 0.0 {
            return self;
        }
        let mut loads = loads.into_iter();
        self.map_routers(|router| match loads.next() {
            Some(load_e) => router.balance(load_e, config.bias_rate),
            None => router,
        })
    }

    /// The model as it is at a step: with a [release](crate::Release), twins are held apart less and less.
    pub fn at_step(mut self, step: u64) -> Self {
        let two_level = self.config.two_level.as_ref();
        let Some(release) = two_level.and_then(|two_level| two_level.release) else {
            return self;
        };
        self.config = self.config.at_step(step);
        self.map_routers(|router| router.release(release.hold(step)))
    }

    /// Weighted [separation loss](Router::separation_loss) of a forward pass, averaged over MoE layers, `[1]`; none
    /// without two-level selection that asks for it.
    pub fn separation_loss(&self, routing: &[Routing<B>]) -> Option<Tensor<B, 1>> {
        let separation = self.config.two_level.as_ref()?.separation;
        if separation <= 0.0 {
            return None;
        }
        let weight = separation / routing.len() as f32;
        self.moe_layers()
            .zip(routing)
            .filter_map(|(moe, routing)| moe.router.separation_loss(routing))
            .reduce(|sum, loss| sum + loss)
            .map(|loss| loss * weight)
    }

    /// The model with every router changed, in the order of the layers.
    fn map_routers(mut self, mut change: impl FnMut(Router<B>) -> Router<B>) -> Self {
        self.blocks = self
            .blocks
            .into_iter()
            .map(|mut block| {
                block.ffn = match block.ffn {
                    FeedForward::Moe(mut moe) => {
                        moe.router = change(moe.router);
                        FeedForward::Moe(moe)
                    }
                    dense => dense,
                };
                block
            })
            .collect();
        self
    }
}
