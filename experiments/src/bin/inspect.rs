//! Shows what a checkpoint holds.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(|| upcycle_experiments::inspect::InspectArgs::parse().run())
}
