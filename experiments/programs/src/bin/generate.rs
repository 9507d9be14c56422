//! Continues a text with a model.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::generate::GenerateArgs::run)
}
