//! Several devices that train one model. All of them are this processor.

use std::{fs, path::Path, sync::atomic::AtomicBool, thread, time::Duration};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use upcycle_data::{DataConfig, Dataset};
use upcycle_team::Team;
use upcycle_train::*;

type B = Autodiff<Flex>;

/// Devices, and how many of them share the experts of a layer.
const CREWS: [(usize, usize); 5] = [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)];

fn spec(end: u64) -> TrainSpec {
    TrainSpec {
        schedule: Schedule {
            peak_lr: 2e-3,
            warmup_from: 0,
            warmup_steps: 5,
            decay_from: None,
            end,
        },
        optimizer: OptimizerConfig::default(),
        batch: BatchConfig {
            rows: 4,
            context: 32,
            accumulation: 2,
        },
        data: DataSchedule {
            cpt_from: None,
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        // Not as many for each device.
        evaluation: EvaluationConfig {
            every: 4,
            rows: 3,
            test_rows: 5,
        },
    }
}

fn engine() -> BurnEngine<B> {
    BurnEngine::new("cpu", "test".into(), FlexDevice)
}

fn several((devices, expert_parallel): (usize, usize)) -> BurnEngine<B> {
    engine().with_more_devices(vec![FlexDevice; devices - 1], expert_parallel)
}

/// Trains a stage in a folder, and tells the loss of every step.
fn train_by(
    engine: &BurnEngine<B>,
    spec: &TrainSpec,
    dir: &Path,
    on_step: impl FnMut(u64) + Send,
) -> (Result<TrainOutcome, TrainError>, Vec<f64>) {
    train_until(&AtomicBool::new(false), engine, spec, dir, on_step)
}

/// The same, until it is told to stop.
fn train_until(
    stop: &AtomicBool,
    engine: &BurnEngine<B>,
    spec: &TrainSpec,
    dir: &Path,
    mut on_step: impl FnMut(u64) + Send,
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
        stop,
    };
    let mut losses = Vec::new();
    let outcome = engine.train(&job, &mut |event| {
        if let TrainEvent::Step { step, loss, .. } = event {
            losses.push(loss);
            on_step(step);
        }
    });
    (outcome, losses)
}

fn train(crew: (usize, usize), spec: &TrainSpec, dir: &Path) -> (TrainOutcome, Vec<f64>) {
    let (outcome, losses) = train_by(&several(crew), spec, dir, |_| ());
    (outcome.unwrap(), losses)
}

fn error(crew: (usize, usize), spec: &TrainSpec, dir: &Path) -> String {
    let (outcome, _) = train_by(&several(crew), spec, dir, |_| ());
    outcome.unwrap_err().to_string()
}

#[track_caller]
fn assert_close(a: &[f64], b: &[f64], tolerance: f64, what: impl std::fmt::Debug) {
    assert_eq!(a.len(), b.len(), "{what:?}");
    let is_close = a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance);
    assert!(is_close, "{what:?}: {a:?} and {b:?}");
}

#[test]
fn several_devices_train_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(6);
    let (alone, expected) = train((1, 1), &spec, &dir.path().join("alone"));
    for crew in CREWS {
        let [one, other] = ["one", "other"].map(|name| {
            let dir = dir.path().join(format!("{crew:?} {name}"));
            train(crew, &spec, &dir)
        });
        assert_close(&one.1, &expected, 1e-4, crew);
        let (a, b) = (&alone.evaluation, &one.0.evaluation);
        assert_close(&[a.loss], &[b.loss], 1e-4, crew);
        assert_eq!(alone.tokens, one.0.tokens);
        assert_eq!(one.1, other.1, "{crew:?}");
        assert_eq!(one.0.evaluation, other.0.evaluation, "{crew:?}");
    }
}

#[test]
fn all_evaluate_a_share_with_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(2);
    let (alone, _) = train((1, 1), &spec, dir.path());
    for crew in CREWS {
        // The stage has no step left, but its evaluation.
        let (together, losses) = train(crew, &spec, dir.path());
        assert!(losses.is_empty());
        let (a, b) = (&alone.evaluation, &together.evaluation);
        assert_close(&[a.loss], &[b.loss], 2e-6, crew);
        let [a_test, b_test] = [&alone, &together].map(|it| it.test_loss.unwrap());
        assert_close(&[a_test], &[b_test], 2e-6, crew);
        for (a, b) in a.routing.iter().zip(&b.routing) {
            assert_close(&a.load, &b.load, 0.01, crew);
        }
    }
}

