//! Shows what a checkpoint holds.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::inspect::InspectArgs::run)
}
