//! Grows the experts of a checkpoint.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::exit(upcycle_experiments::upcycle::UpcycleArgs::parse().run())
}
