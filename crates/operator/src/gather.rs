//! Measures what a recipe needs to know about a model.

use burn::{module::AutodiffModule, optim::GradientsParams, tensor::Tensor};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_moe::{MoeLayer, MoeModel, Routing};
use upcycle_team::Team;

use crate::{
    error::OperatorError,
    evidence::{Evidence, LayerEvidence, Norms},
    layer_sums::LayerSums,
    measurement::Measurement,
    members::Members,
    optimizer::AdamState,
    recipe::Recipe,
};

/// What one batch gave.
#[derive(Debug)]
pub struct ForwardPass<B: MoeBackend> {
    /// Mean loss, `[1]`, of which gradients are taken where a recipe needs them.
    pub loss: Tensor<B, 1>,
    /// Routing of every MoE layer, in order.
    pub routing: Vec<Routing<B>>,
}

/// What a member's share of one batch gave.
#[derive(Debug)]
pub struct Share<B: MoeBackend> {
    /// The pass, whose loss is the share of the batch's.
    pub pass: ForwardPass<B>,
    /// Whether its tokens are of the batch. A member for which no sequence is left runs any one, with a loss of 0, since the
    /// experts that it holds are needed by the others.
    pub counts: bool,
}

impl Evidence {
    /// Measures what a recipe needs, and nothing else: of the weights, of the optimizer's state, and over at most `batches`
    /// batches, of which `forward` runs the model over one, given its number.
    ///
    /// # Errors
    /// Those of `forward`; if it gives another number of routings than the model has MoE layers, the optimizer's state
    /// is of another model, or the model's experts are spread over several devices.
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
        let whole = |model: &M, index| {
            let pass = forward(model, index)?;
            Ok(Share { pass, counts: true })
        };
        Self::gather_in_team(&Team::alone(), recipe, model, optimizer, batches, whole)
    }

    /// [`gather`](Self::gather) by all devices of a team at once, which all get the same evidence. The experts of a layer may be
    /// spread over groups of consecutive members.
    ///
    /// `forward` runs the model over this member's share of a batch: shares are in the order of ranks, and their losses add up
    /// to the mean loss of the batch. So the gradients of experts, to which the tokens of all members come, add up as on one
    /// device.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather); if the groups are no part of the team, or another member fails.
    pub fn gather_in_team<B, M, O, E>(
        team: &Team,
        recipe: &Recipe,
        model: &M,
        optimizer: &O,
        batches: usize,
        mut forward: impl FnMut(&M, u64) -> Result<Share<B>, E>,
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
        let members = Members::of(team, &sites)?;
        let mut layers = (sites.iter())
            .map(|site| of_parameters(site.layer, optimizer, &needed, &members))
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
            let Share { pass, counts } = forward(model, index)?;
            let ForwardPass { loss, routing } = pass;
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
                    sums.keep_tokens(routing, counts, team)?;
                }
                if use_ {
                    sums.count_use(site.layer, routing, counts);
                }
            }
            if gradients {
                let grads = GradientsParams::from_grads::<B, _>(loss.backward(), model);
                for (sums, site) in sums.iter_mut().zip(&sites) {
                    sums.add_gradients(&site.layer.experts, &grads);
                }
            }
            if let Some(fault) = team.fault() {
                return Err(OperatorError::Team(fault).into());
            }
        }
        for (layer, sums) in layers.iter_mut().zip(sums) {
            sums.finish(layer, batches, &members)?;
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
    members: &Members,
) -> Result<LayerEvidence, OperatorError> {
    let experts = &moe.experts;
    let matrices = [&experts.gate_edf, &experts.up_edf, &experts.down_efd];
    let mut layer = LayerEvidence::NOTHING;
    if needed.contains(&Measurement::Weights) {
        let norms = Norms::of(matrices.map(|matrix| matrix.val().inner()));
        layer.weights = Some(members.norms(norms)?);
    }
    if needed.contains(&Measurement::SecondMoments) && !optimizer.is_empty() {
        let [gate, up, down] = matrices.map(|matrix| {
            let moments = optimizer.moments_of(matrix.id, matrix.dims());
            moments.map(|moments| moments.moment_2)
        });
        let norms = Norms::of([gate?, up?, down?]);
        layer.second_moments = Some(members.norms(norms)?);
    }
    Ok(layer)
}
