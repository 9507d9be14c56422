//! Evaluates checkpoints on downstream tasks.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::evaluate::EvaluateArgs::run)
}
