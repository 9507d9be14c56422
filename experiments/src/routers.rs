//! The routers of a checkpoint of this program.

use std::path::Path;

use anyhow::Result;
use upcycle_hf::RouterStats;
use upcycle_lm::{LmConfig, ParameterShape, WeightSink};
use upcycle_operator::RouterRows;
use upcycle_train::Engine;

/// Takes the routers of a model and lets the rest go.
#[derive(Default)]
pub struct Routers {
    d: usize,
    weights: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
}

impl Routers {
    /// Statistics of the routers of a checkpoint of this program, one for each MoE layer.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn of(engine: &dyn Engine, dir: &Path) -> Result<Vec<RouterStats>> {
        let mut routers = Self::default();
        engine.export(dir, &mut routers)?;
        Ok(routers.stats())
    }

    fn stats(self) -> Vec<RouterStats> {
        let layers = self.weights.into_iter().zip(self.biases);
        let stats = layers.map(|(weight, bias)| {
            RouterStats::of(&RouterRows {
                weight,
                bias,
                d: self.d,
                input_rms: 1.0,
            })
        });
        stats.collect()
    }
}

impl WeightSink for Routers {
    fn begin(&mut self, config: &LmConfig, _: &[ParameterShape]) -> Result<(), String> {
        self.d = config.d_model;
        Ok(())
    }

    fn write(&mut self, path: &str, values: &[f32]) -> Result<(), String> {
        if path.ends_with("router.weight_ed") {
            self.weights.push(values.to_vec());
        } else if path.ends_with("router.selection_bias_e") {
            self.biases.push(values.to_vec());
        }
        Ok(())
    }
}
