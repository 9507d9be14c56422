//! Trains one model.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(|| upcycle_experiments::train::TrainArgs::parse().run())
}
