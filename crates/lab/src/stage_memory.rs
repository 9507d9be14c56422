//! How much memory the stages of a graph take.

use upcycle_lm::MemoryEstimate;
use upcycle_train::PassConfig;

use crate::{
    graph::{Stage, StageGraph},
    growth::growth_memory,
    memory::{MemoryLimit, PROCESS, peak_memory, processor, step_memory},
    stage::StageSpec,
};

/// What a stage takes of each device.
pub(crate) struct StageMemory {
    /// How its activations share memory.
    pub passes: PassConfig,
    /// Of a training step.
    pub step: MemoryEstimate,
    /// Most at a time, in bytes.
    pub peak: u64,
}

impl MemoryLimit {
    /// What a stage takes under this limit.
    pub(crate) fn stage(&self, graph: &StageGraph, stage: &Stage, backend: &str) -> StageMemory {
        let (model, batch, devices) = (&stage.model, stage.batch(), &self.devices);
        let share = devices.share(batch);
        let processor = processor(backend, stage.spec.precision());
        let passes = match &stage.spec {
            StageSpec::Train { .. } => self.passes(model, batch, processor),
            StageSpec::Upcycle { .. } => PassConfig::default(),
        };
        let peak = match &stage.spec {
            StageSpec::Train { .. } => peak_memory(model, &share, processor, passes, devices),
            StageSpec::Upcycle { parent, .. } => {
                let before = graph.get(parent).map_or(model, |parent| &parent.model);
                growth_memory([before, model], &share, processor, devices)
            }
        };
        StageMemory {
            passes,
            step: step_memory(model, &share, processor, passes, devices),
            peak,
        }
    }

    /// Whether a stage fits.
    pub(crate) fn holds(&self, graph: &StageGraph, stage: &Stage, backend: &str) -> bool {
        let needed = PROCESS + self.stage(graph, stage, backend).peak;
        self.bytes.is_none_or(|bytes| needed <= bytes)
    }
}
