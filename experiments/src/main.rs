//! Grows Mixture-of-Experts language models: all commands in one program.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::commands::Program::run)
}
