//! The command line of burn-upcycle. The only crate that names concrete backends.

mod amount;
mod backend;
pub mod bench;
mod data_args;
pub mod inspect;
mod limits;
mod output;
mod progress;
pub mod report;
pub mod sweep;
pub mod train;
pub mod upcycle;

use std::process::ExitCode;

pub use backend::{BackendKind, engine};

/// Tensors come and go every step; the system's allocator returns their pages each time, and every page costs a fault.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs a command and turns its error into a sentence on standard error and exit code 2.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            output::note!("error: {}", output::join_causes(&causes));
            ExitCode::from(2)
        }
    }
}
