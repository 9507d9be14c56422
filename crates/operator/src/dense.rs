//! Dense models as a source of experts.

use burn::{
    module::{Param, ParamId},
    optim::AdaptiveMomentumState,
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::{
    Experts, Initializer, LayerPattern, MoeLayer, Router, RouterConfig, ScoreFunction, SwiGlu,
};
use upcycle_team::Team;

use crate::{
    check::{Fault, at_least_one},
    error::OperatorError,
    optimizer::{AdamState, Moments},
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

/// The MoE layer that a dense network becomes before it is grown.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseLayer {
    /// Its router, whose experts are the shards of the network.
    pub router: RouterConfig,
    /// Hidden width of an expert, F.
    pub d_expert: usize,
}

fn one() -> usize {
    1
}

impl DenseSource {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        at_least_one("dense.top_k", self.top_k)?;
        at_least_one("dense.shards", self.shards)
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

    /// The MoE layer that a network of hidden width `d_ffn` becomes: as many experts as shards, on the way to `target`.
    /// `router` says how the model's routers choose.
    ///
    /// # Errors
    /// If the network cannot be cut so, or gates would not sum to 1.
    pub fn layer(
        &self,
        d_ffn: usize,
        target: usize,
        router: &RouterConfig,
    ) -> Result<DenseLayer, OperatorError> {
        let fail = |problem| Err(OperatorError::Dense(problem));
        if !d_ffn.is_multiple_of(self.shards) {
            return fail(format!(
                "its hidden width {d_ffn} is not a multiple of `dense.shards` = {}",
                self.shards
            ));
        }
        if router.groups.is_some() {
            return fail("its routers would choose among groups of experts that are not there yet; leave `groups` out".into());
        }
        let top_k = self.experts_of_a_token(target)?;
        if !router.renormalize && router.score != ScoreFunction::TopKSoftmax {
            return fail("its gates would not sum to 1; set `renormalize = true`".into());
        }
        Ok(DenseLayer {
            router: RouterConfig {
                experts: self.shards,
                top_k,
                scale: self.shards as f32,
                ..router.clone()
            },
            d_expert: d_ffn / self.shards,
        })
    }

    /// K of a grown model of `target` experts.
    ///
    /// # Errors
    /// If they are no whole networks, or too few.
    pub fn experts_of_a_token(&self, target: usize) -> Result<usize, OperatorError> {
        let top_k = self.top_k.checked_mul(self.shards);
        let top_k = top_k.filter(|&k| k <= target && target.is_multiple_of(self.shards));
        top_k.ok_or_else(|| {
            OperatorError::Dense(format!(
                "{target} experts are not a multiple of `dense.shards` = {} of at least `dense.top_k` = {} networks",
                self.shards, self.top_k
            ))
        })
    }

    /// [`layer`](Self::layer) of a network, whose matrices must fit each other.
    pub(crate) fn layer_of<B: MoeAutodiffBackend>(
        &self,
        network: &SwiGlu<B>,
        target: usize,
        router: &RouterConfig,
    ) -> Result<DenseLayer, OperatorError> {
        let [d, f] = network.gate_df.dims();
        if network.up_df.dims() != [d, f] || network.down_fd.dims() != [f, d] {
            return Err(OperatorError::ModelMismatch(format!(
                "a dense network has matrices of shapes {:?}, {:?} and {:?}",
                network.gate_df.dims(),
                network.up_df.dims(),
                network.down_fd.dims()
            )));
        }
        self.layer(f, target, router)
    }

    /// What the optimizer remembers of a network must be of its shape.
    pub(crate) fn check_moments<B: MoeAutodiffBackend, O: AdamState<B>>(
        network: &SwiGlu<B>,
        optimizer: &O,
    ) -> Result<(), OperatorError> {
        for weight in [&network.gate_df, &network.up_df, &network.down_fd] {
            if !optimizer.is_empty() {
                optimizer.moments_of(weight.id, weight.dims())?;
            }
        }
        Ok(())
    }

    /// A network as a MoE layer of shards, and its moments with it.
    pub(crate) fn moe_layer<B: MoeAutodiffBackend, O: AdamState<B>>(
        &self,
        network: SwiGlu<B>,
        layer: DenseLayer,
        optimizer: &mut O,
    ) -> Result<MoeLayer<B>, OperatorError> {
        let [d, _] = network.gate_df.dims();
        let device = network.gate_df.device();
        let zeros = || Tensor::<B::InnerBackend, 2>::zeros([self.shards, d], &device);
        let weight_ed = Tensor::from_inner(zeros()).require_grad();
        let weight_ed = Param::initialized(ParamId::new(), weight_ed);
        let mut time = None;
        let mut cut = |weight: Param<Tensor<B, 2>>, hidden: usize| {
            if !optimizer.is_empty() {
                let moments: AdaptiveMomentumState<_, 2> =
                    optimizer.moments_of(weight.id, weight.dims())?;
                time = Some(moments.time);
                let moments = AdaptiveMomentumState {
                    time: moments.time,
                    moment_1: self.shard(moments.moment_1, hidden),
                    moment_2: self.shard(moments.moment_2, hidden),
                    max_moment_2: moments.max_moment_2.map(|m| self.shard(m, hidden)),
                };
                Moments::<B, 3>::set_moments(optimizer, weight.id, moments);
            }
            let trained = weight.is_require_grad();
            let value = self.shard(weight.val().inner(), hidden);
            let value = Tensor::<B, 3>::from_inner(value);
            let value = value.set_require_grad(trained);
            Ok::<_, OperatorError>(Param::initialized(weight.id, value))
        };
        let experts = Experts {
            gate_edf: cut(network.gate_df, 1)?,
            up_edf: cut(network.up_df, 1)?,
            down_efd: cut(network.down_fd, 0)?,
            team: Team::alone(),
        };
        if let Some(time) = time {
            let moments = AdaptiveMomentumState {
                time,
                moment_1: zeros(),
                moment_2: zeros(),
                max_moment_2: None,
            };
            Moments::<B, 2>::set_moments(optimizer, weight_ed.id, moments);
        }
        let bias_e = Initializer::state([self.shards], &device);
        let router = Router::from_parts(layer.router, weight_ed, bias_e);
        Ok(MoeLayer::from_parts(router, experts))
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
