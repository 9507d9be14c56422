//! Growing a dense model: its networks become experts, which are then grown.

use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::{DenseModel, GrowthState};
use upcycle_team::Team;

use crate::{
    dense::DenseSource,
    error::OperatorError,
    evidence::Evidence,
    grow::Grown,
    optimizer::{AdamState, OptimizerPolicy},
    router::RouterExtension,
    upcycle::{Choice, Upcycle},
};

impl Upcycle {
    /// Grows a model without MoE layers, by the recipe's [`DenseSource`]: feed-forward networks become experts, every one a
    /// replica. Other parameters are kept as they are, and so are the ids of all.
    ///
    /// # Errors
    /// If the recipe cannot be carried out on this model; nothing has been changed then.
    pub fn grow_dense<B, M, O>(
        &self,
        model: &mut M,
        optimizer: &mut O,
    ) -> Result<Grown, OperatorError>
    where
        B: MoeAutodiffBackend,
        M: DenseModel<B>,
        O: AdamState<B>,
    {
        self.grow_dense_in_team(&Team::alone(), model, optimizer)
    }

    /// [`grow_dense`](Self::grow_dense) by all devices of a team, each of which has the whole model and its moments: each makes
    /// the experts that it is to hold, equally many of every layer, to the bit as one device does.
    ///
    /// # Errors
    /// Those of [`grow_dense`](Self::grow_dense); if the experts cannot be shared evenly, nothing has been changed. If another
    /// device fails, the model may have been changed in part.
    pub fn grow_dense_in_team<B, M, O>(
        &self,
        team: &Team,
        model: &mut M,
        optimizer: &mut O,
    ) -> Result<Grown, OperatorError>
    where
        B: MoeAutodiffBackend,
        M: DenseModel<B>,
        O: AdamState<B>,
    {
        self.check_members(team.size())?;
        if !model.moe_sites().is_empty() {
            let problem = "it has MoE layers already; grow these by `Upcycle::grow`";
            return Err(OperatorError::Dense(problem.into()));
        }
        let networks = model.dense_networks(&self.dense_source()?.layers);
        let (dense, choice) = self.checked_dense(networks.len())?;
        let resets = matches!(self.recipe.optimizer, OptimizerPolicy::Reset {});
        let router = model.router_config();
        let layers = networks.iter().map(|network| {
            if !resets {
                DenseSource::check_moments(network, optimizer)?;
            }
            dense.layer_of(network, self.target_experts, &router)
        });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;

        // All has been checked: nothing fails from here on.
        if resets {
            optimizer.clear();
        }
        let cut = (networks.into_iter().zip(layers))
            .map(|(network, layer)| dense.moe_layer(network, layer, optimizer))
            .collect::<Result<Vec<_>, _>>()?;
        model.replace_dense(&dense.layers, cut);
        self.carry_out(model, optimizer, &Evidence::default(), choice, Some(team))
    }

    /// Checks all that can be said of growing a dense model of which `layers` layers become MoE.
    ///
    /// # Errors
    /// The first thing that cannot be, with what would be right.
    pub fn check_dense(&self, layers: usize) -> Result<(), OperatorError> {
        self.checked_dense(layers).map(|_| ())
    }

    /// The recipe's source of experts and what is copied, once all that can be said has been checked.
    fn checked_dense(&self, layers: usize) -> Result<(&DenseSource, Choice), OperatorError> {
        self.recipe.validate()?;
        let dense = self.dense_source()?;
        let fail = |problem: &str| Err(OperatorError::Dense(problem.into()));
        if !matches!(
            self.recipe.router,
            RouterExtension::Hyperplane { .. } | RouterExtension::TwoLevel { .. }
        ) {
            return fail(
                "its router starts from zero, from which only `router.kind` = `hyperplane` or `two-level` tell experts apart",
            );
        }
        if !self.recipe.measurements().is_empty() {
            return fail(
                "it has no experts whose use could be measured; take a selection without score (`uniform`), and the router `hyperplane` or a random tie-break",
            );
        }
        if layers == 0 {
            return fail("`dense.layers` names no layer");
        }
        dense.experts_of_a_token(self.target_experts)?;
        if matches!(self.recipe.router, RouterExtension::TwoLevel { .. }) && dense.top_k > 1 {
            return fail(
                "two-level selection gives a token different sources, and all networks are copies of one; take `dense.top_k` = 1, or `router.kind` = `hyperplane`",
            );
        }
        let choice = self.plan_dense(layers, dense.shards)?;
        self.two_levels(&vec![GrowthState::new(dense.shards); layers], &choice.plan)?;
        Ok((dense, choice))
    }

    fn dense_source(&self) -> Result<&DenseSource, OperatorError> {
        self.recipe.dense.as_ref().ok_or(OperatorError::NoMoeLayer)
    }
}
