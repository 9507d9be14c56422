//! Ctrl-C and TERM: a run ends after its step, with a checkpoint.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use upcycle_hf::HfError;
use upcycle_lab::LabError;
use upcycle_report::number;
use upcycle_train::TrainError;

use crate::output;

/// Exit code of a run that was stopped, as shells have it.
pub const EXIT_CODE: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);
static RUNNING: AtomicBool = AtomicBool::new(false);

/// What the first of two signals asks for, and what the second one throws away.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Training, with a checkpoint every so often.
    Training {
        /// Time between checkpoints.
        checkpoints: Duration,
    },
    /// A growth in memory, of which nothing is written before its end.
    Growing,
    /// Files that are written one after the other.
    Copying,
}

impl Work {
    fn stopping(self) -> &'static str {
        match self {
            Self::Training { .. } => "stopping after this step, with a checkpoint",
            Self::Growing => "stopping, unless the grown model is being written already",
            Self::Copying => "stopping after this piece; what is copied can be gone on with",
        }
    }

    fn loss(self) -> String {
        match self {
            Self::Training { checkpoints } => format!(
                "the steps since the last checkpoint are lost (one is written about every {}); the same command goes on from there",
                number::duration(checkpoints.as_secs_f64())
            ),
            Self::Growing => "nothing is kept of the growth; the same command begins again".into(),
            Self::Copying => {
                "the file that was being written is lost; --resume goes on with those before it"
                    .into()
            }
        }
    }
}

/// Becomes true when the run is to end.
pub fn flag() -> &'static AtomicBool {
    &STOP
}

/// Does a run, which the first Ctrl-C or TERM asks to end. A second one ends the process at once, and so does the first after
/// the run.
///
/// # Errors
/// If the system does not let them be listened to.
pub fn during<T>(work: Work, run: impl FnOnce() -> T) -> Result<T> {
    RUNNING.store(true, Ordering::Relaxed);
    ctrlc::set_handler(move || told(work)).context("Ctrl-C cannot be listened to")?;
    listen_to_term(work).context("TERM cannot be listened to")?;
    let outcome = run();
    RUNNING.store(false, Ordering::Relaxed);
    Ok(outcome)
}

/// Somebody wants the process to end.
fn told(work: Work) {
    if !RUNNING.load(Ordering::Relaxed) {
        std::process::exit(EXIT_CODE.into());
    }
    if STOP.swap(true, Ordering::Relaxed) {
        output::note!("\nended at once: {}", work.loss());
        std::process::exit(EXIT_CODE.into());
    }
    output::note!("\n{}; once more ends it at once", work.stopping());
}

#[cfg(unix)]
fn listen_to_term(work: Work) -> std::io::Result<()> {
    use signal_hook::{consts::SIGTERM, iterator::Signals};

    let mut signals = Signals::new([SIGTERM])?;
    std::thread::spawn(move || signals.forever().for_each(|_| told(work)));
    Ok(())
}

#[cfg(not(unix))]
fn listen_to_term(_work: Work) -> std::io::Result<()> {
    Ok(())
}

/// Whether an error is that a run was stopped.
pub fn is_one(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let trained = cause.downcast_ref::<TrainError>();
        let swept = cause.downcast_ref::<LabError>();
        let copied = cause.downcast_ref::<HfError>();
        matches!(
            trained,
            Some(TrainError::Interrupted { .. } | TrainError::InterruptedGrowth)
        ) || matches!(swept, Some(LabError::Interrupted))
            || matches!(copied, Some(HfError::Interrupted { .. }))
    })
}
