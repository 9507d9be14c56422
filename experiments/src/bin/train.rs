//! Trains one model.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::exit(upcycle_experiments::train::TrainArgs::parse().run())
}
