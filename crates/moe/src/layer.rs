//! The Mixture-of-Experts layer: router, experts, and where the experts come from.

use std::ops::Range;

use burn::{
    module::{Module, Param, ParamId},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_team::Team;

use crate::{
    balancing::BalancingConfig,
    expert_groups::ExpertGroups,
    experts::{Experts, ShardError, check_blocks},
    feed_forward::SharedExpert,
    init::Initializer,
    lineage::Lineage,
    router::{Router, RouterConfig, Routing, ScoreFunction},
    two_level::TwoLevel,
};

/// Shape of a [`MoeLayer`].
#[derive(Debug, Clone, PartialEq)]
pub struct MoeLayerConfig {
    /// The router.
    pub router: RouterConfig,
    /// Hidden width of an expert, F.
    pub d_expert: usize,
    /// The shared expert; none, as a rule.
    pub shared: Option<SharedExpertConfig>,
    /// Further scale of the down projections at initialisation.
    pub residual_scale: f32,
}

/// Shape of a [`SharedExpert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpertConfig {
    /// Its hidden width.
    pub width: usize,
    /// Whether its output is weighted by a sigmoid of the token.
    pub gated: bool,
}

/// A dropless Mixture-of-Experts layer.
///
/// It carries what it needs to know of its growths, so that a grown layer works in any model. A record holds its
/// parameters alone: to load the record of a grown layer, [`restore`](Self::restore) its [`GrowthState`] first.
#[derive(Module, Debug)]
pub struct MoeLayer<B: Backend> {
    /// Chooses experts and gates.
    pub router: Router<B>,
    /// The experts.
    pub experts: Experts<B>,
    /// What every token uses beside them. Growing leaves it as it is.
    pub shared: Option<SharedExpert<B>>,
    #[module(skip)]
    lineage: Lineage,
    #[module(skip)]
    boost: Option<Boost>,
    #[module(skip)]
    resized: Resized,
}

/// What a growth made of a layer's experts of a token and of the width of its experts; none where they are as ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resized {
    /// Experts of a token now, K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Hidden width of an expert now, F.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_expert: Option<usize>,
}

/// Learning rates of a grown layer for some steps after its growth, so that replicas part sooner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boost {
    /// Factor of the experts' learning rate.
    pub experts: f32,
    /// Factor of that of the router rows.
    pub router: f32,
    /// Step from which on all rates are as usual again.
    pub until: u64,
}

/// What a layer knows of its growths: all that a record of its parameters does not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowthState {
    /// Where its experts come from.
    pub lineage: Lineage,
    /// How replicas are kept apart; none for a plain top K.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub two_level: Option<TwoLevel>,
    /// Learning rates after the last growth; none where they are as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boost: Option<Boost>,
    /// K and F where a growth changed them.
    #[serde(default, skip_serializing_if = "Resized::is_none")]
    pub resized: Resized,
    /// Groups of its experts; none where a token chooses among all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<ExpertGroups>,
}

impl Resized {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a layer is said to know of its growths and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct GrowthError(pub String);

impl MoeLayerConfig {
    /// A layer of `experts` experts of hidden width `d_expert`, `top_k` a token, for tokens of width `d_model`: sigmoid
    /// scores, gates that sum to 1.
    pub fn new(d_model: usize, experts: usize, top_k: usize, d_expert: usize) -> Self {
        Self {
            router: RouterConfig {
                d_model,
                experts,
                top_k,
                score: ScoreFunction::Sigmoid,
                renormalize: true,
                scale: 1.0,
                groups: None,
                two_level: None,
            },
            d_expert,
            shared: None,
            residual_scale: 1.0,
        }
    }

    /// A layer named `name`, whose parameters depend on the initializer's seed and that name alone.
    pub fn init<B: Backend>(
        &self,
        name: &str,
        initializer: &Initializer,
        device: &B::Device,
    ) -> MoeLayer<B> {
        self.init_sharded(name, initializer, &Team::alone(), device)
    }