#[test]
fn the_files_are_those_of_one_device() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(1);
    let files = |crew| {
        let dir = dir.path().join(format!("{crew:?}"));
        train(crew, &spec, &dir);
        let checkpoint = StageCheckpoints::new(&dir).latest().unwrap();
        ["model.safetensors", "optimizer.safetensors"]
            .map(|name| fs::read(checkpoint.join(name)).unwrap())
    };
    let expected = files((1, 1));
    let values = |bytes: &[u8]| -> Vec<f64> {
        let (numbers, _) = bytes.as_chunks();
        let numbers = numbers.iter().map(|&number| f32::from_le_bytes(number));
        numbers.map(f64::from).collect()
    };
    for crew in CREWS {
        let [model, optimizer] = files(crew);
        assert_eq!(model.len(), expected[0].len(), "{crew:?}");
        let (length, _) = expected[1].split_first_chunk().unwrap();
        let header = 8 + u64::from_le_bytes(*length) as usize;
        assert!(optimizer[..header] == expected[1][..header], "{crew:?}");
        let [own, one] = [&optimizer, &expected[1]].map(|file| values(&file[header..]));
        assert_close(&own, &one, 1e-6, crew);
    }
}

#[test]
fn a_stage_goes_on_with_any_number_of_devices() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (_, expected) = train((1, 1), &spec(8), &path("alone"));
    let parts = |crews: &[(usize, usize)], name: &str| -> Vec<f64> {
        let ends = (1..).map(|part| 2 * part);
        let parts = crews.iter().zip(ends);
        let losses = parts.map(|(&crew, end)| train(crew, &spec(end), &path(name)).1);
        losses.flatten().collect()
    };
    let mixed = parts(&[(4, 4), (2, 1), (1, 1), (4, 2)], "mixed");
    assert_close(&mixed, &expected, 1e-4, "mixed");
    // With as many as before to the last bit.
    let (_, whole) = train((4, 2), &spec(8), &path("whole"));
    assert_eq!(parts(&[(4, 2); 4], "parts"), whole);
}

#[test]
fn a_device_that_fails_ends_the_stage_with_its_reason_and_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let teams = Team::threads(2);
    let broken = teams[1].clone();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let processes: Vec<_> = teams
            .into_iter()
            .map(|team| {
                let (broken, dir) = (broken.clone(), dir.path());
                scope.spawn(move || {
                    let engine = engine().in_team(team.clone(), 2);
                    let outcome = train_by(&engine, &spec(6), dir, |step| {
                        if step == 3 {
                            broken.fail("there is no memory left");
                        }
                    });
                    team.leave();
                    outcome.0
                })
            })
            .collect();
        let ended = processes.into_iter().map(|process| process.join().unwrap());
        ended.collect()
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        for part in ["device 1", "no memory left", "checkpoint is kept in"] {
            assert!(error.contains(part), "{error}");
        }
    }
    let (outcome, losses) = train((1, 1), &spec(6), dir.path());
    assert!(outcome.step == 6 && losses.len() < 6, "{losses:?}");

    // What all find at once needs nobody to be told, and others can begin after it.
    let mut wild = spec(6);
    wild.schedule.peak_lr = 1e30;
    let not_finite = error((4, 2), &wild, &dir.path().join("wild"));
    assert!(not_finite.contains("not finite"), "{not_finite}");
}

#[test]
fn a_device_that_is_told_to_stop_ends_the_stage_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let stops = [false, true].map(AtomicBool::new);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let processes: Vec<_> = (Team::threads(2).into_iter().zip(&stops))
            .map(|(team, stop)| {
                let dir = dir.path();
                scope.spawn(move || {
                    let engine = engine().in_team(team.clone(), 2);
                    let (outcome, _) = train_until(stop, &engine, &spec(6), dir, |_| ());
                    team.leave();
                    outcome
                })
            })
            .collect();
        let ended = processes.into_iter().map(|process| process.join().unwrap());
        ended.collect()
    });
    for outcome in outcomes {
        let stopped = matches!(outcome, Err(TrainError::Interrupted { step: 0 }));
        assert!(stopped, "{outcome:?}");
    }
    assert!(StageCheckpoints::new(dir.path()).latest().is_some());
}

#[test]
fn numbers_that_do_not_divide_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (crew, rows, parts) in [
        ((4, 1), 6, ["6 sequences", "4 devices"]),
        ((4, 3), 4, ["--expert-parallel 3", "1, 2 or 4"]),
        ((8, 8), 8, ["--expert-parallel 8", "4 experts"]),
    ] {
        let mut spec = spec(1);
        spec.batch.rows = rows;
        let error = error(crew, &spec, dir.path());
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}
