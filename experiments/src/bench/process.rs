//! Measurements in processes of their own, so that each has its own peak memory.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use upcycle_lab::{StepTimes, Workload};

use crate::{
    backend::{BackendKind, machine},
    program, threads,
};

/// Training steps for a process to measure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Where to compute.
    pub backend: BackendKind,
    /// Whether with the reference bodies.
    pub reference: bool,
    /// What.
    pub workload: Workload,
}

/// What the process measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Times of the steps.
    pub times: StepTimes,
    /// Rate of a large f32 matrix product, FLOP/s.
    pub matmul_rate: f64,
}

impl Job {
    /// Measures in this process.
    pub fn here(&self) -> Result<Measured> {
        let meter = machine(self.backend)?.meter;
        if self.reference {
            upcycle_kernels::Bodies::Reference.select();
        }
        Ok(Measured {
            times: meter.steps(&self.workload)?,
            matmul_rate: meter.matmul_rate(),
        })
    }

    /// Measures in a new process; also its peak memory in bytes, where the system tells it.
    pub fn elsewhere(&self) -> Result<(Measured, Option<u64>)> {
        let words = program::words("bench")?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(["--threads", &threads::count().to_string()]);
        command.args(["--worker", &serde_json::to_string(self)?]);
        let output = run(command)?;
        Ok((serde_json::from_str(&output.last_line)?, output.peak_memory))
    }
}

/// What a finished process left.
pub struct Output {
    /// The last line that it printed.
    pub last_line: String,
    /// Its peak resident memory in bytes, where the system tells it.
    pub peak_memory: Option<u64>,
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let [stdout, stderr] = [
        child.stdout.take().map(|pipe| read(Box::new(pipe))),
        child.stderr.take().map(|pipe| read(Box::new(pipe))),
    ];
    let mut peak_memory = None;
    let status = loop {
        // The mark only rises; the last look before the end misses a moment of little use.
        peak_memory = peak_resident(child.id()).or(peak_memory);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !status.success() {
        bail!("{name} failed ({status}): {}", stderr.trim_end());
    }
    Ok(Output {
        last_line: stdout.lines().last().unwrap_or_default().to_owned(),
        peak_memory,
    })
}

/// Reads a pipe beside, so that the process never waits for a reader.
fn read(mut pipe: Box<dyn Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Peak resident memory of a process, from Linux's `/proc`.
fn peak_resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
