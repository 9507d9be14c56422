//! Growing a model and the state of its optimizer in memory.

use burn::{
    module::{Param, ParamId},
    tensor::backend::Backend,
};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::{
    ExpertGroups, GrowthState, Initializer, MoeLayer, MoeModel, MoeSite, Resized, TieBreak,
    TwoLevel,
};
use upcycle_team::Team;

use crate::{
    block::Block,
    deviation::Deviation,
    error::OperatorError,
    evidence::Evidence,
    experts::rms,
    forecast::{Forecaster, RoutingForecast, RoutingRule},
    grow_experts::{grow_experts, widen_experts},
    grows::Grows,
    layer::LayerGrowth,
    optimizer::{AdamState, OptimizerPolicy},
    parameter::{host, on_device, replace},
    router::RouterRows,
    tie_break::Directions,
    upcycle::{Choice, Upcycle},
};

/// What growing a model did.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    /// What was copied, and why.
    pub choice: Choice,
    /// What did not go as the recipe says; empty where all did.
    pub deviations: Vec<Deviation>,
    /// How routers choose afterwards, on random inputs; none with two-level selection, which depends on more than rows.
    pub forecast: Option<RoutingForecast>,
}

/// What is computed of a layer before anything is changed.
struct Prepared {
    before: RouterRows,
    after: RouterRows,
    directions: Option<Directions>,
    state: GrowthState,
}

impl Upcycle {
    /// Grows every MoE layer of a model, and the moments of its optimizer. Every parameter that is not an expert's or a
    /// router's is kept as it is, and so are the ids of all.
    ///
    /// The optimizer's state is that of Burn's AdamW or of this project's, as `optimizer.to_record()` gives it; an empty
    /// one is that of an optimizer which has taken no step. `evidence` is what [`Evidence::gather`] measured; recipes that
    /// need nothing take `Evidence::default()`.
    ///
    /// With a recipe that releases two-level selection, [`at_step`](Self::at_step) says where it counts from, and the
    /// model has to be told every step with [`MoeModel::at_step`].
    ///
    /// Where [several devices](MoeLayer::shard) hold the experts of a layer, all of them grow the model with the same evidence:
    /// each makes the experts that it is to hold, to the bit as one device does. The optimizer's state then has the moments of
    /// these experts, and those of routers as a whole.
    ///
    /// # Errors
    /// If the recipe cannot be carried out on this model; nothing has been changed then. If another device fails, the model may
    /// have been changed in part.
    pub fn grow<B, M, O>(
        &self,
        model: &mut M,
        optimizer: &mut O,
        evidence: &Evidence,
    ) -> Result<Grown, OperatorError>
    where
        B: MoeAutodiffBackend,
        M: MoeModel<B>,
        O: AdamState<B>,
    {
        let choice = self.plan(&model.growth_states(), evidence)?;
        self.carry_out(model, optimizer, evidence, choice, None)
    }

