//! What one stage will cost.

use serde::Serialize;
use upcycle_lm::{CostModel, MemoryEstimate, ParameterCount};
use upcycle_train::PassConfig;

use crate::{
    calibrate::{Calibration, stage_flops, stage_seconds},
    disk::stage_bytes,
    exchange::{Exchange, Link, StepSeconds},
    graph::{Stage, StageGraph},
    memory::{MemoryLimit, PROCESS, checkpoint_memory, on_cpu},
    stage::{StageKey, StageSpec},
};

/// Costs of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Content address.
    pub key: StageKey,
    /// For people.
    pub label: String,
    /// Whether it is finished already.
    pub cached: bool,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: ParameterCount,
    /// Training FLOPs, vocabulary head included.
    pub flops: f64,
    /// How activations share memory.
    pub passes: PassConfig,
    /// Memory of a training step in bytes of each device.
    pub memory: MemoryEstimate,
    /// What a device sends others in a training step.
    pub exchange: Exchange,
    /// Estimated seconds of a training step beside the other jobs; none as in `seconds`.
    pub step: Option<StepSeconds>,
    /// What reading and writing checkpoints takes of the machine's own memory, in bytes; on a CPU beside the step's.
    pub checkpoint_memory: u64,
    /// Most that a stage takes of the device's memory, in bytes.
    pub peak_memory: u64,
    /// The same where activations are computed again in the backward pass.
    pub peak_recomputed: u64,
    /// Bytes that it leaves on the disk: a checkpoint and metrics.
    pub disk: u64,
    /// Estimated seconds beside the other jobs; none on a backend that is not here.
    pub seconds: Option<f64>,
    /// Whether the seconds come from measured steps, not from the rate of matrix products.
    pub measured: bool,
}

impl StageEstimate {
    /// Bytes of the device's memory for a process that runs this stage alone.
    pub fn process_memory(&self) -> u64 {
        PROCESS + self.peak_memory
    }
}

/// How the stages of a graph are to run.
pub(crate) struct Setup<'a> {
    pub graph: &'a StageGraph,
    pub backend: &'a str,
    pub calibration: Option<&'a Calibration>,
    pub jobs: usize,
    pub limit: &'a MemoryLimit,
}

impl Setup<'_> {
    /// What a stage costs that is not finished.
    pub fn estimate(&self, stage: &Stage) -> StageEstimate {
        let memory = |limit: &MemoryLimit| limit.stage(self.graph, stage, self.backend);
        let needed = memory(self.limit);
        let recomputed = memory(&MemoryLimit {
            recompute: true,
            ..*self.limit
        });
        let exchange = self.exchange(stage, needed.passes);
        let step = self.step(stage, needed.passes);
        let seconds =
            step.map(|(step, _)| exchange.seconds(step, self.link(), &self.limit.devices));
        StageEstimate {
            key: stage.key.clone(),
            label: stage.label.clone(),
            cached: false,
            passes: needed.passes,
            steps: stage.steps(),
            tokens: stage.steps() * stage.batch().tokens(),
            parameters: CostModel::new(&stage.model).parameters(),
            flops: stage_flops(stage),
            memory: needed.step,
            exchange,
            step: seconds,
            checkpoint_memory: checkpoint_memory(&stage.model),
            peak_memory: needed.peak,
            peak_recomputed: recomputed.peak,
            disk: stage_bytes(stage),
            seconds: seconds.map(|step| stage_seconds(stage, step.total())),
            measured: step.is_some_and(|(_, measured)| measured),
        }
    }

    /// What a device sends in a step.
    fn exchange(&self, stage: &Stage, passes: PassConfig) -> Exchange {
        let devices = &self.limit.devices;
        match &stage.spec {
            StageSpec::Train { .. } => {
                Exchange::of(&stage.model, &devices.share(stage.batch()), passes, devices)
            }
            StageSpec::Upcycle { .. } => Exchange::default(),
        }
    }

    /// Seconds that a device computes in a step, and whether a step was measured.
    fn step(&self, stage: &Stage, passes: PassConfig) -> Option<(f64, bool)> {
        let calibration = self.calibration?;
        let (alone, measured) = calibration.step_seconds(stage, self.jobs);
        // Layers are computed forward twice; what was measured may have been, too.
        let again = match passes.recompute && !measured {
            true => 4.0 / 3.0,
            false => 1.0,
        };
        // The devices of a machine's processor are all that processor.
        let devices = match on_cpu(self.backend) {
            true => calibration.machines(),
            false => self.limit.devices.count,
        };
        Some((again * alone / devices.get() as f64, measured))
    }

    fn link(&self) -> Option<&Link> {
        self.calibration.and_then(Calibration::link)
    }
}
