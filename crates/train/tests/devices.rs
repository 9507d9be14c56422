//! Several devices that train one model. All of them are this processor, which Burn's collective operations do not mind.

#![cfg(feature = "collective")]
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset};
use upcycle_train::*;

type B = Autodiff<Flex>;

fn spec(rows: usize, end: u64) -> TrainSpec {
    TrainSpec {
        schedule: Schedule {
            peak_lr: 5e-3,
            warmup_from: 0,
            warmup_steps: 5,
            decay_from: Some(20),
            end,
        },
        optimizer: OptimizerConfig::default(),
        batch: BatchConfig {
            rows,
            context: 32,
            accumulation: 2,
        },
        data: DataSchedule {
            cpt_from: None,
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        evaluation: EvaluationConfig {
            every: 10,
            rows: 8,
            test_rows: 0,
        },
    }
}

fn train(
    devices: usize,
    spec: &TrainSpec,
    dir: &Path,
) -> (Result<TrainOutcome, TrainError>, Vec<f64>) {
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let model = serde_json::json!({
        "vocab": 144, "context": 32, "d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "experts": 4, "top_k": 2, "d_expert": 16,
    });
    let start = Start::Initial {
        model: Box::new(serde_json::from_value(model).unwrap()),
        seed: 0,
    };
    let engine = BurnEngine::<B>::new("cpu", "test".into(), FlexDevice)
        .with_more_devices(vec![FlexDevice; devices - 1]);
    let job = TrainJob {
        spec,
        start: &start,
        dir,
        data: &data,
        checkpoint_interval: Duration::ZERO,
        other_data: false,
        passes: PassConfig::default(),
        event_file: false,
        cancelled: &AtomicBool::new(false),
        stop: &AtomicBool::new(false),
    };
    let mut losses = Vec::new();
    let outcome = engine.train(&job, &mut |event| {
        if let TrainEvent::Step { loss, .. } = event {
            losses.push(loss);
        }
    });
    (outcome, losses)
}

/// One test, as there is one group of devices in a process at a time.
#[test]
fn several_devices_train_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(6, 30);
    let (alone, expected) = train(1, &spec, &dir.path().join("1"));
    for devices in [2, 3] {
        let (together, losses) = train(devices, &spec, &dir.path().join(devices.to_string()));
        assert_eq!(losses.len(), 30);
        for (step, (a, b)) in expected.iter().zip(&losses).enumerate() {
            assert!(
                (a - b).abs() < 1e-3,
                "{devices} devices, step {step}: {a} and {b}"
            );
        }
        let (a, b) = (alone.as_ref().unwrap(), together.unwrap());
        assert!((a.evaluation.loss - b.evaluation.loss).abs() < 1e-3);
        assert_eq!(a.tokens, b.tokens);
    }

    // What was cut short goes on, with the same losses.
    let cut = dir.path().join("cut");
    let mut first = spec.clone();
    first.schedule.end = 30;
    let short = TrainSpec {
        schedule: Schedule {
            end: 12,
            decay_from: None,
            ..first.schedule.clone()
        },
        ..first.clone()
    };
    let (outcome, mut losses) = train(2, &short, &cut);
    outcome.unwrap();
    let (outcome, rest) = train(2, &first, &cut);
    outcome.unwrap();
    losses.extend(rest);
    let (_, whole) = train(2, &spec, &dir.path().join("whole"));
    assert_eq!(losses, whole);

    // A loss that is not finite ends all of them with the reason.
    let mut wild = spec.clone();
    wild.schedule.peak_lr = 1e30;
    let (outcome, _) = train(2, &wild, &dir.path().join("wild"));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    // And others can begin after it.
    let (outcome, _) = train(2, &short, &dir.path().join("again"));
    outcome.unwrap();

    let (outcome, _) = train(4, &spec, &dir.path().join("uneven"));
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.contains("6 sequences") && error.contains("4 devices"),
        "{error}"
    );
}
