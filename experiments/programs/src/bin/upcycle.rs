//! Grows the experts of a checkpoint.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::upcycle::UpcycleArgs::run)
}
