//! Grows the experts of a checkpoint.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(|| upcycle_experiments::upcycle::UpcycleArgs::parse().run())
}