    /// The same layer with those experts alone that this member of a team of devices holds. The team's size divides the number
    /// of experts.
    pub fn init_sharded<B: Backend>(
        &self,
        name: &str,
        initializer: &Initializer,
        team: &Team,
        device: &B::Device,
    ) -> MoeLayer<B> {
        let shape = [self.router.experts, self.router.d_model, self.d_expert];
        let shared = |shared: SharedExpertConfig| {
            SharedExpert::init(
                &format!("{name}.shared"),
                [self.router.d_model, shared.width],
                shared.gated,
                self.residual_scale,
                initializer,
                device,
            )
        };
        MoeLayer {
            router: self
                .router
                .init(&format!("{name}.router"), initializer, device),
            experts: Experts::init(
                &format!("{name}.experts"),
                shape,
                self.residual_scale,
                initializer,
                team,
                device,
            ),
            shared: self.shared.map(shared),
            lineage: Lineage::new(self.router.experts),
            boost: None,
            resized: Resized::default(),
        }
    }
}

impl GrowthState {
    /// That of a layer that was never grown, without groups of experts.
    pub fn new(experts: usize) -> Self {
        Self {
            lineage: Lineage::new(experts),
            two_level: None,
            boost: None,
            resized: Resized::default(),
            groups: None,
        }
    }

    /// Number of experts now, E.
    pub fn experts(&self) -> usize {
        self.lineage.experts()
    }

    /// That of the layer at a step of training: two-level selection that is released is over, as are learning rates that have
    /// had their steps.
    #[must_use]
    pub fn at_step(&self, step: u64) -> Self {
        let held = |two_level: &TwoLevel| two_level.hold_at(step) > 0.0;
        Self {
            lineage: self.lineage.clone(),
            two_level: self.two_level.clone().filter(held),
            boost: self.boost.filter(|boost| step < boost.until),
            resized: self.resized,
            groups: self.groups.clone(),
        }
    }

    /// Checks that growths lead from at least `top_k` sources to the experts of now, each from the experts of the one
    /// before. Where a growth changed K, that is what counts in place of `top_k`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, top_k: usize) -> Result<(), GrowthError> {
        let top_k = self.resized.top_k.unwrap_or(top_k);
        let experts = self.experts();
        let fail = |problem| Err(GrowthError(problem));
        if !self.lineage.is_whole() {
            return fail("its lineage does not lead from each growth to the next".into());
        }
        if top_k > experts {
            return fail(format!("top-{top_k} of {experts} experts"));
        }
        if let Some(groups) = &self.groups {
            let sizes = groups.of.replicas();
            let equal = sizes.iter().all(|&size| size == sizes[0]);
            if groups.of.experts() != experts || !equal || groups.top * sizes[0] < top_k {
                return fail(format!(
                    "its groups of {sizes:?} experts, of which a token uses {}, do not fit top-{top_k} of {experts}",
                    groups.top
                ));
            }
        }
        let Some(two_level) = &self.two_level else {
            return Ok(());
        };
        let mut growths = two_level.growths.iter().map(|growth| &growth.sources);
        let first = growths.clone().next().map_or(0, |sources| sources.count());
        let last = growths.try_fold(first, |experts, growth| {
            (growth.count() == experts).then(|| growth.experts())
        });
        if last == Some(experts) && first >= top_k && first > 0 {
            return Ok(());
        }
        fail(format!(
            "the growths of its two-level selection do not lead from at least top-K = {top_k} to {experts} experts"
        ))
    }
}

impl<B: Backend> MoeLayer<B> {
    /// A layer of these parts, whose experts are no replicas, without a shared expert.
    pub fn from_parts(router: Router<B>, experts: Experts<B>) -> Self {
        Self {
            lineage: Lineage::new(router.config.experts),
            boost: None,
            resized: Resized::default(),
            shared: None,
            router,
            experts,
        }
    }

    /// Where its experts come from.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What it knows of its growths.
    pub fn growth_state(&self) -> GrowthState {
        GrowthState {
            lineage: self.lineage.clone(),
            two_level: self.router.config.two_level.clone(),
            boost: self.boost,
            resized: self.resized,
            groups: self.router.config.groups.clone(),
        }
    }

    /// The devices that its experts are spread over; [alone](Team::alone) where all of them are here.
    pub fn expert_team(&self) -> &Team {
        &self.experts.team
    }

    /// Which experts of the layer are here, all or a block of them.
    pub fn expert_block(&self) -> Range<usize> {
        self.experts.block()
    }

    /// Spreads the experts over a team of devices, each of which has this layer: of its experts, this member keeps its own,
    /// with the ids of their parameters.
    ///
    /// # Errors
    /// If they are spread already, or there are not equally many for each device; nothing has been changed then.
    pub fn shard(&mut self, team: Team) -> Result<(), ShardError> {
        self.experts.check_shard(&team)?;
        self.experts.shard(team);
        Ok(())
    }

