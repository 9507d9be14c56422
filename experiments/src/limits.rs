//! What a machine should not be asked to do without `--force`.

use clap::Args;
use serde::{Deserialize, Serialize};
use upcycle_kernels::Precision;
use upcycle_lab::{Devices, MemoryLimit, available_memory};
use upcycle_report::number;
use upcycle_train::{Engine, PassConfig};

use crate::{amount, processes::Member};

/// A run that would take longer on a CPU is refused.
const PATIENCE_SECONDS: f64 = 24.0 * 3600.0;

/// The flag that overrides a refusal.
#[derive(Debug, Clone, Copy, Args)]
pub struct Force {
    /// Run even if this machine seems too small or too slow.
    #[arg(long, help_heading = "Running")]
    pub force: bool,
}

/// What training may take of memory.
#[derive(Debug, Clone, Copy, Args, Serialize, Deserialize)]
pub struct MemoryArgs {
    /// Memory of each device, such as 80GB: batches are cut into micro-batches that fit, and what cannot fit is refused
    /// before anything starts. [default: this machine's, where it computes on its processor]
    #[arg(long, value_parser = amount::parse_bytes, value_name = "BYTES", help_heading = "Running")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Keep only the inputs of layers, and compute their activations again in the backward pass: the same results with
    /// much less memory, in about a third more time.
    #[arg(long, help_heading = "Running")]
    #[serde(default)]
    pub activation_checkpointing: bool,
}

impl MemoryArgs {
    /// Bytes of each device; none if nobody knows.
    pub fn available(&self, engine: &dyn Engine) -> Option<u64> {
        let own = || on_cpu(engine).then(available_memory).flatten();
        self.memory.or_else(own)
    }

    /// What each of `jobs` stages at a time may take of each of the devices that train a model together, of which this process
    /// has some.
    pub fn limit(
        &self,
        engine: &dyn Engine,
        devices: Devices,
        member: &Member,
        jobs: usize,
    ) -> MemoryLimit {
        let available = self.available(engine);
        // Devices of a CPU share the memory of its machine; memory that was stated is that of each.
        let shares = match on_cpu(engine) && self.memory.is_none() {
            true if member.is_alone() => jobs * devices.count.get(),
            true => jobs * member.here(),
            false => jobs,
        };
        self.limit_of(available.map(|bytes| bytes / shares.max(1) as u64), devices)
    }

    /// A limit of these bytes of each device.
    pub fn limit_of(&self, bytes: Option<u64>, devices: Devices) -> MemoryLimit {
        MemoryLimit {
            bytes,
            devices,
            recompute: self.activation_checkpointing,
        }
    }
}

/// How a batch is cut and computed, as the end of a sentence; none for whole batches whose activations are kept.
pub fn pass_note(passes: PassConfig) -> Option<String> {
    let parts = match passes.micro_batches.get() {
        1 => None,
        count => Some(format!(
            "{count} micro-batches a batch (an auxiliary loss of the routing is that of each)"
        )),
    };
    let recompute = (passes.recompute).then(|| "activations computed again".to_owned());
    let words: Vec<String> = parts.into_iter().chain(recompute).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Why a run of `seconds` that needs `memory` bytes should not start on this machine; none if it may.
///
/// GPUs are not judged: their memory and speed are not known before they are used.
pub fn refusal(engine: &dyn Engine, memory: u64, seconds: f64) -> Option<String> {
    if !on_cpu(engine) {
        return None;
    }
    let available = available_memory().unwrap_or(u64::MAX);
    let problem = if memory > available {
        too_large("it", memory, available)
    } else if seconds > PATIENCE_SECONDS {
        let time = number::duration(seconds);
        format!("it would take about {time} on this CPU")
    } else {
        return None;
    };
    Some(advice(&problem))
}

/// Why a precision should not be asked of this machine; none if it may.
///
/// Processors take products of bf16 apart into those of f32: `train --tokens 100k --precision bf16` takes six times as long.
pub fn slow_precision(engine: &dyn Engine, precision: Precision) -> Option<&'static str> {
    (on_cpu(engine) && precision == Precision::Bf16).then_some(
        "bf16 on a CPU takes several times as long as f32 and saves no memory; leave `precision` out, run on a GPU (--backend cuda), or go on all the same with --force",
    )
}

/// That something needs more memory than there is.
pub fn too_large(what: &str, needed: u64, available: u64) -> String {
    format!(
        "{what} needs about {} of memory, and there are {}",
        number::bytes(needed),
        number::bytes(available)
    )
}

/// A problem, and what can be done.
pub fn advice(problem: &str) -> String {
    format!(
        "{problem}. Run it on a GPU (--backend cuda), make it smaller (--tokens 2M, --scale tiny; sweeps also --vocab 8192 --context 512), take less memory (--activation-checkpointing), divide it over several GPUs (--devices 8 --expert-parallel 8), or go on all the same with --force"
    )
}

/// Whether the engine computes on the processor.
pub fn on_cpu(engine: &dyn Engine) -> bool {
    upcycle_lab::on_cpu(engine.backend())
}