    /// Grows a model as was chosen. `spread` are the devices that are to hold its experts where every one holds them all before.
    pub(crate) fn carry_out<B, M, O>(
        &self,
        model: &mut M,
        optimizer: &mut O,
        evidence: &Evidence,
        choice: Choice,
        spread: Option<&Team>,
    ) -> Result<Grown, OperatorError>
    where
        B: MoeAutodiffBackend,
        M: MoeModel<B>,
        O: AdamState<B>,
    {
        let states = model.growth_states();
        let two_levels = self.two_levels(&states, &choice.plan)?;
        let layers = || {
            let plans = choice.plan.layers.iter().enumerate();
            plans.map(|(index, plan)| self.layer(index, plan))
        };
        let resets = matches!(self.recipe.optimizer, OptimizerPolicy::Reset {});
        let mut deviations = Vec::new();
        let mut prepared = Vec::new();
        let mut forecaster = Forecaster::default();
        let sampled = Forecaster::layers(choice.plan.layers.len());
        check_order(model)?;
        let sites = model.moe_sites();
        let mut blocks = Vec::new();
        for ((site, growth), two_level) in sites.iter().zip(layers()).zip(two_levels) {
            let block = match spread {
                Some(team) => Block::of_whole(growth.plan, team.clone()),
                None => Block::of(growth.plan, site.layer.expert_team().clone()),
            };
            self.check_members(block.members())?;
            check_shapes(site, &growth, &block)?;
            blocks.push(block);
            if !resets && !optimizer.is_empty() {
                check_moments::<B, O>(site.layer, growth.index, optimizer)?;
            }
            let plain = two_level.is_none();
            let layer = self.prepare(site, &growth, evidence, two_level, &mut deviations)?;
            let config = site.layer.router.config();
            let rule = RoutingRule::of(config);
            let top_k = [
                config.top_k,
                layer.state.resized.top_k.unwrap_or(config.top_k),
            ];
            if plain && sampled.contains(&growth.index) {
                let scale = site.norm_d.map(|norm| host(norm.val().inner()));
                let scale = scale.unwrap_or_else(|| vec![1.0; layer.before.d]);
                // Group by group, as the rule has it.
                let [old, new] = [
                    order(config.groups.as_ref(), growth.plan.experts()),
                    order(layer.state.groups.as_ref(), layer.state.experts()),
                ];
                let mut place = vec![0; old.len()];
                (old.iter().enumerate()).for_each(|(index, &expert)| place[expert] = index);
                let source_of = new.iter().map(|&it| place[growth.plan.source_of()[it]]);
                let source_of: Vec<usize> = source_of.collect();
                let [before, after] = [layer.before.in_order(&old), layer.after.in_order(&new)];
                let rows = [&before, &after];
                forecaster.add(&rule, growth.index, rows, &source_of, &scale, top_k);
            }
            prepared.push(layer);
        }
        drop(sites);

        // From here on nothing can fail but other devices.
        if resets {
            optimizer.clear();
        }
        let policy = &self.recipe.optimizer;
        let layers = model.moe_layers_mut().into_iter().zip(layers()).zip(blocks);
        for (((layer, growth), block), prepared) in layers.zip(prepared) {
            let experts = &mut layer.experts;
            match (self.recipe.grows, prepared.state.resized.d_expert) {
                (Grows::Width, Some(width)) => widen_experts(experts, optimizer, width)?,
                _ => deviations.extend(grow_experts(experts, optimizer, policy, &growth, &block)?),
            }
            if let Some(team) = spread {
                experts.team = team.clone();
            }
            grow_router(layer, optimizer, policy, &growth, prepared)?;
        }
        Ok(Grown {
            forecast: forecaster.finish(),
            choice,
            deviations,
        })
    }

    /// Router rows, tie-break and growths of a layer afterwards.
    fn prepare<B: MoeAutodiffBackend>(
        &self,
        site: &MoeSite<B>,
        growth: &LayerGrowth,
        evidence: &Evidence,
        two_level: Option<TwoLevel>,
        deviations: &mut Vec<Deviation>,
    ) -> Result<Prepared, OperatorError> {
        let router = &site.layer.router;
        let [_, d] = router.weight_ed.dims();
        let rms = site.norm_d.map(|norm| rms(&host(norm.val().inner())));
        let before = RouterRows {
            weight: host(router.weight_ed.val().inner()),
            bias: host(router.selection_bias_e.val()),
            d,
            input_rms: rms.filter(|&rms| rms > 0.0).unwrap_or(1.0),
        };
        let (after, copied) = growth.rows(&before);
        let directions = growth.directions(evidence.layer(growth.index), d)?;
        let (directions, random) = directions.unzip();
        deviations.extend(copied.into_iter().chain(random.flatten()));
        let lineage = site.layer.lineage().clone();
        let lineage = lineage.grown(growth.plan.sources().clone());
        let mismatch = || {
            let problem = format!(
                "the lineage of MoE layer {} does not end at its experts",
                growth.index
            );
            OperatorError::ModelMismatch(problem)
        };
        let config = router.config();
        let [_, _, width] = site.layer.experts.gate_edf.dims();
        let shape = [growth.plan.experts(), config.top_k, width];
        let [_, top_k, d_expert] = self.recipe.grows.shape(shape, self.target_experts)?;
        let already = site.layer.growth_state().resized;
        let resized = Resized {
            top_k: (top_k != config.top_k).then_some(top_k).or(already.top_k),
            d_expert: (d_expert != width).then_some(d_expert).or(already.d_expert),
        };
        let state = GrowthState {
            lineage: lineage.ok_or_else(mismatch)?,
            two_level,
            boost: self.recipe.boost.map(|boost| boost.begun_at(self.step)),
            resized,
            groups: (config.groups.as_ref()).map(|it| it.grown(growth.plan.sources())),
        };
        (state.check(config.top_k)).map_err(|error| {
            OperatorError::GrownModel(format!("MoE layer {}: {error}", growth.index))
        })?;
        Ok(Prepared {
            before,
            after,
            directions,
            state,
        })
    }
}

/// All experts, group by group where there are groups.
fn order(groups: Option<&ExpertGroups>, experts: usize) -> Vec<usize> {
    groups.map_or_else(|| (0..experts).collect(), ExpertGroups::order)
}

