//! Dense models as a source of experts.

use burn::{
    module::{Param, ParamId},
    optim::{AdamWState, AdaptiveMomentumState, record::AdaptorRecord},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend};
use upcycle_lm::{FeedForwardRecord, LayerKind, LayerPattern, LmConfig, LmRecord, SwiGluRecord};
use upcycle_moe::{ExpertsRecord, Initializer, MoeLayerRecord, RouterRecord, ScoreFunction};

use crate::{
    check::{Fault, at_least_one},
    error::OperatorError,
    optimizer::moments,
    recipe::Recipe,
    router::RouterExtension,
};

/// How the feed-forward networks of a dense model become experts.
///
/// A network is cut into `shards` experts of equal width, whose sum it is. These are then grown like any MoE layer,
/// every expert a replica, from router rows of zero: with the router extension `hyperplane` a copy of all shards gets
/// one random row, so that a token goes to whole networks.
///
/// - `shards = 1`, experts `copy`: sparse upcycling ([Komatsuzaki et al., 2022](https://arxiv.org/abs/2212.05055)).
/// - `shards = 1`, experts `drop`: drop-upcycling ([Nakamura et al., 2025](https://arxiv.org/abs/2502.19261)).
/// - `shards > 1`: fine-grained experts in virtual groups ([He et al., 2024](https://arxiv.org/abs/2410.07524)).
///
/// With copied experts, renormalised gates and the router `hyperplane` the function is kept: gates sum to 1 over `top_k`
/// networks, and are scaled by `shards`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseSource {
    /// Networks of a token; the grown model has K = `top_k * shards`.
    #[serde(default = "one")]
    pub top_k: usize,
    /// Experts that a network is cut into.
    #[serde(default = "one")]
    pub shards: usize,
    /// Layers that become MoE.
    #[serde(default)]
    pub layers: LayerPattern,
}

fn one() -> usize {
    1
}

