//! What growing makes of a model's shape, before there is a model.

use upcycle_lm::LmConfig;
use upcycle_moe::GrowthState;
use upcycle_operator::{OperatorError, Upcycle};

use crate::error::TrainError;

/// The shape of the model that an operator grows from one of the shape `config`.
///
/// # Errors
/// If a dense model cannot become it, or it cannot be built.
pub fn grown_shape(operator: &Upcycle, config: &LmConfig) -> Result<LmConfig, TrainError> {
    let mut grown = config.clone();
    let target = operator.target_experts;
    if config.moe_layers() == 0 {
        let dense = operator.recipe.dense.as_ref();
        let dense = dense.ok_or(OperatorError::NoMoeLayer)?;
        let field = match (config.groups, config.d_shared) {
            (None, 0) => None,
            (None, _) => Some("`d_shared`"),
            (Some(_), _) => Some("`groups`"),
        };
        if let Some(field) = field {
            let problem = format!(
                "it cannot become a model with {field}, which no network of it becomes; leave {field} out"
            );
            return Err(OperatorError::Dense(problem).into());
        }
        let layer = dense.layer(config.d_ffn, target, &config.router())?;
        grown.pattern = dense.layers.clone();
        grown.d_expert = layer.d_expert;
        grown.top_k = layer.router.top_k;
        grown.gate_scale = layer.router.scale;
    }
    let shape = [config.experts, config.top_k, config.d_expert];
    match config.moe_layers() {
        0 => grown.experts = target,
        _ => {
            let shape = operator.recipe.grows.shape(shape, target)?;
            [grown.experts, grown.top_k, grown.d_expert] = shape;
        }
    }
    let invalid = |error: upcycle_lm::ConfigError| OperatorError::GrownModel(error.to_string());
    grown.validate().map_err(invalid)?;
    Ok(grown)
}

/// Checks all that can be said of growing a model without evidence. `growths` are those of its MoE layers; a model that was
/// never grown may leave them empty.
///
/// # Errors
/// The first thing that cannot be, with what would be right.
pub fn check_growth(
    operator: &Upcycle,
    config: &LmConfig,
    growths: &[GrowthState],
) -> Result<(), TrainError> {
    let layers = config.moe_layers();
    if layers == 0 {
        let grown = grown_shape(operator, config)?;
        return Ok(operator.check_dense(grown.moe_layers())?);
    }
    if growths.is_empty() {
        let never_grown = GrowthState {
            groups: config.router().groups,
            ..GrowthState::new(config.experts)
        };
        operator.check(&vec![never_grown; layers])?;
    } else {
        operator.check(growths)?;
    }
    grown_shape(operator, config).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use upcycle_moe::{GroupLimit, GroupStrength, LayerPattern};
    use upcycle_operator::Recipe;

    use super::*;

    #[test]
    fn a_dense_network_becomes_neither_shared_experts_nor_groups() {
        let operator = Upcycle::new(Recipe::named("sparse-upcycling").unwrap(), 8);
        let dense = LmConfig {
            pattern: LayerPattern::AllDense,
            d_ffn: 16,
            experts: 1,
            top_k: 1,
            ..LmConfig::default()
        };
        assert_eq!(grown_shape(&operator, &dense).unwrap().experts, 8);
        let groups = GroupLimit {
            count: 2,
            top: 1,
            by: GroupStrength::TopTwo,
        };
        for (field, config) in [
            (
                "d_shared",
                LmConfig {
                    d_shared: 8,
                    ..dense.clone()
                },
            ),
            (
                "groups",
                LmConfig {
                    groups: Some(groups),
                    ..dense.clone()
                },
            ),
        ] {
            let error = grown_shape(&operator, &config).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
