//! Renders the report of a finished sweep again.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::report::ReportArgs::run)
}
