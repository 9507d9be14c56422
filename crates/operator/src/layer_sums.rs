//! What batches tell of one MoE layer, added up.

use burn::{
    optim::GradientsParams,
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::{ExpertWeights, MoeAutodiffBackend, MoeBackend, Precision};
use upcycle_moe::{Experts, MoeLayer, Routing};
use upcycle_team::{Team, TeamError};

use crate::{
    error::OperatorError,
    evidence::{ExpertUse, LayerEvidence, Norms, RoutedTokens},
    members::Members,
    parameter::host,
};

/// Tokens kept for each layer: centroids need no more.
const ROUTED_TOKENS: usize = 8192;

/// What the batches of one layer add up to. Gradients and use are of this member's share, tokens are those of all.
pub(crate) struct LayerSums<B: MoeAutodiffBackend> {
    /// Gradients of gate, up and down projections.
    gradients: Option<[Tensor<B::InnerBackend, 3>; 3]>,
    routing: Option<ExpertSums>,
    tokens: Option<RoutedTokens>,
}

impl<B: MoeAutodiffBackend> Default for LayerSums<B> {
    fn default() -> Self {
        Self {
            gradients: None,
            routing: None,
            tokens: None,
        }
    }
}

/// Sums over tokens.
#[derive(Clone, Serialize, Deserialize)]
struct ExpertSums {
    tokens: usize,
    rows: Vec<f64>,
    gates: Vec<f64>,
    outputs: Vec<f64>,
}

impl ExpertSums {
    fn of_nothing(experts: usize) -> Self {
        Self {
            tokens: 0,
            rows: vec![0.0; experts],
            gates: vec![0.0; experts],
            outputs: vec![0.0; experts],
        }
    }

    /// The sums over all members, added in the order of ranks.
    fn over_all(&self, team: &Team) -> Result<Self, TeamError> {
        let mut all = Self::of_nothing(self.rows.len());
        let add = |to: &mut [f64], more: &[f64]| {
            to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
        };
        for member in team.gather_values(self)? {
            all.tokens += member.tokens;
            add(&mut all.rows, &member.rows);
            add(&mut all.gates, &member.gates);
            add(&mut all.outputs, &member.outputs);
        }
        Ok(all)
    }

    fn means(self) -> ExpertUse {
        let tokens = self.tokens.max(1) as f64;
        let routed: f64 = self.rows.iter().sum();
        let over =
            |values: Vec<f64>, count: f64| values.iter().map(|value| value / count).collect();
        ExpertUse {
            load: over(self.rows, routed),
            gate_mass: over(self.gates, tokens),
            output_norm: over(self.outputs, tokens),
        }
    }
}

impl<B: MoeAutodiffBackend> LayerSums<B> {
    /// Keeps the first tokens of all members whose pass counts.
    pub(crate) fn keep_tokens(
        &mut self,
        routing: &Routing<B>,
        counts: bool,
        team: &Team,
    ) -> Result<(), OperatorError> {
        let top_k = routing.experts_tk.dims()[1];
        let kept = self.tokens.get_or_insert_with(|| RoutedTokens {
            inputs: Vec::new(),
            experts: Vec::new(),
            top_k,
        });
        let mut room = room(kept);
        if room == 0 {
            return Ok(());
        }
        let [tokens, d] = routing.input_td.dims();
        let of_members = team.gather_values(&if counts { tokens } else { 0 })?;
        let more: Vec<usize> = (of_members.into_iter())
            .map(|tokens| {
                let more = tokens.min(room);
                room -= more;
                more
            })
            .collect();
        let own = more[team.rank()];
        // Not every backend has tensors without elements.
        let input_td = routing.input_td.clone().inner().narrow(0, 0, own.max(1));
        let mut experts = routing.host_experts();
        experts.truncate(own * top_k);
        let device = input_td.device();
        let inputs = team.gather(input_td, &device)?.into_iter().zip(more);
        for ((input_td, more), experts) in inputs.zip(team.gather_values(&experts)?) {
            kept.inputs.extend(host(input_td).iter().take(more * d));
            kept.experts.extend(experts);
        }
        Ok(())
    }

    /// Whether more tokens would not be kept.
    pub(crate) fn has_tokens(&self) -> bool {
        let kept = self.tokens.as_ref();
        kept.is_some_and(|kept| kept.experts.len() == ROUTED_TOKENS * kept.top_k)
    }

    /// All members have to call it, also one whose pass does not count.
    pub(crate) fn count_use(&mut self, moe: &MoeLayer<B>, routing: &Routing<B>, counts: bool) {
        let [tokens, top_k] = routing.experts_tk.dims();
        let experts = routing.logits_te.dims()[1];
        let sums = (self.routing).get_or_insert_with(|| ExpertSums::of_nothing(experts));
        let norms = output_norms::<B::InnerBackend, B>(moe, routing);
        if !counts {
            return;
        }
        sums.tokens += tokens;
        let chosen = routing.host_experts();
        let gates: Vec<f64> = routing.gates_tk.clone().into_data().iter().collect();
        for (row, &expert) in chosen.iter().enumerate() {
            let (token, place) = (row / top_k, row % top_k);
            sums.rows[expert] += 1.0;
            sums.gates[expert] += gates[row];
            sums.outputs[expert] += gates[row] * norms[place][token];
        }
    }

    pub(crate) fn add_gradients(&mut self, experts: &Experts<B>, grads: &GradientsParams) {
        let parts = [&experts.gate_edf, &experts.up_edf, &experts.down_efd].map(|weight| {
            grads
                .get::<B::InnerBackend, 3>(weight.id)
                .unwrap_or_else(|| weight.val().inner().zeros_like())
        });
        self.gradients = Some(match self.gradients.take() {
            Some(sums) => add(sums, parts),
            None => parts,
        });
    }

    /// Writes down what was measured by all members, over `batches` batches.
    pub(crate) fn finish(
        self,
        layer: &mut LayerEvidence,
        batches: usize,
        members: &Members,
    ) -> Result<(), OperatorError> {
        if let Some([gate, up, down]) = self.gradients {
            let mean = |sum: Tensor<B::InnerBackend, 3>| {
                Ok::<_, TeamError>(members.sum(sum)? / batches.max(1) as f32)
            };
            let norms = Norms::of([mean(gate)?, mean(up)?, mean(down)?]);
            layer.gradients = Some(members.norms(norms)?);
        }
        if let Some(sums) = self.routing {
            layer.routing = Some(sums.over_all(members.team)?.means());
        }
        layer.tokens = self.tokens;
        Ok(())
    }
}

/// Tokens that are still kept.
fn room(kept: &RoutedTokens) -> usize {
    ROUTED_TOKENS - kept.experts.len() / kept.top_k
}

/// For each of the K places norms of the output of every token's expert there, `[K][T]`. All members of a layer's team have
/// to call it.
fn output_norms<I: MoeBackend, B: MoeAutodiffBackend<InnerBackend = I>>(
    moe: &MoeLayer<B>,
    routing: &Routing<B>,
) -> Vec<Vec<f64>> {
    let experts_tk = routing.experts_tk.clone().inner();
    let [tokens, top_k] = experts_tk.dims();
    let x_td = routing.input_td.clone().inner();
    (0..top_k)
        .map(|place| {
            let weights = ExpertWeights {
                gate_edf: moe.experts.gate_edf.val().inner(),
                up_edf: moe.experts.up_edf.val().inner(),
                down_efd: moe.experts.down_efd.val().inner(),
            };
            let expert_t1 = experts_tk.clone().narrow(1, place, 1);
            let gate_t1 = Tensor::ones([tokens, 1], &x_td.device());
            let y_td = I::expert_ffn_of_team(
                x_td.clone(),
                weights,
                expert_t1,
                gate_t1,
                Precision::F32,
                moe.expert_team(),
            );
            let norm_t1 = y_td.square().sum_dim(1).sqrt();
            norm_t1.into_data().iter().collect()
        })
        .collect()
}

fn add<B: Backend>(
    [a, b, c]: [Tensor<B, 3>; 3],
    [x, y, z]: [Tensor<B, 3>; 3],
) -> [Tensor<B, 3>; 3] {
    [a + x, b + y, c + z]
}
