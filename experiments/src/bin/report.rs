//! Renders the report of a finished sweep again.

use clap::Parser;

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(|| upcycle_experiments::report::ReportArgs::parse().run())
}
