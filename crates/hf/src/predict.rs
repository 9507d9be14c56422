//! What growing does to the routers of a checkpoint.

use upcycle_operator::{Forecaster, RouterRows, RoutingForecast};

use crate::{error::HfError, floats, grow::Growth};

impl Growth<'_> {
    /// Routes random inputs, as the norm before the router would scale them, before and after; none where the layout says
    /// that nothing can be foretold.
    ///
    /// # Errors
    /// If the rows cannot be read, or there is no MoE layer.
    pub fn forecast(&self) -> Result<Option<RoutingForecast>, HfError> {
        if self.moe.no_forecast.is_some() {
            return Ok(None);
        }
        let mut forecaster = Forecaster::default();
        for layer in Forecaster::layers(self.moe.layers.len()) {
            let further = self
                .checkpoint
                .further_rows(&self.moe, &self.moe.layers[layer])?;
            let with_further = |mut rows: RouterRows| {
                rows.weight.extend_from_slice(&further.weight);
                rows.bias.extend_from_slice(&further.bias);
                rows
            };
            let rows = [
                &with_further(self.rows_before(layer)?),
                &with_further(self.rounded_rows(layer)?),
            ];
            let experts = self.moe.experts;
            let kept = experts..experts + self.moe.further_rows;
            let source_of: Vec<usize> = self.source_of(layer).chain(kept).collect();
            let scale = self
                .checkpoint
                .input_scale(&self.moe, &self.moe.layers[layer])?;
            forecaster.add(
                &self.moe.routing,
                layer,
                rows,
                &source_of,
                &scale,
                [self.moe.top_k, self.top_k],
            );
        }
        let none = || HfError::Impossible("there is no MoE layer to look at".into());
        forecaster.finish().map(Some).ok_or_else(none)
    }

    /// Rows and biases as they are written, in their own types.
    pub(crate) fn rounded_rows(&self, layer: usize) -> Result<RouterRows, HfError> {
        let grown = self.rows(layer)?;
        let tensors = &self.moe.layers[layer];
        let round = |name: &str, values: Vec<f32>| {
            let dtype = self.checkpoint.tensor(name)?.dtype;
            let fault = |problem| self.checkpoint.fault(name, problem);
            let bytes = floats::encode(dtype, &values).map_err(fault)?;
            Ok::<_, HfError>(floats::decode(dtype, &bytes).unwrap_or(values))
        };
        Ok(RouterRows {
            weight: round(&tensors.weight, grown.weight)?,
            bias: match &tensors.bias {
                Some(bias) => round(bias, grown.bias)?,
                None => grown.bias,
            },
            ..grown
        })
    }
}
