//! How much memory growing a model takes.

use upcycle_lm::{CostModel, LmConfig, Processor};
use upcycle_train::{BatchConfig, PassConfig};

use crate::{devices::Devices, memory::step_memory};

/// Bytes for each parameter of the grown model while both models are there with their moments, and what is copied between
/// them: measured for doublings (docs/performance.md), where the old model is half as large. With more experts it is less.
const BYTES_A_PARAMETER: u64 = 26;
/// Those of them that are moments, of both models.
const MOMENTS: u64 = 12;
/// Matrices of all logits of a sequence that a comparison of two models holds: of both, their difference and its square.
const LOGITS: u64 = 4;

/// Most bytes that a growth takes of each device, from measuring `before` on a share of a batch to comparing it with `after`.
///
/// Processors keep the memory of activations for what comes next; a GPU uses it again.
pub fn growth_memory(
    [before, after]: [&LmConfig; 2],
    share: &BatchConfig,
    processor: Processor,
    devices: &Devices,
) -> u64 {
    let [old, new] = [before, after].map(|model| CostModel::new(model).parameters());
    let (held, updated) = (devices.held(&new), devices.updated(&new));
    let growing = (BYTES_A_PARAMETER - MOMENTS) * held + MOMENTS * updated;
    let step = |model| step_memory(model, share, processor, PassConfig::default(), devices);
    if processor == Processor::Cpu {
        return growing + 2 * step(after).activations;
    }
    // Gradients are summed over batches.
    let measuring = step(before).with_two_gradients().total();
    let logits = LOGITS * 4 * (share.context * after.vocab) as u64;
    let comparing = 4 * (devices.held(&old) + held) + 8 * updated + logits;
    growing.max(measuring).max(comparing)
}
