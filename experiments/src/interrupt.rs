//! Ctrl-C: a run ends after its step, with a checkpoint.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use upcycle_lab::LabError;
use upcycle_train::TrainError;

use crate::output;

/// Exit code of a run that was stopped, as shells have it.
pub const EXIT_CODE: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Becomes true when the run is to end.
pub fn flag() -> &'static AtomicBool {
    &STOP
}

/// Does a run, which the first Ctrl-C asks to end. A second one ends the process at once, and so does the first after the run.
///
/// # Errors
/// If the system does not let Ctrl-C be listened to.
pub fn during<T>(run: impl FnOnce() -> T) -> Result<T> {
    RUNNING.store(true, Ordering::Relaxed);
    ctrlc::set_handler(|| {
        if !RUNNING.load(Ordering::Relaxed) || STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
        output::note!("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once");
    })
    .context("Ctrl-C cannot be listened to")?;
    let outcome = run();
    RUNNING.store(false, Ordering::Relaxed);
    Ok(outcome)
}

/// Whether an error is that a run was stopped.
pub fn is_one(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let trained = cause.downcast_ref::<TrainError>();
        let swept = cause.downcast_ref::<LabError>();
        matches!(trained, Some(TrainError::Interrupted { .. }))
            || matches!(swept, Some(LabError::Interrupted))
    })
}
