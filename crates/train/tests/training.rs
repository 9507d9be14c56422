//! Training stages on the CPU backend: golden losses, exact resume, both recipes at tau.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, time::Duration};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset};
use upcycle_lm::LmConfig;
use upcycle_train::*;

type B = Autodiff<Flex>;

fn tiny() -> LmConfig {
    serde_json::from_value(serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 64, "layers": 2, "heads": 4, "kv_heads": 4,
        "experts": 8, "top_k": 2, "d_expert": 16,
    }))
    .unwrap()
}

fn spec(end: u64) -> TrainSpec {
    TrainSpec {
        schedule: Schedule {
            peak_lr: 5e-3,
            warmup_from: 0,
            warmup_steps: 10,
            decay_from: None,
            end,
        },
        optimizer: OptimizerConfig::default(),
        batch: BatchConfig {
            rows: 16,
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
            every: 1000,
            rows: 64,
        },
    }
}

fn engine() -> BurnEngine<B> {
    BurnEngine::new("cpu", "test".into(), FlexDevice)
}

fn data() -> Dataset {
    Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap()
}

#[test]
fn golden() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::Initial {
        model: Box::new(tiny()),
        seed: 0,
    };
    let t = std::time::Instant::now();
    let outcome = engine()
        .train(
            &TrainJob {
                spec: &spec(100),
                start: &start,
                dir: dir.path(),
                data: &data(),
                checkpoint_interval: Duration::from_secs(60),
            },
            &mut |event| {
                if let TrainEvent::Step {
                    step,
                    loss,
                    seconds,
                    ..
                } = event
                {
                    if step % 10 == 0 {
                        println!("{step} {loss:.4} {seconds:.4}")
                    }
                }
            },
        )
        .unwrap();
    println!("{:?} {outcome:?}", t.elapsed());
}
