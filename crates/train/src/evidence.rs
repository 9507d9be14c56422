//! Measures what a recipe needs to know about a model.

use burn::{
    optim::GradientsParams,
    tensor::{Tensor, backend::Backend},
};
use upcycle_data::{Dataset, Split};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::Lm;
use upcycle_operator::{Evidence, RoutedTokens, gradient_squared};

use crate::{
    config::UpcycleSpec,
    error::TrainError,
    evaluate::{host_indices, tensors},
};

/// Tokens kept for each layer: centroids need no more.
const ROUTED_TOKENS: usize = 8192;

/// Runs the model over batches of the continued-pre-training split; measures nothing that the recipe does not need.
pub fn gather<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    data: &Dataset,
    spec: &UpcycleSpec,
    device: &B::Device,
) -> Result<Evidence, TrainError> {
    let recipe = &spec.recipe;
    let layers = model.config().moe_layers();
    let mut gradients: Vec<Option<[Tensor<B::InnerBackend, 3>; 3]>> = vec![None; layers];
    let mut tokens: Vec<RoutedTokens> = Vec::new();
    if !recipe.needs_gradients() && !recipe.needs_routed_tokens() {
        return Ok(Evidence::default());
    }
    for index in 0..spec.evidence_batches as u64 {
        let batch = data.batch(
            Split::Cpt,
            spec.data_seed,
            index,
            spec.batch.rows,
            spec.batch.context,
        )?;
        let (inputs, targets) = tensors::<B>(&batch, device);
        let output = model.forward(inputs, targets, spec.precision);
        if recipe.needs_routed_tokens() {
            for (layer, routing) in output.routing.iter().enumerate() {
                let top_k = routing.experts_tk.dims()[1];
                let inputs = routing.input_td.clone().into_data();
                let inputs: Vec<f32> = inputs.iter::<f32>().collect();
                let experts = host_indices(routing.experts_tk.clone());
                if let Some(kept) = tokens.get_mut(layer) {
                    if kept.experts.len() < ROUTED_TOKENS * top_k {
                        kept.inputs.extend(inputs);
                        kept.experts.extend(experts);
                    }
                } else {
                    tokens.push(RoutedTokens {
                        inputs,
                        experts,
                        top_k,
                    });
                }
            }
        }
        if recipe.needs_gradients() {
            let scored = batch.scored() as f32;
            let grads = (output.loss_t.sum() / scored).backward();
            let grads = GradientsParams::from_grads::<B, _>(grads, model);
            for (sum, moe) in gradients.iter_mut().zip(model.moe_layers()) {
                let experts = &moe.experts;
                let parts = [&experts.gate_edf, &experts.up_edf, &experts.down_efd].map(|weight| {
                    grads
                        .get::<B::InnerBackend, 3>(weight.id)
                        .unwrap_or_else(|| weight.val().inner().zeros_like())
                });
                *sum = Some(match sum.take() {
                    Some(sum) => add(sum, parts),
                    None => parts,
                });
            }
        }
    }
    let count = spec.evidence_batches.max(1) as f32;
    let gradient_squared = recipe.needs_gradients().then(|| {
        gradients
            .into_iter()
            .flatten()
            .map(|sum| gradient_squared(sum.map(|sum| sum / count)))
            .collect()
    });
    Ok(Evidence {
        gradient_squared,
        routed_tokens: recipe.needs_routed_tokens().then_some(tokens),
    })
}

fn add<B: Backend>(
    [a, b, c]: [Tensor<B, 3>; 3],
    [x, y, z]: [Tensor<B, 3>; 3],
) -> [Tensor<B, 3>; 3] {
    [a + x, b + y, c + z]
}
