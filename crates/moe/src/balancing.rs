//! Load balancing: loss-free selection biases, and the auxiliary losses as options.

use burn::{
    module::Param,
    tensor::{IndexingUpdateOp, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeBackend;

use crate::{
    router::{Router, Routing, ScoreFunction},
    sources::ExpertSources,
};

/// How the load of experts is kept even.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalancingConfig {
    /// Step `gamma` of loss-free balancing ([Wang et al., 2024](https://arxiv.org/abs/2408.15664)); 0 turns it off.
    pub bias_rate: f32,
    /// Weight of the auxiliary loss `E * sum_e f_e p_e` ([Fedus et al., 2021](https://arxiv.org/abs/2101.03961)).
    pub auxiliary_loss: f32,
    /// Weight of the router z-loss, the mean squared log-sum-exp of the logits
    /// ([Zoph et al., 2022](https://arxiv.org/abs/2202.08906)).
    pub z_loss: f32,
}

impl Default for BalancingConfig {
    fn default() -> Self {
        Self {
            bias_rate: 1e-3,
            auxiliary_loss: 0.0,
            z_loss: 0.0,
        }
    }
}

impl BalancingConfig {
    /// Weighted auxiliary and z-loss of one layer, `[1]`; none if both are off. A model takes the mean over its layers, so that a
    /// weight means the same at every depth.
    pub fn loss<B: MoeBackend>(
        &self,
        routing: &Routing<B>,
        score: ScoreFunction,
    ) -> Option<Tensor<B, 1>> {
        let auxiliary = (self.auxiliary_loss > 0.0)
            .then(|| auxiliary_loss(routing, score).mul_scalar(self.auxiliary_loss));
        let z = (self.z_loss > 0.0).then(|| z_loss(routing).mul_scalar(self.z_loss));
        match (auxiliary, z) {
            (Some(auxiliary), Some(z)) => Some(auxiliary + z),
            (auxiliary, z) => auxiliary.or(z),
        }
    }
}

impl<B: Backend> Routing<B> {
    /// The experts of every token on the host, flat `[T * K]`.
    pub fn host_experts(&self) -> Vec<usize> {
        let experts = self.experts_tk.clone().into_data();
        experts.iter::<i64>().map(|index| index as usize).collect()
    }

    /// Number of tokens routed to every expert, `[E]`.
    pub fn load_e(&self) -> Tensor<B, 1> {
        let [t, k] = self.experts_tk.dims();
        let [_, e] = self.logits_te.dims();
        let device = self.experts_tk.device();
        Tensor::zeros([e], &device).scatter(
            0,
            self.experts_tk.clone().reshape([t * k]),
            Tensor::ones([t * k], &device),
            IndexingUpdateOp::Add,
        )
    }
}

impl<B: MoeBackend> Router<B> {
    /// One step of loss-free balancing from the load of a training step:
    /// `b_e += gamma * sign(mean_load - load_e)`.
    ///
    /// With two-level selection sources are balanced against each other, and replicas inside their source.
    ///
    /// # Shapes
    /// `load_e: [E]`, in tokens.
    pub fn balance(&mut self, load_e: Tensor<B, 1>, rate: f32) {
        let device = load_e.device();
        let step = |bias: &mut Param<Tensor<B, 1>>, excess_e: Tensor<B, 1>| {
            *bias = bias.clone().map(|bias| bias - excess_e.sign() * rate);
        };
        let Some(two_level) = &self.config.two_level else {
            let excess_e = load_e.clone() - load_e.mean();
            return step(&mut self.selection_bias_e, excess_e);
        };
        let mut load_n = load_e;
        for (growth, tie_break) in two_level.growths.iter().zip(&mut self.tie_breaks).rev() {
            let (source_load_g, fair_n) = fair_shares(load_n.clone(), &growth.sources);
            step(&mut tie_break.replica_bias_e, load_n - fair_n);
            load_n = source_load_g;
        }
        if let Some(origins) = two_level.origins() {
            let excess_g = load_n.clone() - load_n.mean();
            let excess_e = excess_g.select(0, origins.source_of_tensor(&device));
            step(&mut self.selection_bias_e, excess_e);
        }
    }
}

/// Load of every source, `[G]`, and for every expert an equal share of its source's, `[E]`.
fn fair_shares<B: Backend>(
    load_e: Tensor<B, 1>,
    sources: &ExpertSources,
) -> (Tensor<B, 1>, Tensor<B, 1>) {
    let device = load_e.device();
    let membership_eg = sources.membership::<B>(&device);
    let replicas_g = membership_eg.clone().sum_dim(0).squeeze_dim::<1>(0);
    let load_g = load_e
        .unsqueeze::<2>()
        .matmul(membership_eg)
        .squeeze_dim::<1>(0);
    let fair_e = (load_g.clone() / replicas_g).select(0, sources.source_of_tensor(&device));
    (load_g, fair_e)
}

/// `E * sum_e f_e p_e` with the share `f_e` of routed rows and the mean probability `p_e` of expert e; 1 when even.
fn auxiliary_loss<B: MoeBackend>(routing: &Routing<B>, score: ScoreFunction) -> Tensor<B, 1> {
    let [t, k] = routing.experts_tk.dims();
    let [_, e] = routing.logits_te.dims();
    let probabilities_te = match score {
        ScoreFunction::Sigmoid => {
            let scores_te = routing.scores_te.clone();
            let total_t1 = scores_te.clone().sum_dim(1).add_scalar(1e-20);
            scores_te / total_t1
        }
        _ => burn::tensor::activation::softmax(routing.logits_te.clone(), 1),
    };
    let share_e = routing.load_e() / (t * k) as f32;
    let mean_e = probabilities_te.mean_dim(0).reshape([e]);
    (share_e * mean_e).sum() * e as f32
}

fn z_loss<B: MoeBackend>(routing: &Routing<B>) -> Tensor<B, 1> {
    let logits_te = routing.logits_te.clone();
    let max_t1 = logits_te.clone().detach().max_dim(1);
    let log_sum_t1 = (logits_te - max_t1.clone()).exp().sum_dim(1).log() + max_t1;
    log_sum_t1.square().mean()
}
