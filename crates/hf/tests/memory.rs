//! Memory does not grow with the checkpoint.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use upcycle_hf::{Growth, GrowthRequest, HfCheckpoint, Synthetic, Weights, WriteOptions};
use upcycle_operator::{Recipe, Upcycle};

/// Peak resident memory of this process in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kib / 1000
}

#[test]
#[ignore = "writes 7 GB; run by name on Linux"]
fn gigabytes_are_grown_in_less_than_500_mb() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    for (model_type, weights, experts) in [
        ("olmoe", Weights::Bf16, 64),
        // One tensor alone is 1 GB here.
        ("llama4_text", Weights::Bf16, 16),
    ] {
        let checkpoint = Synthetic {
            storage: 0,
            model_type: model_type.into(),
            layers: if experts == 64 { 2 } else { 1 },
            experts,
            top_k: 1,
            groups: 1,
            d: 2048,
            f: if experts == 64 { 1024 } else { 8192 },
            weights,
            shard_bytes: 2_000_000_000,
        };
        checkpoint.write(&from, 1).unwrap();
        let operator = Upcycle::new(Recipe::named("hyperplane").unwrap(), 2 * experts);
        let opened = HfCheckpoint::open(&from, None).unwrap();
        let request = GrowthRequest {
            operator,
            top_k: None,
            scores: None,
        };
        let growth = Growth::new(&opened, request).unwrap();
        growth.forecast().unwrap();
        let options = WriteOptions {
            shard_bytes: 1_000_000_000,
            resume: false,
            force: false,
        };
        let to = dir.path().join("to");
        let written = growth.write(&to, options, &mut |_| ()).unwrap();
        assert!(written.bytes > 2_500_000_000, "{}", written.bytes);
        assert!(peak() < 500, "{} MB", peak());
        eprintln!(
            "{model_type}: {:.2} GB in {} MB",
            written.bytes as f64 / 1e9,
            peak()
        );
        std::fs::remove_dir_all(&from).unwrap();
        std::fs::remove_dir_all(&to).unwrap();
    }
}
