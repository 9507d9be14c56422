//! What a machine should not be asked to do without `--force`.

use clap::Args;
use upcycle_kernels::Precision;
use upcycle_lab::available_memory;
use upcycle_report::number;
use upcycle_train::Engine;

/// A run that would take longer on a CPU is refused.
const PATIENCE_SECONDS: f64 = 24.0 * 3600.0;

/// The flag that overrides a refusal.
#[derive(Debug, Clone, Copy, Args)]
pub struct Force {
    /// Run even if this machine seems too small or too slow.
    #[arg(long, help_heading = "Running")]
    pub force: bool,
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
        format!(
            "it needs about {} of memory, this machine has {}",
            number::bytes(memory),
            number::bytes(available)
        )
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

/// A problem, and what can be done.
pub fn advice(problem: &str) -> String {
    format!(
        "{problem}. Run it on a GPU (--backend cuda), make it smaller (--tokens 2M, --scale tiny; sweeps also --vocab 8192 --context 512), or go on all the same with --force"
    )
}

/// Whether the engine computes on the processor.
pub fn on_cpu(engine: &dyn Engine) -> bool {
    upcycle_lab::on_cpu(engine.backend())
}
