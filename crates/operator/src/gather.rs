//! Measures what a recipe needs to know about a model.

use burn::{
    module::AutodiffModule,
    optim::GradientsParams,
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::{ExpertWeights, MoeAutodiffBackend, MoeBackend, Precision};
use upcycle_moe::{Experts, MoeLayer, MoeModel, Routing};

use crate::{
    error::OperatorError,
    evidence::{Evidence, ExpertUse, LayerEvidence, Norms, RoutedTokens},
    measurement::Measurement,
    optimizer::AdamState,
    recipe::Recipe,
};

/// Tokens kept for each layer: centroids need no more.
const ROUTED_TOKENS: usize = 8192;

/// What one batch gave.
#[derive(Debug)]
pub struct ForwardPass<B: MoeBackend> {
    /// Mean loss, `[1]`, of which gradients are taken where a recipe needs them.
    pub loss: Tensor<B, 1>,
    /// Routing of every MoE layer, in order.
    pub routing: Vec<Routing<B>>,
}

impl Evidence {
    /// Measures what a recipe needs, and nothing else: of the weights, of the optimizer's state, and over at most `batches`
    /// batches, of which `forward` runs the model over one, given its number.
    ///
    /// # Errors
    /// Those of `forward`; if it gives another number of routings than the model has MoE layers, or the optimizer's state
    /// is of another model.
    pub fn gather<B, M, O, E>(
        recipe: &Recipe,
        model: &M,
        optimizer: &O,
        batches: usize,
        mut forward: impl FnMut(&M, u64) -> Result<ForwardPass<B>, E>,
    ) -> Result<Self, E>
    where
        B: MoeAutodiffBackend,
        M: MoeModel<B> + AutodiffModule<B>,
        O: AdamState<B>,
        E: From<OperatorError>,
    {
        let needed = recipe.measurements();
        let needs = |measurement| needed.contains(&measurement);
        let sites = model.moe_sites();
        let mut layers = (sites.iter())
            .map(|site| of_parameters(site.layer, optimizer, &needed))
            .collect::<Result<Vec<_>, _>>()?;
        let [gradients, use_, tokens] = [
            Measurement::Gradients,
            Measurement::Routing,
            Measurement::RoutedTokens,
        ]
        .map(needs);
        if !(gradients || use_ || tokens) {
            return Ok(Self { layers });
        }

        let mut sums: Vec<LayerSums<B>> = Vec::new();
        sums.resize_with(sites.len(), LayerSums::default);
        for index in 0..batches as u64 {
            if !(gradients || use_) && sums.iter().all(LayerSums::has_tokens) {
                break;
            }
            let ForwardPass { loss, routing } = forward(model, index)?;
            if routing.len() != sites.len() {
                let mismatch = OperatorError::EvidenceMismatch {
                    what: "MoE layers with a routing",
                    found: routing.len(),
                    expected: sites.len(),
                };
                return Err(mismatch.into());
            }
            for ((sums, site), routing) in sums.iter_mut().zip(&sites).zip(&routing) {
                if tokens {
                    sums.keep_tokens(routing);
                }
                if use_ {
                    sums.count_use(site.layer, routing);
                }
            }
            if gradients {
                let grads = GradientsParams::from_grads::<B, _>(loss.backward(), model);
                for (sums, site) in sums.iter_mut().zip(&sites) {
                    sums.add_gradients(&site.layer.experts, &grads);
                }
            }
        }
        for (layer, sums) in layers.iter_mut().zip(sums) {
            let batches = batches.max(1) as f32;
            layer.gradients = sums
                .gradients
                .map(|sums| Norms::of(sums.map(|sum| sum / batches)));
            layer.routing = sums.routing.map(ExpertSums::means);
            layer.tokens = sums.tokens;
        }
        Ok(Self { layers })
    }
}

/// Norms of weights and of Adam's second moments as far as they are `needed`. The moments are none where the optimizer has
/// taken no step.
fn of_parameters<B: MoeAutodiffBackend, O: AdamState<B>>(
    moe: &MoeLayer<B>,
    optimizer: &O,
    needed: &[Measurement],
) -> Result<LayerEvidence, OperatorError> {
    let experts = &moe.experts;
    let matrices = [&experts.gate_edf, &experts.up_edf, &experts.down_efd];
    let mut layer = LayerEvidence::NOTHING;
    if needed.contains(&Measurement::Weights) {
        layer.weights = Some(Norms::of(matrices.map(|matrix| matrix.val().inner())));
    }
    if needed.contains(&Measurement::SecondMoments) && !optimizer.is_empty() {
        let [gate, up, down] = matrices.map(|matrix| {
            let moments = optimizer.moments_of(matrix.id, matrix.dims());
            moments.map(|moments| moments.moment_2)
        });
        layer.second_moments = Some(Norms::of([gate?, up?, down?]));
    }
    Ok(layer)
}

/// What the batches of one layer add up to.
struct LayerSums<B: MoeAutodiffBackend> {
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
#[derive(Default)]
struct ExpertSums {
    tokens: usize,
    rows: Vec<f64>,
    gates: Vec<f64>,
    outputs: Vec<f64>,
}

impl ExpertSums {
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
    fn keep_tokens(&mut self, routing: &Routing<B>) {
        let top_k = routing.experts_tk.dims()[1];
        let kept = self.tokens.get_or_insert_with(|| RoutedTokens {
            inputs: Vec::new(),
            experts: Vec::new(),
            top_k,
        });
        let [tokens, d] = routing.input_td.dims();
        let more = tokens.min(ROUTED_TOKENS - kept.experts.len() / top_k);
        if more > 0 {
            let inputs = routing.input_td.clone().narrow(0, 0, more).into_data();
            kept.inputs.reserve(more * d);
            kept.inputs.extend(inputs.iter::<f32>());
            kept.experts
                .extend(routing.host_experts().into_iter().take(more * top_k));
        }
    }

    /// Whether more tokens would not be kept.
    fn has_tokens(&self) -> bool {
        let kept = self.tokens.as_ref();
        kept.is_some_and(|kept| kept.experts.len() == ROUTED_TOKENS * kept.top_k)
    }

    fn count_use(&mut self, moe: &MoeLayer<B>, routing: &Routing<B>) {
        let [tokens, top_k] = routing.experts_tk.dims();
        let experts = routing.logits_te.dims()[1];
        let sums = self.routing.get_or_insert_with(|| ExpertSums {
            rows: vec![0.0; experts],
            gates: vec![0.0; experts],
            outputs: vec![0.0; experts],
            tokens: 0,
        });
        sums.tokens += tokens;
        let chosen = routing.host_experts();
        let gates: Vec<f64> = routing.gates_tk.clone().into_data().iter().collect();
        let norms = output_norms::<B::InnerBackend, B>(moe, routing);
        for (row, &expert) in chosen.iter().enumerate() {
            let (token, place) = (row / top_k, row % top_k);
            sums.rows[expert] += 1.0;
            sums.gates[expert] += gates[row];
            sums.outputs[expert] += gates[row] * norms[place][token];
        }
    }

    fn add_gradients(&mut self, experts: &Experts<B>, grads: &GradientsParams) {
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
}

/// For each of the K places the norm of the output of every token's expert there, `[K][T]`.
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
            let y_td = I::expert_ffn(x_td.clone(), weights, expert_t1, gate_t1, Precision::F32);
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
