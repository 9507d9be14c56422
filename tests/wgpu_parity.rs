//! The WGPU backend trains like the CPU backend.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, time::Duration};

use upcycle_data::{DataConfig, Dataset};
use upcycle_experiments::{BackendKind, engine};
use upcycle_lm::LmConfig;
use upcycle_train::{
    BatchConfig, DataSchedule, EvaluationConfig, MetricsLine, Schedule, Start, TrainJob, TrainSpec,
    read_metrics,
};

/// Losses of some steps of a small model, and the final validation loss.
fn losses(backend: BackendKind) -> Vec<f64> {
    let model = serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "d_ffn": 48, "pattern": { "list": [1] }, "experts": 8, "top_k": 2, "d_expert": 16,
    });
    let model: LmConfig = serde_json::from_value(model).unwrap();
    let spec = TrainSpec {
        schedule: Schedule {
            peak_lr: 3e-3,
            warmup_from: 0,
            warmup_steps: 3,
            decay_from: None,
            end: 8,
        },
        optimizer: Default::default(),
        batch: BatchConfig {
            rows: 2,
            context: 64,
            accumulation: 1,
        },
        data: DataSchedule {
            cpt_from: None,
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        evaluation: EvaluationConfig {
            every: 100,
            rows: 4,
        },
    };
    let dir = tempfile::tempdir().unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let engine = engine(backend).unwrap();
    let job = TrainJob {
        spec: &spec,
        start: &Start::Initial {
            model: Box::new(model),
            seed: 0,
        },
        dir: dir.path(),
        data: &data,
        checkpoint_interval: Duration::from_secs(3600),
    };
    engine.train(&job, &mut |_| ()).unwrap();
    read_metrics(&dir.path().join("metrics.jsonl"))
        .unwrap()
        .iter()
        .map(|line| match line {
            MetricsLine::Step { loss, .. } | MetricsLine::Evaluation { loss, .. } => *loss,
        })
        .collect()
}

#[test]
fn losses_match_the_cpu() {
    let (cpu, wgpu) = (losses(BackendKind::Cpu), losses(BackendKind::Wgpu));
    assert_eq!(cpu.len(), 9);
    for (cpu, wgpu) in cpu.iter().zip(&wgpu) {
        assert!((cpu - wgpu).abs() < 1e-3, "cpu {cpu}, wgpu {wgpu}");
    }
}
