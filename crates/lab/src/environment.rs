//! The machine that an experiment ran on.

use std::{thread, time::SystemTime};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use upcycle_report::Environment;

/// The machine and software of this process.
pub fn environment(backend: &str, device: &str) -> Environment {
    let kind = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(kind);
    let processor = system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().trim().to_owned());
    Environment {
        version: env!("CARGO_PKG_VERSION").into(),
        backend: format!("{backend} ({device})"),
        // Only results know what computed them.
        kernels: None,
        processor: processor
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".into()),
        threads: thread::available_parallelism().map_or(1, usize::from),
        system: format!(
            "{} {}",
            System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
            std::env::consts::ARCH
        ),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        // Only programs know of what they are built.
        commit: None,
        program: None,
    }
}

/// Name of this machine; empty if the system does not say.
pub fn host_name() -> String {
    System::host_name().unwrap_or_default()
}

/// Memory that programs can have on this machine, in bytes; none if the system does not say.
pub fn available_memory() -> Option<u64> {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::everything());
    let memory = System::new_with_specifics(kind).total_memory();
    (memory > 0).then_some(memory)
}
