//! Ctrl-C: a run ends after its step, with a checkpoint.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use upcycle_lab::LabError;
use upcycle_train::TrainError;

use crate::output;

/// Exit code of a run that was stopped, as shells have it.
pub const EXIT_CODE: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// Becomes true when the run is to end.
pub fn flag() -> &'static AtomicBool {
    &STOP
}

/// Listens to Ctrl-C from here on: the first asks the run to end, the second ends the process.
///
/// # Errors
/// If the system does not let it.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
        output::note!("\nstopping after this step, with a checkpoint; Ctrl-C again stops at once");
    })
    .context("Ctrl-C cannot be listened to")
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
