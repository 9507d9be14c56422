//! Measures what a recipe needs to know about a model.

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Tensor, backend::Backend},
};
use upcycle_data::{Dataset, Split};
use upcycle_kernels::{ExpertWeights, MoeAutodiffBackend, MoeBackend, Precision};
use upcycle_moe::{Experts, MoeLayer, Routing};
use upcycle_operator::{Evidence, ExpertUse, Measurement, Norms, RoutedTokens};

use crate::{checkpoint::Checkpoint, config::UpcycleSpec, error::TrainError, evaluate::tensors};

/// Tokens kept for each layer: centroids need no more.
const ROUTED_TOKENS: usize = 8192;

/// Runs the model over batches of the continued-pre-training split; measures nothing that the recipe does not need.
pub fn gather<B: MoeAutodiffBackend>(
    parent: &Checkpoint<B>,
    data: &Dataset,
    spec: &UpcycleSpec,
    device: &B::Device,
) -> Result<Evidence, TrainError> {
    let needed = spec.recipe.measurements();
    let needs = |measurement| needed.contains(&measurement);
    let model = &parent.model;
    let mut evidence = Evidence::default();
    if needs(Measurement::Weights) || needs(Measurement::SecondMoments) {
        let record = model.clone().into_record();
        evidence = Evidence::of_records(&record, &parent.optimizer, &needed)?;
    }
    let [gradients, use_, tokens] = [
        Measurement::Gradients,
        Measurement::Routing,
        Measurement::RoutedTokens,
    ]
    .map(needs);
    if !(gradients || use_ || tokens) {
        return Ok(evidence);
    }

    let mut layers: Vec<LayerSums<B>> = Vec::new();
    layers.resize_with(model.config().moe_layers(), LayerSums::default);
    for index in 0..spec.evidence_batches as u64 {
        if !(gradients || use_) && layers.iter().all(LayerSums::has_tokens) {
            break;
        }
        let batch = data.batch(
            Split::Cpt,
            spec.data_seed,
            index,
            spec.batch.rows,
            spec.batch.context,
        )?;
        let (inputs, targets) = tensors::<B>(&batch, device);
        let output = model.forward(inputs, targets, spec.precision);
        for ((sums, moe), routing) in layers
            .iter_mut()
            .zip(model.moe_layers())
            .zip(&output.routing)
        {
            if tokens {
                sums.keep_tokens(routing);
            }
            if use_ {
                sums.count_use(moe, routing, spec.precision);
            }
        }
        if gradients {
            let scored = batch.scored() as f32;
            let grads = (output.loss_t.sum() / scored).backward();
            let grads = GradientsParams::from_grads::<B, _>(grads, model);
            for (sums, moe) in layers.iter_mut().zip(model.moe_layers()) {
                sums.add_gradients(&moe.experts, &grads);
            }
        }
    }
    evidence.layers.resize_with(layers.len(), Default::default);
    for (layer, sums) in evidence.layers.iter_mut().zip(layers) {
        let batches = spec.evidence_batches.max(1) as f32;
        layer.gradients = sums
            .gradients
            .map(|sums| Norms::of(sums.map(|sum| sum / batches)));
        layer.routing = sums.routing.map(ExpertSums::means);
        layer.tokens = sums.tokens;
    }
    Ok(evidence)
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

    fn count_use(&mut self, moe: &MoeLayer<B>, routing: &Routing<B>, precision: Precision) {
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
        let norms = output_norms::<B::InnerBackend, B>(moe, routing, precision);
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
    precision: Precision,
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
            let y_td = I::expert_ffn(x_td.clone(), weights, expert_t1, gate_t1, precision);
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
