//! The command line of burn-upcycle. The only crate that names concrete backends.

mod amount;
mod backend;
mod baseline;
pub mod bench;
#[cfg(feature = "tui")]
mod dashboard;
mod data_args;
pub mod evaluate;
mod flags;
pub mod inspect;
mod interrupt;
mod limits;
mod output;
mod program;
mod progress;
mod recipe_args;
pub mod report;
mod routers;
mod sources;
pub mod sweep;
pub mod train;
mod ui;
pub mod upcycle;

use std::{
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
};

pub use backend::{BackendKind, engine, machine};

/// Tensors come and go every step; the system's allocator returns their pages each time, and every page costs a fault.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, the same in its versions 2 and 3; the bindings have no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Parses the flags of a command and runs it. An error is a sentence on standard error and exit code 2, and so is a panic,
/// which is a defect; a run that was stopped has exit code 130.
pub fn run<C: clap::Parser>(command: impl FnOnce(C) -> anyhow::Result<()>) -> ExitCode {
    // Freed pages are kept for the next step; `MIMALLOC_PURGE_DELAY` in the environment goes before.
    // SAFETY: it sets a number in the allocator, before there is a second thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
    panic::set_hook(Box::new(|info| {
        output::note!("error: a defect of this program or of Burn: {info}");
    }));
    let flags = C::parse();
    let result = panic::catch_unwind(AssertUnwindSafe(|| command(flags)));
    let Ok(result) = result else {
        return ExitCode::from(2);
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    let sentence = output::join_causes(&causes);
    if interrupt::is_one(&error) {
        output::note!("{sentence}");
        return ExitCode::from(interrupt::EXIT_CODE);
    }
    let arguments = C::command();
    let has = |flag: &str| {
        let mut longs = arguments.get_arguments().filter_map(|it| it.get_long());
        longs.any(|long| long == flag)
    };
    let hint = flags::hint(&sentence, has);
    output::note!("error: {sentence}{hint}");
    ExitCode::from(2)
}
