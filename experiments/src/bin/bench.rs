//! Measures the speed of training steps.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(|| upcycle_experiments::bench::BenchArgs::parse().run())
}