/// A model must show the same layers in the same order to be read and to be changed, each once.
fn check_order<B: MoeAutodiffBackend, M: MoeModel<B>>(model: &mut M) -> Result<(), OperatorError> {
    let read = model.moe_sites().into_iter();
    let read: Vec<ParamId> = read.map(|site| site.layer.router.weight_ed.id).collect();
    let changed = model.moe_layers_mut().into_iter();
    let changed: Vec<ParamId> = changed.map(|layer| layer.router.weight_ed.id).collect();
    if read != changed {
        let problem = "`moe_sites` and `moe_layers_mut` show other layers, or in another order";
        return Err(OperatorError::ModelMismatch(problem.into()));
    }
    match (1..read.len()).find(|&index| read[..index].contains(&read[index])) {
        Some(index) => Err(OperatorError::ModelMismatch(format!(
            "MoE layer {index} is shown twice"
        ))),
        None => Ok(()),
    }
}

/// Every parameter of a layer must have the plan's experts, or its block of them.
fn check_shapes<B: MoeAutodiffBackend>(
    site: &MoeSite<B>,
    growth: &LayerGrowth,
    block: &Block,
) -> Result<(), OperatorError> {
    let (router, experts) = (&site.layer.router, &site.layer.experts);
    let [rows, d] = router.weight_ed.dims();
    let [_, _, f] = experts.gate_edf.dims();
    let e = block.before().len();
    let fits = rows == growth.plan.experts()
        && router.selection_bias_e.dims() == [rows]
        && experts.gate_edf.dims() == [e, d, f]
        && experts.up_edf.dims() == [e, d, f]
        && experts.down_efd.dims() == [e, f, d];
    if fits {
        return Ok(());
    }
    Err(OperatorError::ModelMismatch(format!(
        "the parameters of MoE layer {} have shapes {:?} (router), {:?}, {:?} and {:?} (experts), which are not those of {} experts",
        growth.index,
        router.weight_ed.dims(),
        experts.gate_edf.dims(),
        experts.up_edf.dims(),
        experts.down_efd.dims(),
        growth.plan.experts()
    )))
}

/// Moments of a trained parameter must be of its shape; frozen ones have none.
fn check_moments<B: MoeAutodiffBackend, O: AdamState<B>>(
    layer: &MoeLayer<B>,
    index: usize,
    optimizer: &O,
) -> Result<(), OperatorError> {
    let in_layer = |error| match error {
        OperatorError::OptimizerMismatch(problem) => {
            OperatorError::OptimizerMismatch(format!("MoE layer {index}: {problem}"))
        }
        other => other,
    };
    let router = &layer.router.weight_ed;
    let experts = &layer.experts;
    let trained = [&experts.gate_edf, &experts.up_edf, &experts.down_efd];
    if router.is_require_grad() {
        let moments = optimizer.moments_of(router.id, router.dims());
        moments.map_err(in_layer)?;
    }
    for weight in trained.into_iter().filter(|it| it.is_require_grad()) {
        let moments = optimizer.moments_of(weight.id, weight.dims());
        moments.map_err(in_layer)?;
    }
    Ok(())
}

/// Router rows and biases of one layer, the rows' moments, and what the layer knows of its growths.
fn grow_router<B: MoeAutodiffBackend, O: AdamState<B>>(
    layer: &mut MoeLayer<B>,
    optimizer: &mut O,
    policy: &OptimizerPolicy,
    growth: &LayerGrowth,
    prepared: Prepared,
) -> Result<(), OperatorError> {
    let Prepared {
        after: rows,
        directions,
        state,
        ..
    } = prepared;
    let router = &mut layer.router;
    let before = router.weight_ed.val().inner();
    let device = before.device();
    let (e, d) = (rows.bias.len(), rows.d);
    let after = on_device(rows.weight, [e, d], &device);
    if router.weight_ed.is_require_grad() {
        let id = router.weight_ed.id;
        let block = Block::whole(growth.plan);
        policy.grow(optimizer, id, &before, &after, &block)?;
    }
    replace(&mut router.weight_ed, after);
    let bias = on_device(rows.bias, [e], &device);
    replace(&mut router.selection_bias_e, bias);
    if let Some(directions) = directions {
        router.tie_breaks.push(tie_break(directions, d, &device));
    }
    layer.set_growth_state(state);
    Ok(())
}

fn tie_break<B: Backend>(directions: Directions, d: usize, device: &B::Device) -> TieBreak<B> {
    let experts = directions.offset.len();
    let direction_ed = on_device(directions.direction, [experts, d], device);
    let offset_e = on_device(directions.offset, [experts], device);
    TieBreak {
        direction_ed: Param::initialized(ParamId::new(), direction_ed),
        offset_e: Param::initialized(ParamId::new(), offset_e),
        replica_bias_e: Initializer::state([experts], device),
    }
}
