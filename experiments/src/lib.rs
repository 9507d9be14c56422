//! The command line of burn-upcycle. The only crate that names concrete backends.

mod amount;
mod backend;
pub mod bench;
#[cfg(feature = "tui")]
mod dashboard;
mod data_args;
pub mod inspect;
mod interrupt;
mod limits;
mod output;
mod progress;
mod recipe_args;
pub mod report;
mod routers;
mod sources;
pub mod sweep;
pub mod train;
mod ui;
pub mod upcycle;

use std::process::ExitCode;

pub use backend::{BackendKind, engine, machine};

/// Tensors come and go every step; the system's allocator returns their pages each time, and every page costs a fault.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, the same in its versions 2 and 3; the bindings have no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Runs a command and turns its error into a sentence on standard error and exit code 2.
pub fn run(command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    // Freed pages are kept for the next step; `MIMALLOC_PURGE_DELAY` in the environment goes before.
    // SAFETY: it sets a number in the allocator, before there is a second thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            output::note!("error: {}", output::join_causes(&causes));
            ExitCode::from(2)
        }
    }
}
