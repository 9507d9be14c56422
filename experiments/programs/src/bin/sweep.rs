//! Runs a sweep of upcycling experiments and writes its report.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::sweep::SweepCommand::run)
}
