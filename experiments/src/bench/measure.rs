//! Measured training steps, operations and growths on a Burn backend, without data, checkpoints or metrics.

use std::time::{Duration, Instant};

use burn::tensor::{ElementConversion, Tensor, backend::Backend};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use upcycle_data::Batch;
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, MoeBackend};
use upcycle_lab::{Meter, StepTimes, Workload};
use upcycle_lm::{Lm, LmConfig, parameter_shapes};
use upcycle_operator::{Evidence, Upcycle};
use upcycle_train::{BatchConfig, Learner, LearnerConfig, TrainError};

use super::cases::{Run, Sizes, cases};

/// A meter that also measures what benchmarks ask for.
pub trait Bench: Meter {
    /// Measures growing a new model of this shape, for some rounds; writes nothing.
    ///
    /// # Errors
    /// If the model cannot be built or grown, or the device fails.
    fn operator(
        &self,
        model: &LmConfig,
        operator: &Upcycle,
        rounds: usize,
    ) -> Result<OperatorTimes, TrainError>;

    /// Measures every operation of the models at these sizes.
    fn operations(&self, sizes: Sizes) -> Vec<OperationTimes>;

    /// Rate of copying within the device's memory, in bytes read and written a second; measured when called.
    fn copy_rate(&self) -> f64;
}

/// [`Bench`] on a device of a Burn backend.
pub struct BurnBench<B: MoeAutodiffBackend> {
    device: B::Device,
}

impl<B: MoeAutodiffBackend> BurnBench<B> {
    /// On `device`.
    pub fn new(device: B::Device) -> Self {
        Self { device }
    }
}

impl<B: MoeAutodiffBackend> Meter for BurnBench<B> {
    fn steps(&self, workload: &Workload) -> Result<StepTimes, TrainError> {
        B::InnerBackend::run(|| steps::<B>(workload, &self.device))
    }

    fn matmul_rate(&self) -> f64 {
        matmul_rate::<B::InnerBackend>(&self.device)
    }
}

impl<B: MoeAutodiffBackend> Bench for BurnBench<B> {
    fn operator(
        &self,
        model: &LmConfig,
        operator: &Upcycle,
        rounds: usize,
    ) -> Result<OperatorTimes, TrainError> {
        B::InnerBackend::run(|| measure_operator::<B>(model, operator, rounds, &self.device))
    }

    fn operations(&self, sizes: Sizes) -> Vec<OperationTimes> {
        B::InnerBackend::run(|| operations::<B>(sizes, &self.device))
    }

    fn copy_rate(&self) -> f64 {
        copy_rate::<B::InnerBackend>(&self.device)
    }
}

/// Measures training steps.
fn steps<B: MoeAutodiffBackend>(
    workload: &Workload,
    device: &B::Device,
) -> Result<StepTimes, TrainError> {
    let model: Lm<B> = workload.model.init(0, device)?;
    let config = LearnerConfig {
        precision: workload.precision,
        ..LearnerConfig::default()
    };
    let mut learner = Learner::new(model, config, device);
    let mut rng = StdRng::seed_from_u64(0);
    let mut times = StepTimes {
        gradients: Vec::new(),
        update: Vec::new(),
    };
    for step in 0..workload.warmup + workload.steps {
        let batch = random_batch(&workload.batch, workload.model.vocab, &mut rng);
        let started = Instant::now();
        for _ in 0..workload.batch.accumulation {
            learner.accumulate(&batch);
        }
        wait::<B>(device)?;
        let between = Instant::now();
        learner.update(1e-3)?;
        wait::<B>(device)?;
        if step >= workload.warmup {
            times.gradients.push((between - started).as_secs_f64());
            times.update.push(between.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// Seconds of growing a model, and of a plain copy of as many bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorTimes {
    /// Bytes of the grown model's parameters.
    pub bytes: f64,
    /// Seconds of the operator, round by round.
    pub seconds: Vec<f64>,
    /// Seconds of copying the bytes of every grown parameter to new memory of the host, by one thread.
    pub copy_seconds: Vec<f64>,
}

/// Measures the operator on a new model without optimizer state, alternating with a plain copy.
fn measure_operator<B: MoeAutodiffBackend>(
    model: &LmConfig,
    operator: &Upcycle,
    rounds: usize,
    device: &B::Device,
) -> Result<OperatorTimes, TrainError> {
    let small: Lm<B> = model.init(0, device)?;
    let mut times = OperatorTimes {
        bytes: 0.0,
        seconds: Vec::new(),
        copy_seconds: Vec::new(),
    };
    let mut sizes = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        let mut grown = small.clone();
        wait::<B>(device)?;
        let started = Instant::now();
        operator.grow(&mut grown, &mut AdamWRecord::new(), &Evidence::default())?;
        wait::<B>(device)?;
        let seconds = started.elapsed().as_secs_f64();
        if round == 0 {
            let shapes = parameter_shapes(&grown).into_iter();
            sizes = shapes
                .map(|shape| 4 * shape.dims.iter().product::<usize>())
                .collect();
            times.bytes = sizes.iter().sum::<usize>() as f64;
            continue;
        }
        drop(grown);
        times.seconds.push(seconds);
        times.copy_seconds.push(copy_seconds(&sizes));
    }
    Ok(times)
}

/// Seconds of copying this many bytes each to new memory, all of which is held until the end.
fn copy_seconds(sizes: &[usize]) -> f64 {
    let source = vec![1_u8; sizes.iter().copied().max().unwrap_or(0)];
    let started = Instant::now();
    let copies: Vec<Vec<u8>> = sizes.iter().map(|&size| source[..size].to_vec()).collect();
    let seconds = started.elapsed().as_secs_f64();
    drop(std::hint::black_box(copies));
    seconds
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
fn operations<B: MoeAutodiffBackend>(sizes: Sizes, device: &B::Device) -> Vec<OperationTimes> {
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
fn matmul_rate<B: Backend>(device: &B::Device) -> f64 {
    const N: usize = 1024;
    let x = Tensor::<B, 2>::ones([N, N], device);
    2.0 * (N as f64).powi(3) / best_seconds(|| x.clone().matmul(x.clone()))
}

/// Rate of copying within the device's memory, in bytes read and written a second.
fn copy_rate<B: Backend>(device: &B::Device) -> f64 {
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
