//! How much memory stages take, and how their activations share what there is.

use std::num::NonZeroUsize;

use upcycle_kernels::blocks::BLOCK;
use upcycle_lm::{CostModel, LmConfig, MemoryEstimate};
use upcycle_train::{BatchConfig, PassConfig};

/// Memory of a process without any model, in bytes: program, data, buffers.
pub const PROCESS: u64 = 160 << 20;

/// What a training stage may take of a device's memory. Batches are cut into as many micro-batches as that needs, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes of each device for one stage; none where nobody knows.
    pub bytes: Option<u64>,
    /// Devices that share the sequences of a batch.
    pub devices: NonZeroUsize,
    /// Whether activations are computed again in the backward pass (activation checkpointing).
    pub recompute: bool,
}

impl MemoryLimit {
    /// As much as there is, on one device.
    pub const NONE: Self = Self {
        bytes: None,
        devices: NonZeroUsize::MIN,
        recompute: false,
    };

    /// How a training stage shares memory: with the fewest micro-batches that fit, or one for each sequence where nothing fits.
    pub fn passes(&self, model: &LmConfig, batch: &BatchConfig, backend: &str) -> PassConfig {
        let share = self.share(batch);
        let with = |micro_batches| PassConfig {
            micro_batches,
            recompute: self.recompute,
        };
        let fits = |passes: &PassConfig| {
            let needed = PROCESS + peak_memory(model, &share, backend, *passes);
            self.bytes.is_none_or(|bytes| needed <= bytes)
        };
        let most = NonZeroUsize::new(share.rows).unwrap_or(NonZeroUsize::MIN);
        let mut counts = (1..=most.get()).filter_map(NonZeroUsize::new).map(with);
        counts.find(fits).unwrap_or(with(most))
    }

    /// A device's share of a batch.
    pub fn share(&self, batch: &BatchConfig) -> BatchConfig {
        BatchConfig {
            rows: batch.rows.div_ceil(self.devices.get()),
            ..batch.clone()
        }
    }
}

/// Memory of a training step on a device's share of a batch.
pub fn step_memory(
    model: &LmConfig,
    batch: &BatchConfig,
    backend: &str,
    passes: PassConfig,
) -> MemoryEstimate {
    let rows = batch.rows.div_ceil(passes.micro_batches.get());
    let tokens = rows * batch.context;
    let cost = CostModel::new(model);
    let step = cost.memory(tokens, batch.context, block(backend), passes.recompute);
    let several = rows < batch.rows || batch.accumulation > 1;
    match several && !passes.recompute {
        // Those of a pass are there as a whole before they are added to those of the passes before.
        true => step.with_two_gradients(),
        false => step,
    }
}

/// Most bytes that training a model takes of a backend's memory, which on a CPU holds checkpoints too.
pub fn peak_memory(
    model: &LmConfig,
    batch: &BatchConfig,
    backend: &str,
    passes: PassConfig,
) -> u64 {
    let step = step_memory(model, batch, backend, passes).total();
    match on_cpu(backend) {
        true => step + checkpoint_memory(model),
        false => step,
    }
}

/// Bytes that a checkpoint's tensors take of the machine's own memory while it is read or written, one after the other: their
/// values as read, as a tensor, and once more where they have to be aligned.
pub fn checkpoint_memory(model: &LmConfig) -> u64 {
    3 * CostModel::new(model).largest_tensor()
}

/// Most bytes that a growth into a model takes: both models with their moments are there at a time, and what evidence and
/// verification need. Measured for doublings (docs/performance.md), where the old model is half as large; with more experts
/// it takes less.
pub fn growth_memory(model: &LmConfig, batch: &BatchConfig, backend: &str) -> u64 {
    const BYTES_A_PARAMETER: u64 = 26;
    const ACTIVATIONS: u64 = 2;
    let states = BYTES_A_PARAMETER * CostModel::new(model).parameters().total();
    states + ACTIVATIONS * step_memory(model, batch, backend, PassConfig::default()).activations
}

/// Logits or scores that a backend computes at a time; 0 on a CPU, whose kernels need few.
pub fn block(backend: &str) -> usize {
    match on_cpu(backend) {
        true => 0,
        false => BLOCK,
    }
}

/// Whether a backend computes on the processor.
pub fn on_cpu(backend: &str) -> bool {
    matches!(backend, "cpu" | "ndarray")
}