impl DenseSource {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        at_least_one("dense.top_k", self.top_k)?;
        at_least_one("dense.shards", self.shards)
    }

    /// What a recipe may ask of a dense model: it has no experts to measure, and router rows of zero to start from.
    pub(crate) fn check(recipe: &Recipe) -> Result<(), OperatorError> {
        let fail = |problem: &str| Err(OperatorError::Dense(problem.into()));
        if !matches!(
            recipe.router,
            RouterExtension::Hyperplane { .. } | RouterExtension::TwoLevel { .. }
        ) {
            return fail(
                "its router starts from zero, from which only `router.kind` = `hyperplane` or `two-level` tell experts apart",
            );
        }
        if !recipe.measurements().is_empty() {
            return fail(
                "it has no experts whose use could be measured; take a selection without score (`uniform`), and the router `hyperplane` or a random tie-break",
            );
        }
        Ok(())
    }

    /// Every network must be there as a whole as often as any of its shards.
    pub(crate) fn check_counts(counts: &[usize]) -> Result<(), OperatorError> {
        if counts.iter().all(|&count| count == counts[0]) {
            return Ok(());
        }
        Err(OperatorError::Dense(
            "its shards would be copied unevenly; take the selection `uniform`".into(),
        ))
    }

    /// The configuration with one copy of every network, cut into experts; `target` is that of the grown model.
    pub(crate) fn config(
        &self,
        dense: &LmConfig,
        target: usize,
    ) -> Result<LmConfig, OperatorError> {
        let fail = |problem| Err(OperatorError::Dense(problem));
        if !dense.d_ffn.is_multiple_of(self.shards) {
            return fail(format!(
                "its hidden width {} is not a multiple of `dense.shards` = {}",
                dense.d_ffn, self.shards
            ));
        }
        let top_k = self.top_k.checked_mul(self.shards);
        let Some(top_k) = top_k.filter(|&k| k <= target && target.is_multiple_of(self.shards))
        else {
            return fail(format!(
                "{target} experts are not a multiple of `dense.shards` = {} of at least `dense.top_k` = {} networks",
                self.shards, self.top_k
            ));
        };
        if !dense.renormalize && dense.score != ScoreFunction::TopKSoftmax {
            return fail("its gates would not sum to 1; set `renormalize = true`".into());
        }
        let mut config = dense.clone();
        config.pattern = self.layers.clone();
        config.experts = self.shards;
        config.d_expert = dense.d_ffn / self.shards;
        config.top_k = top_k;
        config.gate_scale = self.shards as f32;
        if config.moe_layers() == 0 {
            return fail("`dense.layers` names no layer".into());
        }
        Ok(config)
    }

    /// Cuts the networks of the layers that become MoE, and their moments.
    pub(crate) fn cut<B: MoeAutodiffBackend>(
        &self,
        config: &LmConfig,
        model: &mut LmRecord<B>,
        optimizer: &mut AdamWRecord<B>,
        device: &B::Device,
    ) -> Result<(), OperatorError> {
        for (index, block) in model.blocks.iter_mut().enumerate() {
            if config.layer_kind(index) == LayerKind::Dense {
                continue;
            }
            let FeedForwardRecord::Dense(dense) = &block.ffn else {
                return Err(OperatorError::RecordMismatch(format!(
                    "layer {index} is not dense"
                )));
            };
            let width = dense.gate_df.dims()[1];
            if width != config.d_expert * self.shards {
                return Err(OperatorError::RecordMismatch(format!(
                    "layer {index} has hidden width {width}, not {}",
                    config.d_expert * self.shards
                )));
            }
            let moe = self.layer(dense, optimizer, config.d_model, device)?;
            block.ffn = FeedForwardRecord::Moe(moe);
        }
        Ok(())
    }

    fn layer<B: MoeAutodiffBackend>(
        &self,
        dense: &SwiGluRecord<B>,
        optimizer: &mut AdamWRecord<B>,
        d: usize,
        device: &B::Device,
    ) -> Result<MoeLayerRecord<B>, OperatorError> {
        let weight_ed = Param::initialized(
            ParamId::new(),
            Tensor::zeros([self.shards, d], device).require_grad(),
        );
        let mut time = None;
        let mut cut = |weight: &Param<Tensor<B, 2>>, hidden: usize| {
            if !optimizer.is_empty() {
                let moments = moments::<B, 2>(optimizer, weight.id, weight.dims())?;
                time = Some(moments.time);
                let moments = AdaptiveMomentumState {
                    time: moments.time,
                    moment_1: self.shard(moments.moment_1, hidden),
                    moment_2: self.shard(moments.moment_2, hidden),
                    max_moment_2: None,
                };
                let record = AdaptorRecord::from_state(AdamWState::<_, 3>::new(moments));
                optimizer.insert(weight.id, record);
            }
            let value = self.shard(weight.val().inner(), hidden);
            let value = Tensor::<B, 3>::from_inner(value).require_grad();
            Ok(Param::initialized(weight.id, value))
        };
        let experts = ExpertsRecord {
            gate_edf: cut(&dense.gate_df, 1)?,
            up_edf: cut(&dense.up_df, 1)?,
            down_efd: cut(&dense.down_fd, 0)?,
        };
        if let Some(time) = time {
            let zeros = Tensor::<B::InnerBackend, 2>::zeros([self.shards, d], device);
            let moments = AdaptiveMomentumState {
                time,
                moment_1: zeros.clone(),
                moment_2: zeros,
                max_moment_2: None,
            };
            let record = AdaptorRecord::from_state(AdamWState::<_, 2>::new(moments));
            optimizer.insert(weight_ed.id, record);
        }
        Ok(MoeLayerRecord {
            router: RouterRecord {
                weight_ed,
                selection_bias_e: Initializer::state([self.shards], device),
                tie_breaks: Vec::new(),
                config: Default::default(),
            },
            experts,
        })
    }

    /// Cuts the hidden axis into shards: `[D, F] -> [S, D, F / S]` for axis 1, `[F, D] -> [S, F / S, D]` for axis 0.
    fn shard<B: Backend>(&self, matrix: Tensor<B, 2>, hidden: usize) -> Tensor<B, 3> {
        let [rows, columns] = matrix.dims();
        let s = self.shards;
        if hidden == 0 {
            matrix.reshape([s, rows / s, columns])
        } else {
            matrix.reshape([rows, s, columns / s]).swap_dims(0, 1)
        }
    }
}
