//! Ctrl-C, TERM and HUP: a run ends after its step, with a checkpoint.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use upcycle_data::DataError;
use upcycle_hf::HfError;
use upcycle_lab::LabError;
use upcycle_report::number;
use upcycle_train::TrainError;

use crate::output;

/// Exit code of a run that was stopped, as shells have it.
pub const EXIT_CODE: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);
/// What is being done; none in between.
static WORK: Mutex<Option<Work>> = Mutex::new(None);

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
    /// Text that is read, and kept when all of it is packed.
    Packing,
}

impl Work {
    fn stopping(self) -> &'static str {
        match self {
            Self::Training { .. } => "stopping after this step, with a checkpoint",
            Self::Growing => "stopping, unless the grown model is being written already",
            Self::Copying => "stopping after this piece; what is copied can be gone on with",
            Self::Packing => "stopping, with nothing half-packed",
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
            Self::Packing => {
                "text was only in part packed; the same command removes that and begins again"
                    .into()
            }
        }
    }
}

/// Becomes true when the run is to end.
pub fn flag() -> &'static AtomicBool {
    &STOP
}

/// Does a run, which the first Ctrl-C, TERM or HUP asks to end. A second Ctrl-C or TERM ends the process at once, and so does the
/// first one between runs.
///
/// # Errors
/// If the system does not let them be listened to.
pub fn during<T>(work: Work, run: impl FnOnce() -> T) -> Result<T> {
    listen()?;
    let begin = |work| *WORK.lock().unwrap_or_else(PoisonError::into_inner) = work;
    begin(Some(work));
    let outcome = run();
    begin(None);
    Ok(outcome)
}

/// Listens to signals from the first call on.
fn listen() -> Result<()> {
    static IS_LISTENING: Mutex<bool> = Mutex::new(false);

    let mut is_listening = IS_LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_listening {
        ctrlc::set_handler(told).context("Ctrl-C cannot be listened to")?;
        listen_to_others().context("TERM and HUP cannot be listened to")?;
        *is_listening = true;
    }
    Ok(())
}

/// Somebody wants the process to end.
fn told() {
    let Some(work) = *WORK.lock().unwrap_or_else(PoisonError::into_inner) else {
        std::process::exit(EXIT_CODE.into());
    };
    if STOP.swap(true, Ordering::Relaxed) {
        output::note!("\nended at once: {}", work.loss());
        std::process::exit(EXIT_CODE.into());
    }
    output::note!("\n{}; once more ends it at once", work.stopping());
}

#[cfg(unix)]
fn listen_to_others() -> std::io::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGTERM},
        iterator::Signals,
    };

    let mut wanted = vec![SIGTERM];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            // A terminal that goes away and its shell both say so, and mean one end.
            if signal != SIGHUP || !STOP.load(Ordering::Relaxed) {
                told();
            }
        }
    });
    Ok(())
}

/// Whether the process was started with a signal ignored, as `nohup` does.
#[cfg(unix)]
fn is_ignored(signal: std::ffi::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action `sigaction` changes nothing and only writes the present one, of which all zeros are one.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn listen_to_others() -> std::io::Result<()> {
    Ok(())
}

/// Whether an error is that a run was stopped.
pub fn is_one(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let trained = cause.downcast_ref::<TrainError>();
        let swept = cause.downcast_ref::<LabError>();
        let copied = cause.downcast_ref::<HfError>();
        let packed = cause.downcast_ref::<DataError>();
        matches!(
            trained,
            Some(TrainError::Interrupted { .. } | TrainError::InterruptedGrowth)
        ) || matches!(swept, Some(LabError::Interrupted))
            || matches!(copied, Some(HfError::Interrupted { .. }))
            || matches!(packed, Some(DataError::Interrupted))
    })
}
