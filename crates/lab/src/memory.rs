//! How much memory stages take, and how their activations share what there is.

use std::num::NonZeroUsize;

use upcycle_kernels::{Precision, blocks::BLOCK};
use upcycle_lm::{CostModel, LmConfig, MemoryEstimate, Processor};
use upcycle_team::{Team, TeamError};
use upcycle_train::{BatchConfig, PassConfig};

use crate::devices::Devices;

/// Memory of a process without any model, in bytes: program, data, buffers.
pub const PROCESS: u64 = 160 << 20;

/// What a training stage may take of a device's memory. Batches are cut into as many micro-batches as that needs, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes of each device for one stage; none where nobody knows.
    pub bytes: Option<u64>,
    /// Devices that train a model together.
    pub devices: Devices,
    /// Whether activations are computed again in the backward pass (activation checkpointing).
    pub recompute: bool,
}

impl MemoryLimit {
    /// As much as there is, on one device.
    pub const NONE: Self = Self {
        bytes: None,
        devices: Devices::ONE,
        recompute: false,
    };

    /// How a training stage shares memory: with the fewest micro-batches that fit, or one for each sequence where nothing fits.
    pub fn passes(
        &self,
        model: &LmConfig,
        batch: &BatchConfig,
        processor: Processor,
    ) -> PassConfig {
        let share = self.devices.share(batch);
        let with = |micro_batches| PassConfig {
            micro_batches,
            recompute: self.recompute,
        };
        let fits = |passes: &PassConfig| {
            let needed = PROCESS + peak_memory(model, &share, processor, *passes, &self.devices);
            self.bytes.is_none_or(|bytes| needed <= bytes)
        };
        let most = NonZeroUsize::new(share.rows).unwrap_or(NonZeroUsize::MIN);
        let mut counts = (1..=most.get()).filter_map(NonZeroUsize::new).map(with);
        counts.find(fits).unwrap_or(with(most))
    }

    /// [`passes`](Self::passes) of the process that needs the most micro-batches, on all processes of a team.
    ///
    /// # Errors
    /// If one of them is lost.
    pub fn passes_of(
        &self,
        team: &Team,
        model: &LmConfig,
        batch: &BatchConfig,
        processor: Processor,
    ) -> Result<PassConfig, TeamError> {
        let own = self.passes(model, batch, processor);
        if team.size() == 1 {
            return Ok(own);
        }
        let all = team.gather_values(&own)?;
        let most = all.into_iter().max_by_key(|passes| passes.micro_batches);
        Ok(most.unwrap_or(own))
    }
}

/// Memory of a training step on a device that has this share of a batch.
pub fn step_memory(
    model: &LmConfig,
    share: &BatchConfig,
    processor: Processor,
    passes: PassConfig,
    devices: &Devices,
) -> MemoryEstimate {
    let rows = share.rows.div_ceil(passes.micro_batches.get());
    let tokens = rows * share.context;
    let cost = CostModel::new(model);
    let parameters = cost.parameters();
    let weights = 4 * devices.held(&parameters);
    let of_one = cost.memory(tokens, share.context, processor, passes.recompute);
    let blocks = devices.expert_parallel.get() as u64;
    let step = MemoryEstimate {
        weights,
        gradients: weights,
        moments: 8 * devices.updated(&parameters),
        activations: of_one.activations + cost.copies(processor, passes.recompute, blocks),
        transients: transients(model, tokens, devices),
        ..of_one
    };
    let several = rows < share.rows || share.accumulation > 1;
    match several && !passes.recompute {
        // Those of a pass are there as a whole before they are added to those of the passes before.
        true => step.with_two_gradients(),
        false => step,
    }
}

/// Bytes that exchanges take while they last: rows of tokens, those that leave and those that arrive, there and back; or the
/// largest tensor that several devices hold, as it is sent and as it arrives. Whichever is more.
fn transients(model: &LmConfig, tokens: usize, devices: &Devices) -> u64 {
    if devices.count.get() == 1 {
        return 0;
    }
    let blocks = devices.expert_parallel.get();
    let rows = match model.moe_layers() > 0 && blocks > 1 {
        true => 4 * 4 * (tokens * model.top_k * model.d_model) as u64,
        false => 0,
    };
    let experts = match devices.holders() {
        1 => 0,
        _ => model.experts / blocks,
    };
    rows.max(2 * CostModel::new(model).largest_tensor_with(experts))
}

/// Most bytes that training a model takes of a backend's memory, which on a CPU holds checkpoints too.
pub fn peak_memory(
    model: &LmConfig,
    share: &BatchConfig,
    processor: Processor,
    passes: PassConfig,
    devices: &Devices,
) -> u64 {
    let step = step_memory(model, share, processor, passes, devices).total();
    match processor {
        Processor::Cpu => step + checkpoint_memory(model),
        Processor::Gpu { .. } => step,
    }
}

/// Bytes that a checkpoint's tensors take of the machine's own memory while it is read or written, one after the other: their
/// values as read, as a tensor, and once more where they have to be aligned.
pub fn checkpoint_memory(model: &LmConfig) -> u64 {
    3 * CostModel::new(model).largest_tensor()
}

/// What computes a stage on a backend.
pub fn processor(backend: &str, precision: Precision) -> Processor {
    match on_cpu(backend) {
        true => Processor::Cpu,
        false => Processor::Gpu {
            precision,
            block: BLOCK,
        },
    }
}

/// Whether a backend computes on the processor.
pub fn on_cpu(backend: &str) -> bool {
    matches!(backend, "cpu" | "ndarray")
}
