//! Training with the specialised bodies and with the reference bodies is the same training.
//!
//! A test program of its own: the choice of bodies holds for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset};
use upcycle_kernels::Bodies;
use upcycle_lm::LmConfig;
use upcycle_train::*;

const STEPS: u64 = 200;

fn losses(bodies: Bodies) -> Vec<f64> {
    bodies.select();
    let model: LmConfig = serde_json::from_value(serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 64, "layers": 2, "heads": 4, "kv_heads": 2,
        "d_ffn": 96, "pattern": { "list": [1] }, "experts": 8, "top_k": 2, "d_expert": 48,
    }))
    .unwrap();
    let spec = TrainSpec {
        schedule: Schedule {
            peak_lr: 3e-3,
            warmup_from: 0,
            warmup_steps: 20,
            decay_from: Some(150),
            end: STEPS,
        },
        optimizer: OptimizerConfig::default(),
        batch: BatchConfig {
            rows: 4,
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
            every: STEPS,
            rows: 8,
            test_rows: 0,
        },
    };
    let dir = tempfile::tempdir().unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let start = Start::Initial {
        model: Box::new(model),
        seed: 0,
    };
    let job = TrainJob {
        spec: &spec,
        start: &start,
        dir: dir.path(),
        data: &data,
        other_data: false,
        event_file: false,
        passes: PassConfig::default(),
        checkpoint_interval: Duration::from_secs(3600),
        cancelled: &AtomicBool::new(false),
        stop: &AtomicBool::new(false),
    };
    let engine = BurnEngine::<Autodiff<Flex>>::new("cpu", "test".into(), FlexDevice);
    engine.train(&job, &mut |_| ()).unwrap();
    let lines = read_metrics(&dir.path().join("metrics.jsonl")).unwrap();
    lines
        .iter()
        .map(|line| match line {
            MetricsLine::Step { loss, .. } | MetricsLine::Evaluation { loss, .. } => *loss,
        })
        .collect()
}

#[test]
fn losses_agree_over_200_steps() {
    let (specialised, reference) = (losses(Bodies::Specialised), losses(Bodies::Reference));
    assert_eq!(specialised.len() as u64, STEPS + 1);
    let first = specialised[0];
    assert!(specialised[STEPS as usize] < first - 1.0, "it learns");
    let largest = specialised
        .iter()
        .zip(&reference)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(largest < 1e-3, "largest difference {largest} nats");
    // Bit for bit the same would mean that the same bodies ran twice.
    assert!(largest > 0.0, "both runs had the same bodies");
}
