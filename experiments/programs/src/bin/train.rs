//! Trains one model.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::train::TrainArgs::run)
}
