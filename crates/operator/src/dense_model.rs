//! Growing a dense model: its networks become experts, which are then grown.

use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::DenseModel;

use crate::{
    dense::DenseSource,
    error::OperatorError,
    evidence::Evidence,
    grow::Grown,
    optimizer::{AdamState, OptimizerPolicy},
    router::RouterExtension,
    upcycle::Upcycle,
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
        let dense = self.check_dense(model.dense_networks(self.dense_layers()?).len())?;
        let router = model.router_config();
        for network in model.dense_networks(&dense.layers) {
            dense.layer(network.gate_df.dims()[1], self.target_experts, &router)?;
        }
        let choice = self.plan_dense(model.dense_networks(&dense.layers).len(), dense.shards)?;
        if matches!(self.recipe.optimizer, OptimizerPolicy::Reset {}) {
            optimizer.clear();
        }
        dense.cut(model, optimizer, self.target_experts)?;
        self.carry_out(model, optimizer, &Evidence::default(), choice)
    }

    /// Checks all that can be said of growing a dense model of which `layers` layers become MoE.
    ///
    /// # Errors
    /// The first thing that cannot be, with what would be right.
    pub fn check_dense(&self, layers: usize) -> Result<&DenseSource, OperatorError> {
        self.recipe.validate()?;
        let dense = self
            .recipe
            .dense
            .as_ref()
            .ok_or(OperatorError::NoMoeLayer)?;
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
        self.plan_dense(layers, dense.shards)?;
        Ok(dense)
    }

    fn dense_layers(&self) -> Result<&upcycle_moe::LayerPattern, OperatorError> {
        let dense = self.recipe.dense.as_ref();
        Ok(&dense.ok_or(OperatorError::NoMoeLayer)?.layers)
    }
}
