//! Measures the speed of training steps.

fn main() -> std::process::ExitCode {
    upcycle_experiments::run(upcycle_experiments::bench::BenchArgs::run)
}
