//! The decoder-only language model.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision, RotaryAngles, SoftTargets};
use upcycle_moe::{
    DenseModel, Initializer, LayerPattern, MoeLayer, MoeLayerConfig, MoeModel, MoeSite,
    RouterConfig, Routing, SwiGlu, check_blocks,
};
use upcycle_team::Team;

use crate::{
    attention::{Attention, rotary_angles},
    block::{Block, FeedForward},
    config::{ConfigError, LayerKind, LmConfig},
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
    pub(crate) config: LmConfig,
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
        self.init_sharded(seed, &Team::alone(), device)
    }

    /// The same model with those experts alone that this member of a team of devices holds: an equal block of every MoE layer,
    /// in the order of ranks. The values of a matrix are drawn in order, those of the other members too, but these are never kept.
    ///
    /// # Errors
    /// If the configuration cannot be built, or the team's size does not divide the number of experts.
    pub fn init_sharded<B: Backend>(
        &self,
        seed: u64,
        team: &Team,
        device: &B::Device,
    ) -> Result<Lm<B>, ConfigError> {
        self.validate()?;
        if self.moe_layers() > 0 {
            check_blocks(self.experts, team).map_err(|error| ConfigError {
                field: "experts",
                problem: error.0,
            })?;
        }
        let initializer = Initializer::new(seed);
        let (v, d) = (self.vocab, self.d_model);
        // Every layer adds twice to the residual stream; GPT-2's scaling keeps its variance independent of depth.
        let residual_scale = (2.0 * self.layers as f32).powf(-0.5);
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
                            router: self.router(),
                            d_expert: self.d_expert,
                            shared: self.shared_expert(),
                            residual_scale,
                        };
                        let name = format!("{name}.moe");
                        FeedForward::Moe(config.init_sharded(&name, &initializer, team, device))
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
    /// Its shape now: what its MoE layers were grown to, they say themselves. That of the whole model, where this is a part.
    pub fn config(&self) -> LmConfig {
        let mut config = self.config.clone();
        if let Some(layer) = self.moe_layers().next() {
            let router = layer.router.config();
            config.experts = router.experts;
            config.top_k = router.top_k;
            config.gate_scale = router.scale;
            config.d_expert = layer.experts.gate_edf.dims()[2];
        }
        config
    }

    /// The MoE layers, in order.
    pub fn moe_layers(&self) -> impl Iterator<Item = &MoeLayer<B>> {
        self.blocks.iter().filter_map(|block| match &block.ffn {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense(_) => None,
        })
    }
}

impl<B: MoeBackend> MoeModel<B> for Lm<B> {
    fn moe_sites(&self) -> Vec<MoeSite<'_, B>> {
        let sites = self.blocks.iter().filter_map(|block| match &block.ffn {
            FeedForward::Moe(moe) => Some(MoeSite::behind(&block.ffn_norm.scale_d, moe)),
            FeedForward::Dense(_) => None,
        });
        sites.collect()
    }

    fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>> {
        let layers = self
            .blocks
            .iter_mut()
            .filter_map(|block| match &mut block.ffn {
                FeedForward::Moe(moe) => Some(moe),
                FeedForward::Dense(_) => None,
            });
        layers.collect()
    }
}

impl<B: MoeBackend> DenseModel<B> for Lm<B> {
    fn router_config(&self) -> RouterConfig {
        self.config.router()
    }

    fn dense_networks(&self, pattern: &LayerPattern) -> Vec<SwiGlu<B>> {
        let blocks = self.blocks.iter().enumerate();
        let moe = blocks.filter(|(index, _)| pattern.is_moe(*index, self.blocks.len()));
        let networks = moe.filter_map(|(_, block)| match &block.ffn {
            FeedForward::Dense(dense) => Some(dense.clone()),
            FeedForward::Moe(_) => None,
        });
        networks.collect()
    }

    fn replace_dense(&mut self, pattern: &LayerPattern, layers: Vec<MoeLayer<B>>) {
        let mut layers = layers.into_iter();
        let count = self.blocks.len();
        for (index, block) in self.blocks.iter_mut().enumerate() {
            if pattern.is_moe(index, count)
                && let FeedForward::Dense(_) = block.ffn
                && let Some(layer) = layers.next()
            {
                block.ffn = FeedForward::Moe(layer);
            }
        }
        self.config.pattern = pattern.clone();
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
        (self.head(x_td, precision), routing)
    }

    /// Logits of normalised hidden states, `[T, D] -> [T, V]`.
    pub(crate) fn head(&self, x_td: Tensor<B, 2>, precision: Precision) -> Tensor<B, 2> {
        precision.matmul(x_td, self.head_vd.val().transpose())
    }

    /// Normalised hidden states before the head, `[B * S, D]`.
    pub(crate) fn hidden(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        precision: Precision,
    ) -> (Tensor<B, 2>, Vec<Routing<B>>) {
        let batch = tokens_bs.dims();
        self.hidden_from(0, tokens_bs, |index, x_td, angles| {
            self.blocks[index].forward(x_td, batch, angles, precision)
        })
    }

    /// Normalised hidden states before the head, `[B * S, D]`, of tokens whose positions begin with `first`. `layer` takes
    /// them through the layer of a number.
    pub(crate) fn hidden_from(
        &self,
        first: usize,
        tokens_bs: Tensor<B, 2, Int>,
        mut layer: impl FnMut(
            usize,
            Tensor<B, 2>,
            &RotaryAngles<B>,
        ) -> (Tensor<B, 2>, Option<Routing<B>>),
    ) -> (Tensor<B, 2>, Vec<Routing<B>>) {
        let device = tokens_bs.device();
        let [b, s] = tokens_bs.dims();
        let (width, theta) = (self.config.rotary_dim(), self.config.rope_theta);
        let angles = rotary_angles(first..first + s, width, theta, &device);
        let mut x_td = B::embed(self.embedding_vd.val(), tokens_bs.reshape([b * s]));
        let mut all_routing = Vec::new();
        for index in 0..self.blocks.len() {
            let (y_td, routing) = layer(index, x_td, &angles);
            x_td = y_td;
            all_routing.extend(routing);
        }
        (self.norm.forward(x_td), all_routing)
    }
}
