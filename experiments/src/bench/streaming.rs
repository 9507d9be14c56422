//! Growing a checkpoint of transformers on disk, beside a plain copy of the files that it gives.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use serde::Serialize;
use upcycle_hf::{Synthetic, Weights};
use upcycle_report::number;

use super::{median, process};
use crate::output;

/// What was measured, a value a round.
#[derive(Debug, Serialize)]
pub struct Table {
    /// Bytes of the grown checkpoint.
    bytes: u64,
    /// Seconds of the whole command.
    seconds: Vec<f64>,
    /// Seconds of copying its output.
    copy_seconds: Vec<f64>,
    /// Rate of the command over that of the copy, median of the rounds.
    ratio: f64,
    /// Peak resident memory of the command in bytes, where the system tells it.
    peak_memory: Option<u64>,
}

/// Grows generated MoE layers of OLMoE-1B-7B's shape, in a folder of `scratch`.
pub fn measure(layers: usize, rounds: usize, scratch: &Path) -> Result<Table> {
    let dir = tempfile::tempdir_in(scratch)
        .with_context(|| format!("cannot write to {}", scratch.display()))?;
    let path = |name: &str| dir.path().join(name);
    let checkpoint = Synthetic {
        model_type: "olmoe".into(),
        layers,
        experts: 64,
        top_k: 8,
        groups: 1,
        d: 2048,
        f: 1024,
        storage: 0,
        weights: Weights::Bf16,
        shard_bytes: 2_000_000_000,
    };
    output::note!("generating a checkpoint in {}", dir.path().display());
    checkpoint.write(&path("from"), 0)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let upcycle = program.with_file_name(format!("upcycle{}", std::env::consts::EXE_SUFFIX));
    let mut table = Table {
        bytes: 0,
        seconds: Vec::new(),
        copy_seconds: Vec::new(),
        ratio: 0.0,
        peak_memory: None,
    };
    for _ in 0..rounds {
        let mut command = Command::new(&upcycle);
        command
            .arg("--from")
            .arg(path("from"))
            .arg("--to")
            .arg(path("to"));
        command.args(["--shard-size", "2GB"]);
        let started = Instant::now();
        let output = process::run(command).with_context(|| {
            format!(
                "build {} first: cargo build --release --bins",
                upcycle.display()
            )
        })?;
        table.seconds.push(started.elapsed().as_secs_f64());
        table.peak_memory = table.peak_memory.max(output.peak_memory);
        let started = Instant::now();
        table.bytes = copy(&path("to"), &path("copy"))?;
        table.copy_seconds.push(started.elapsed().as_secs_f64());
        for name in ["to", "copy"] {
            fs::remove_dir_all(path(name))?;
        }
    }
    let pairs = table.copy_seconds.iter().zip(&table.seconds);
    table.ratio = median(pairs.map(|(copy, seconds)| copy / seconds));
    Ok(table)
}

/// Copies all files and waits until they are on disk, as the command does; their bytes.
fn copy(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir(to)?;
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        bytes += fs::copy(entry.path(), &to)?;
        File::open(&to)?.sync_all()?;
    }
    Ok(bytes)
}

impl Table {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let rate = |seconds: &[f64]| self.bytes as f64 / 1e9 / median(seconds.iter().copied());
        let memory = match self.peak_memory {
            Some(bytes) => format!(", peak memory {}", number::bytes(bytes)),
            None => String::new(),
        };
        vec![
            format!(
                "streaming, {:.2} GB written, OLMoE-1B-7B's shape in bf16",
                self.bytes as f64 / 1e9
            ),
            format!(
                "   upcycle {:.2} GB/s, copy of its output {:.2} GB/s, {:.0} %{memory}",
                rate(&self.seconds),
                rate(&self.copy_seconds),
                100.0 * self.ratio
            ),
        ]
    }
}
