//! The command line of burn-upcycle. The only crate that names concrete backends.

mod amount;
mod backend;
mod baseline;
pub mod bench;
pub mod commands;
#[cfg(feature = "tui")]
mod dashboard;
mod data_args;
mod devices;
pub mod evaluate;
pub mod export;
mod flags;
pub mod generate;
mod hub_data;
pub mod inspect;
mod interrupt;
mod kernels;
mod limits;
pub mod manual;
mod output;
mod packing;
mod processes;
mod program;
mod progress;
mod recipe_args;
mod repetition;
pub mod report;
mod routers;
pub mod runs;
mod sources;
pub mod sweep;
mod threads;
mod tokenizer;
pub mod train;
mod training_file;
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

/// Gives freed pages back to the system again, once they are not used for some milliseconds. What devices of a processor send each
/// other is made by one thread and freed by another one, and pages that every thread kept would be twice the memory of a model.
#[cfg(feature = "cpu")]
pub(crate) fn give_pages_back() {
    // SAFETY: it sets a number in the allocator, which other threads only read.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 10) };
}

/// Parses the flags of a command and runs it. An error is a sentence on standard error and exit code 2, and so is a panic,
/// which is a defect; a run that was stopped has exit code 130.
pub fn run<C: clap::Parser>(command: impl FnOnce(C) -> anyhow::Result<()>) -> ExitCode {
    // Freed pages are kept for the next step; `MIMALLOC_PURGE_DELAY` in the environment goes before.
    // SAFETY: it sets a number in the allocator, before there is a second thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
    panic::set_hook(Box::new(|info| {
        output::error(&format!("a defect of this program or of Burn: {info}"));
    }));
    let mut program = C::command();
    program::started_as(program.get_name());
    let matches = program.clone().get_matches();
    let flags =
        C::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut program).exit());
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
    let command = called(&program, &matches);
    let has = |flag: &str| {
        let mut longs = command.get_arguments().filter_map(|it| it.get_long());
        longs.any(|long| long == flag)
    };
    let hint = flags::hint(&sentence, has);
    output::error(&format!("{sentence}{hint}"));
    ExitCode::from(2)
}

/// The subcommand that was called, whose flags are the ones that there are.
fn called<'a>(program: &'a clap::Command, matches: &clap::ArgMatches) -> &'a clap::Command {
    let chosen = matches
        .subcommand()
        .and_then(|(name, matches)| Some((program.find_subcommand(name)?, matches)));
    match chosen {
        Some((command, matches)) => called(command, matches),
        None => program,
    }
}
