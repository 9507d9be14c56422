//! What a model must offer so that its Mixture-of-Experts layers can be balanced, watched and grown.

use burn::{
    module::{Param, ParamId},
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::MoeBackend;
use upcycle_team::Team;

use crate::{
    balancing::BalancingConfig,
    experts::ShardError,
    layer::{GrowthError, GrowthState, MoeLayer},
    router::Routing,
};

/// A MoE layer where it stands in a model.
#[derive(Debug)]
pub struct MoeSite<'a, B: Backend> {
    /// The layer.
    pub layer: &'a MoeLayer<B>,
    /// Scale of the norm before it, `[D]`; none if there is no norm with a scale. It says how large the router's inputs are.
    pub norm_d: Option<&'a Param<Tensor<B, 1>>>,
}

/// A model with MoE layers, in any nesting.
///
/// Whatever a model is made of, it only has to show its layers, always in the same order:
///
/// ```
/// use burn::module::Module;
/// use upcycle_kernels::MoeBackend;
/// use upcycle_moe::{MoeLayer, MoeModel, MoeSite};
///
/// #[derive(Module, Debug)]
/// struct Tower<B: MoeBackend> {
///     stages: Vec<MoeLayer<B>>,
/// }
///
/// impl<B: MoeBackend> MoeModel<B> for Tower<B> {
///     fn moe_sites(&self) -> Vec<MoeSite<'_, B>> {
///         self.stages.iter().map(MoeSite::without_norm).collect()
///     }
///
///     fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>> {
///         self.stages.iter_mut().collect()
///     }
/// }
/// ```
pub trait MoeModel<B: MoeBackend> {
    /// The MoE layers in order, each with the norm before it.
    fn moe_sites(&self) -> Vec<MoeSite<'_, B>>;

    /// The same layers in the same order, to be changed.
    fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>>;

    /// What every layer knows of its growths: to be kept beside a record of the model.
    fn growth_states(&self) -> Vec<GrowthState> {
        let sites = self.moe_sites();
        sites.iter().map(|site| site.layer.growth_state()).collect()
    }

    /// Makes a new model fit for the record of a grown one, see [`MoeLayer::restore`].
    ///
    /// # Errors
    /// If there are not as many states as layers, or one cannot be; the model is then as it was. Experts that are spread over a
    /// team of devices have to be equally many on each.
    fn restore(&mut self, states: Vec<GrowthState>, device: &B::Device) -> Result<(), GrowthError> {
        let layers = self.moe_layers_mut();
        if layers.len() != states.len() {
            return Err(GrowthError(format!(
                "there are growths of {} MoE layers, the model has {}",
                states.len(),
                layers.len()
            )));
        }
        for (index, (layer, state)) in layers.iter().zip(&states).enumerate() {
            let checked = layer.check(state);
            checked.map_err(|error| GrowthError(format!("MoE layer {index}: {error}")))?;
        }
        for (layer, state) in layers.into_iter().zip(states) {
            layer.restore(state, device);
        }
        Ok(())
    }

    /// Spreads the experts of every layer over a team of devices, each of which has this model, see [`MoeLayer::shard`].
    ///
    /// # Errors
    /// If those of a layer are spread already, or there are not equally many for each device; the model is then as it was.
    fn shard(&mut self, team: &Team) -> Result<(), ShardError> {
        let layers = self.moe_layers_mut();
        for (index, layer) in layers.iter().enumerate() {
            let checked = layer.experts.check_shard(team);
            checked.map_err(|error| ShardError(format!("MoE layer {index}: {error}")))?;
        }
        for layer in layers {
            layer.experts.shard(team.clone());
        }
        Ok(())
    }

    /// One step of loss-free balancing of every layer, from the tokens `[E]` that each of its experts got.
    ///
    /// # Panics
    /// If there are not as many loads as layers.
    fn balance(&mut self, loads: &[Tensor<B, 1>], config: &BalancingConfig) {
        if config.bias_rate <= 0.0 {
            return;
        }
        let layers = self.moe_layers_mut();
        assert_eq!(layers.len(), loads.len(), "a load for each MoE layer");
        for (layer, load_e) in layers.into_iter().zip(loads) {
            layer.router.balance(load_e.clone(), config.bias_rate);
        }
    }

    /// Parameters whose learning rate is now another than usual, with its factor: for some steps after a growth by a recipe with a
    /// [boost](crate::Boost). Whoever runs an optimizer gives it these rates.
    fn boosted(&self) -> Vec<(ParamId, f32)> {
        let sites = self.moe_sites().into_iter();
        sites.flat_map(|site| site.layer.boosted()).collect()
    }

    /// Becomes what it is at a step of training, see [`MoeLayer::at_step`].
    fn at_step(&mut self, step: u64) {
        for layer in self.moe_layers_mut() {
            layer.at_step(step);
        }
    }

    /// What the routing of a forward pass adds to the loss, `[1]`: auxiliary, z- and separation loss, weighted, each a mean
    /// over the layers; none if all are off.
    ///
    /// # Panics
    /// If there are not as many routings as layers.
    fn routing_loss(
        &self,
        routing: &[Routing<B>],
        balancing: &BalancingConfig,
    ) -> Option<Tensor<B, 1>> {
        let sites = self.moe_sites();
        assert_eq!(sites.len(), routing.len(), "a routing for each MoE layer");
        let share = 1.0 / routing.len() as f32;
        let layers = sites.into_iter().zip(routing);
        let losses =
            layers.filter_map(|(site, routing)| site.layer.routing_loss(routing, balancing));
        let sum = losses.reduce(|sum, loss| sum + loss)?;
        Some(sum * share)
    }
}

impl<'a, B: Backend> MoeSite<'a, B> {
    /// A layer without a norm of its own before it.
    pub fn without_norm(layer: &'a MoeLayer<B>) -> Self {
        Self {
            layer,
            norm_d: None,
        }
    }

    /// A layer behind a norm with a scale.
    pub fn behind(norm_d: &'a Param<Tensor<B, 1>>, layer: &'a MoeLayer<B>) -> Self {
        Self {
            layer,
            norm_d: Some(norm_d),
        }
    }
}
