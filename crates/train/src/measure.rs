//! Measured training steps and operations, without data, checkpoints or metrics.

use std::time::{Duration, Instant};

use burn::tensor::{ElementConversion, Tensor, backend::Backend};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use upcycle_data::Batch;
use upcycle_kernels::{
    MoeAutodiffBackend, Precision,
    cases::{Run, Sizes, cases},
};
use upcycle_lm::LmConfig;

use crate::{
    checkpoint::Checkpoint,
    config::BatchConfig,
    error::TrainError,
    learner::{Learner, Settings, StepSums},
};

/// Training steps to measure: a new model on random tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The model.
    pub model: LmConfig,
    /// Tokens of a step.
    pub batch: BatchConfig,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
}

/// Seconds of every measured step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Forward and backward passes.
    pub gradients: Vec<f64>,
    /// Global norm, optimizer and balancing.
    pub update: Vec<f64>,
}

/// Measures training steps.
pub fn measure<B: MoeAutodiffBackend>(
    workload: &Workload,
    device: &B::Device,
) -> Result<StepTimes, TrainError> {
    let (optimizer, balancing) = Default::default();
    let state = Checkpoint::<B>::initial(&workload.model, 0, device)?;
    let mut learner = Learner {
        model: state.model,
        optimizer: state.optimizer,
        settings: Settings {
            optimizer: &optimizer,
            balancing: &balancing,
            precision: workload.precision,
        },
        device,
    };
    let mut rng = StdRng::seed_from_u64(0);
    let mut times = StepTimes {
        gradients: Vec::new(),
        update: Vec::new(),
    };
    for step in 0..workload.warmup + workload.steps {
        let batch = random_batch(&workload.batch, workload.model.vocab, &mut rng);
        let started = Instant::now();
        let mut sums = StepSums::new(workload.batch.accumulation);
        for _ in 0..workload.batch.accumulation {
            learner.accumulate(&batch, &mut sums);
        }
        wait::<B>(device)?;
        let between = Instant::now();
        let gradients = sums.gradients(&learner.model);
        learner = learner.update(gradients, 1e-3);
        wait::<B>(device)?;
        if step >= workload.warmup {
            times.gradients.push((between - started).as_secs_f64());
            times.update.push(between.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// Waits until the device has done all of its work.
fn wait<B: MoeAutodiffBackend>(device: &B::Device) -> Result<(), TrainError> {
    B::sync(device).map_err(|error| TrainError::Device(error.to_string()))
}

/// Tokens and targets drawn uniformly.
fn random_batch(shape: &BatchConfig, vocab: usize, rng: &mut StdRng) -> Batch {
    let positions = shape.rows * shape.context;
    let mut draw = || {
        (0..positions)
            .map(|_| rng.random_range(0..vocab as u32))
            .collect()
    };
    Batch {
        rows: shape.rows,
        context: shape.context,
        inputs: draw(),
        targets: draw(),
        weights: vec![1.0; positions],
        choices: 1,
    }
}

/// Times of one operation, forward and backward pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationTimes {
    /// Its name.
    pub operation: String,
    /// Floating point operations of its matrix products.
    pub flops: f64,
    /// Bytes of arguments, results and gradients.
    pub bytes: f64,
    /// Median seconds of the backend's own body; none where it has none.
    pub seconds: Option<f64>,
    /// Median seconds of the reference body.
    pub reference_seconds: f64,
}

/// Measures every operation at these sizes.
pub fn measure_operations<B: MoeAutodiffBackend>(
    sizes: Sizes,
    device: &B::Device,
) -> Vec<OperationTimes> {
    let times = cases::<B>(sizes, device)
        .into_iter()
        .map(|case| OperationTimes {
            operation: case.name.to_owned(),
            flops: case.flops,
            bytes: case.bytes,
            seconds: case.specialised.as_ref().map(median_seconds),
            reference_seconds: median_seconds(&case.reference),
        });
    times.collect()
}

/// A run is repeated for this long.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
/// And at least this often.
const OFTEN_ENOUGH: usize = 5;

/// Median of the seconds of a run, after one that does not count.
fn median_seconds(run: &Run) -> f64 {
    run();
    let begun = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < OFTEN_ENOUGH || begun.elapsed() < LONG_ENOUGH {
        let started = Instant::now();
        run();
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Rate of a large f32 matrix product, in FLOP/s.
pub fn matmul_rate<B: Backend>(device: &B::Device) -> f64 {
    const N: usize = 1024;
    let x = Tensor::<B, 2>::ones([N, N], device);
    2.0 * (N as f64).powi(3) / best_seconds(|| x.clone().matmul(x.clone()))
}

/// Rate of copying within the device's memory, in bytes read and written a second.
pub fn copy_rate<B: Backend>(device: &B::Device) -> f64 {
    const N: usize = 4096;
    let x = Tensor::<B, 2>::ones([N, N], device);
    let bytes = 2 * N * N * size_of::<f32>();
    bytes as f64 / best_seconds(|| x.clone() + 1.0)
}

/// Least seconds until a tensor is there.
fn best_seconds<B: Backend>(compute: impl Fn() -> Tensor<B, 2>) -> f64 {
    let seconds = |_| {
        let started = Instant::now();
        // Reading one element waits for the device.
        compute().slice([0..1, 0..1]).into_scalar().elem::<f32>();
        started.elapsed().as_secs_f64()
    };
    (0..9).map(seconds).fold(f64::INFINITY, f64::min)
}
