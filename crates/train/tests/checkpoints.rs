//! Checkpoints on disk: their memory, their bytes, and those of the format before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use burn::{
    backend::Autodiff,
    module::{Module, ModuleVisitor, Param},
    optim::{AdamWState, AdaptiveMomentumState, record::AdaptorRecord},
    tensor::Tensor,
};
use burn_flex::{Flex, FlexDevice};
use peak_alloc::PeakAlloc;
use serde_json::json;
use upcycle_data::{DataConfig, Dataset};
use upcycle_kernels::AdamWRecord;
use upcycle_lm::{Lm, LmConfig, parameter_shapes};
use upcycle_train::*;

type B = Autodiff<Flex>;

/// One test at a time, since all share the counters.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What `work` makes, and how many bytes it needs for a time beyond those that are there before, or, with what it makes,
/// after it.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let made = work();
    let after = ALLOCATOR.current_usage();
    let peak = ALLOCATOR.peak_usage() - before.max(after);
    (made, peak)
}

/// Moments of every parameter of a model.
struct Moments(AdamWRecord<B>);

impl ModuleVisitor<B> for Moments {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = param.val().inner();
        let state = AdaptiveMomentumState::new(7, value.clone() * 2.0, value * 3.0);
        let record = AdaptorRecord::from_state::<D>(AdamWState::new(state));
        self.0.insert(param.id, record);
    }
}

/// A model that has taken steps.
fn trained(config: &LmConfig) -> Checkpoint<B> {
    let mut checkpoint = Checkpoint::<B>::initial(config, 3, &FlexDevice).unwrap();
    let mut moments = Moments(AdamWRecord::<B>::new());
    checkpoint.model.visit(&mut moments);
    checkpoint.optimizer = moments.0;
    checkpoint.step = 7;
    checkpoint
}

fn config(experts: usize, width: usize) -> LmConfig {
    let json = json!({
        "vocab": 512, "context": 64, "d_model": width, "layers": 3, "heads": 2, "kv_heads": 2,
        "experts": experts, "top_k": 2, "d_expert": width,
    });
    serde_json::from_value(json).unwrap()
}

fn largest(model: &Lm<B>) -> usize {
    let sizes = parameter_shapes(model).into_iter();
    let sizes = sizes.map(|shape| 4 * shape.dims.iter().product::<usize>());
    sizes.max().unwrap()
}

#[test]
fn beside_the_state_no_more_than_the_largest_tensor_is_in_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    // 230 MB with moments; the largest tensor has 8 MB.
    let checkpoint = trained(&config(32, 256));
    let bound = largest(&checkpoint.model) * 6 / 5;
    let path = dir.path().join("checkpoint");
    let (saved, peak_of_saving) = peak(|| checkpoint.save(&path));
    saved.unwrap();
    assert!(
        peak_of_saving <= bound,
        "saving: {peak_of_saving} beyond {bound}"
    );
    let (read, peak_of_reading) = peak(|| Checkpoint::<B>::load(&path, &FlexDevice).unwrap());
    assert!(
        peak_of_reading <= bound,
        "reading: {peak_of_reading} beyond {bound}"
    );
    assert_eq!(read.step, 7);
}

#[test]
fn what_is_read_is_what_was_written_and_equal_models_have_equal_files() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let config = config(4, 16);
    trained(&config).save(&path("one")).unwrap();
    trained(&config).save(&path("other")).unwrap();
    let read = Checkpoint::<B>::load(&path("one"), &FlexDevice).unwrap();
    read.save(&path("again")).unwrap();
    for file in [
        "model.safetensors",
        "optimizer.safetensors",
        "checkpoint.json",
    ] {
        let bytes = |name: &str| fs::read(path(name).join(file)).unwrap();
        assert!(bytes("one") == bytes("other"), "{file}");
        assert!(bytes("one") == bytes("again"), "{file}");
    }
    // In every process, the parameters of a checkpoint have the same ids.
    let ids = |checkpoint: &Checkpoint<B>| {
        let shapes = parameter_shapes(&checkpoint.model).into_iter();
        shapes
            .map(|shape| (shape.id, shape.trained))
            .collect::<Vec<_>>()
    };
    let more = Checkpoint::<B>::load(&path("other"), &FlexDevice).unwrap();
    assert_eq!(ids(&read), ids(&more));
    let trained = |checkpoint: &Checkpoint<B>| -> Vec<bool> {
        ids(checkpoint)
            .into_iter()
            .map(|(_, trained)| trained)
            .collect()
    };
    assert_eq!(trained(&read), trained(&self::trained(&config)));
}

#[test]
fn a_state_that_belongs_to_no_parameter_is_not_written() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = trained(&config(4, 16));
    checkpoint.optimizer = trained(&config(8, 16)).optimizer;
    let error = checkpoint.save(&dir.path().join("new")).unwrap_err();
    assert!(
        error.to_string().contains("state of no parameter"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Made by the version of the program that wrote records, after a growth by `exact`; the loss is what that version reached
/// from it.
#[test]
fn checkpoints_of_the_format_before_are_gone_on_with() {
    const LOSS: f64 = 5.321360270182292;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint_of_format_4");
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    let read = Checkpoint::<B>::load(&old, &FlexDevice).unwrap();
    read.save(&new).unwrap();
    assert_eq!(CheckpointInfo::read(&new).unwrap().format, 5);
    let spec: TrainSpec = serde_json::from_value(json!({
        "schedule": { "peak_lr": 0.002, "warmup_from": 14, "warmup_steps": 0, "decay_from": 27, "end": 28 },
        "optimizer": OptimizerConfig::default(),
        "batch": { "rows": 2, "context": 16, "accumulation": 1 },
        "data": { "cpt_from": 14, "seed": 0 },
        "balancing": { "bias_rate": 0.001, "auxiliary_loss": 0.0, "z_loss": 0.0 },
        "precision": "f32",
        "evaluation": { "every": 7, "rows": 4 },
    }))
    .unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let loss = |from: &Path, to: &str| {
        let (dir, start) = (dir.path().join(to), Start::Checkpoint(from.to_owned()));
        let job = TrainJob {
            spec: &spec,
            start: &start,
            dir: &dir,
            data: &data,
            other_data: false,
            event_file: false,
            passes: PassConfig::default(),
            checkpoint_interval: Duration::from_secs(3600),
            cancelled: &AtomicBool::new(false),
            stop: &AtomicBool::new(false),
        };
        let engine = BurnEngine::<B>::new("cpu", "test".into(), FlexDevice);
        engine.train(&job, &mut |_| ()).unwrap().evaluation.loss
    };
    let of_old = loss(&old, "on-from-old");
    assert_eq!(of_old, loss(&new, "on-from-new"));
    assert!((of_old - LOSS).abs() < 1e-4, "{of_old}");
}