    /// Whether the layer can become what a state says.
    pub(crate) fn check(&self, state: &GrowthState) -> Result<(), GrowthError> {
        state.check(self.router.config.top_k)?;
        let equal = check_blocks(state.experts(), &self.experts.team);
        equal.map_err(|error| GrowthError(error.0))
    }

    /// Takes on the growths of another layer of the same origin. Where the number or the width of experts changes, parameters get the
    /// shape of the grown layer and the value 0, for a record to be loaded into. Experts that are spread over a team of devices
    /// stay spread over it, equally many on each.
    pub fn restore(&mut self, state: GrowthState, device: &B::Device) {
        let [own, d, f] = self.experts.gate_edf.dims();
        let team = self.experts.team.clone();
        let (e, new_f) = (state.experts(), state.resized.d_expert.unwrap_or(f));
        let new_own = e / team.size();
        if [new_own, new_f] != [own, f] {
            self.router.weight_ed = Param::from_tensor(Tensor::zeros([e, d], device));
            self.router.selection_bias_e = Initializer::state([e], device);
            let zeros = |shape: [usize; 3]| Param::from_tensor(Tensor::zeros(shape, device));
            self.experts = Experts {
                gate_edf: zeros([new_own, d, new_f]),
                up_edf: zeros([new_own, d, new_f]),
                down_efd: zeros([new_own, new_f, d]),
                team,
            };
        }
        self.router.tie_breaks = (state.two_level.as_ref())
            .map_or_else(Vec::new, |two_level| two_level.tie_breaks(d, device));
        self.set_growth_state(state);
    }

    /// Says what the layer's parameters, which have been grown already, are.
    pub fn set_growth_state(&mut self, state: GrowthState) {
        self.router.config.experts = state.experts();
        self.router.config.two_level = state.two_level;
        self.router.config.groups = state.groups;
        self.lineage = state.lineage;
        self.boost = state.boost;
        self.resized = state.resized;
        if let Some(top_k) = state.resized.top_k {
            self.router.config.top_k = top_k;
        }
    }

    /// Parameters whose learning rate is now another than usual, with its factor.
    pub fn boosted(&self) -> Vec<(ParamId, f32)> {
        let Some(boost) = self.boost else {
            return Vec::new();
        };
        let of_experts = self.experts.ids().map(|id| (id, boost.experts));
        let of_router = (self.router.weight_ed.id, boost.router);
        of_experts.into_iter().chain([of_router]).collect()
    }
}

impl<B: MoeBackend> MoeLayer<B> {
    /// Output and routing of tokens, `[T, D] -> [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>, precision: Precision) -> (Tensor<B, 2>, Routing<B>) {
        let routing = self.router.forward(x_td.clone());
        let y_td = self.experts.forward(x_td.clone(), &routing, precision);
        let y_td = match &self.shared {
            Some(shared) => y_td + shared.forward(x_td, precision),
            None => y_td,
        };
        (y_td, routing)
    }

    /// What its routing of a forward pass adds to the loss, `[1]`: auxiliary, z- and separation loss, weighted; none if all
    /// are off.
    pub fn routing_loss(
        &self,
        routing: &Routing<B>,
        balancing: &BalancingConfig,
    ) -> Option<Tensor<B, 1>> {
        let config = self.router.config();
        let balance = balancing.loss(routing, config.score);
        let weight = config.two_level.as_ref().map_or(0.0, |it| it.separation);
        let separation = (weight > 0.0)
            .then(|| self.router.separation_loss(routing))
            .flatten()
            .map(|loss| loss * weight);
        match (balance, separation) {
            (Some(balance), Some(separation)) => Some(balance + separation),
            (balance, separation) => balance.or(separation),
        }
    }

    /// Becomes what it is at a step of training: with a [release](crate::Release), twins are held apart less and less, and a
    /// [boost](Boost) ends.
    pub fn at_step(&mut self, step: u64) {
        self.boost = self.boost.filter(|boost| step < boost.until);
        let two_level = self.router.config.two_level.as_ref();
        if let Some(two_level) = two_level.filter(|it| it.release.is_some()) {
            self.router.release(two_level.hold_at(step));
        }
    }
}
