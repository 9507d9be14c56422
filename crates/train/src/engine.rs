//! The seam between experiments and tensors.

use std::{marker::PhantomData, path::Path, sync::atomic::AtomicBool, time::Duration};

use burn::module::AutodiffModule;
use upcycle_data::Dataset;
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, cases::Sizes};
use upcycle_lm::{LmConfig, WeightSink, WeightSource};
use upcycle_operator::{ReplicationPlan, Upcycle, Verification};

use crate::{
    checkpoint::Checkpoint,
    compare,
    config::{TrainSpec, UpcycleSpec},
    error::TrainError,
    measure::{self, OperationTimes, OperatorTimes, StepTimes, Workload},
    trainer::{self, Start, TrainEvent, TrainOutcome},
    upcycler::{self, UpcycleOutcome},
};

/// Runs stages. Implementations can be shared by threads.
pub trait Engine: Send + Sync {
    /// Name of the backend, as on the command line.
    fn backend(&self) -> &str;

    /// The device, in words.
    fn device(&self) -> &str;

    /// Trains for the steps of a stage; goes on from the stage's own checkpoint if it has one.
    ///
    /// # Errors
    /// See [`TrainError`]; the stage's last checkpoint is kept.
    fn train(
        &self,
        job: &TrainJob,
        events: &mut (dyn FnMut(TrainEvent) + Send),
    ) -> Result<TrainOutcome, TrainError>;

    /// Applies the operator to a checkpoint and writes the grown model as another.
    ///
    /// # Errors
    /// See [`TrainError`]; nothing is then written.
    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError>;

    /// Gives away the parameters of the model in the checkpoint `from`.
    ///
    /// # Errors
    /// If it cannot be loaded, or the sink cannot take them.
    fn export(&self, from: &Path, sink: &mut (dyn WeightSink + Send)) -> Result<(), TrainError>;

    /// Compares a model with the one that it was grown to, on the same tokens.
    ///
    /// # Errors
    /// If a model or the data cannot be read.
    fn compare(&self, job: &CompareJob) -> Result<Verification, TrainError>;

    /// Measures training steps; writes nothing.
    ///
    /// # Errors
    /// If the model cannot be built, or the device fails.
    fn measure(&self, workload: &Workload) -> Result<StepTimes, TrainError>;

    /// Measures growing a new model of this shape, for some rounds; writes nothing.
    ///
    /// # Errors
    /// If the model cannot be built or grown, or the device fails.
    fn measure_operator(
        &self,
        model: &LmConfig,
        operator: &Upcycle,
        rounds: usize,
    ) -> Result<OperatorTimes, TrainError>;

    /// Measures every operation of the models at these sizes.
    fn measure_operations(&self, sizes: Sizes) -> Vec<OperationTimes>;

    /// Rate of a large f32 matrix product, in FLOP/s; measured when called, for some tenths of a second.
    fn matmul_rate(&self) -> f64;

    /// Rate of copying within the device's memory, in bytes read and written a second; measured when called.
    fn copy_rate(&self) -> f64;
}

/// A training stage.
pub struct TrainJob<'a> {
    /// How.
    pub spec: &'a TrainSpec,
    /// From where.
    pub start: &'a Start,
    /// Folder for metrics and checkpoints.
    pub dir: &'a Path,
    /// On what.
    pub data: &'a Dataset,
    /// Time between checkpoints; the end of the stage is always kept.
    pub checkpoint_interval: Duration,
    /// Ends the stage before its next step or checkpoint when it becomes true.
    pub cancelled: &'a AtomicBool,
}

/// An upcycling stage.
pub struct UpcycleJob<'a> {
    /// How.
    pub spec: &'a UpcycleSpec,
    /// The checkpoint to grow.
    pub from: &'a Path,
    /// Folder of the new checkpoint, which must not exist; none to write nothing and only see what it would be like.
    pub to: Option<&'a Path>,
    /// Data for evidence and losses.
    pub data: &'a Dataset,
}

/// Two models to compare.
pub struct CompareJob<'a> {
    /// The model before growing.
    pub before: &'a dyn WeightSource,
    /// The model after.
    pub after: &'a dyn WeightSource,
    /// What was copied.
    pub plan: &'a ReplicationPlan,
    /// Data whose validation split is taken; random tokens without.
    pub data: Option<&'a Dataset>,
    /// Tokens of a sequence.
    pub context: usize,
    /// Sequences.
    pub rows: usize,
}

/// [`Engine`] on a Burn backend.
pub struct BurnEngine<B: MoeAutodiffBackend> {
    backend: &'static str,
    description: String,
    device: B::Device,
    /// Devices that train together, `device` first.
    devices: Vec<B::Device>,
    marker: PhantomData<fn() -> B>,
}

impl<B: MoeAutodiffBackend> BurnEngine<B> {
    /// An engine on `device`.
    pub fn new(backend: &'static str, description: String, device: B::Device) -> Self {
        Self {
            backend,
            description,
            devices: vec![device.clone()],
            device,
            marker: PhantomData,
        }
    }

    /// The same engine, which trains on more devices at a time: each takes a share of the sequences of a batch. Needs the
    /// feature `collective`; one such training at a time.
    #[must_use]
    pub fn with_more_devices(mut self, more: impl IntoIterator<Item = B::Device>) -> Self {
        self.devices.extend(more);
        if self.devices.len() > 1 {
            self.description = format!("{} devices: {}", self.devices.len(), self.description);
        }
        self
    }
}

impl<B: MoeAutodiffBackend> Engine for BurnEngine<B> {
    fn backend(&self) -> &str {
        self.backend
    }

    fn device(&self) -> &str {
        &self.description
    }

    fn train(
        &self,
        job: &TrainJob,
        events: &mut (dyn FnMut(TrainEvent) + Send),
    ) -> Result<TrainOutcome, TrainError> {
        B::InnerBackend::run(|| trainer::train::<B>(job, &self.devices, events))
    }

    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError> {
        B::InnerBackend::run(|| upcycler::upcycle::<B>(job, &self.device))
    }

    fn export(&self, from: &Path, sink: &mut (dyn WeightSink + Send)) -> Result<(), TrainError> {
        B::InnerBackend::run(|| {
            let model = Checkpoint::<B>::load_model(from, &self.device)?.valid();
            model.to_weights(sink).map_err(TrainError::Weights)
        })
    }

    fn compare(&self, job: &CompareJob) -> Result<Verification, TrainError> {
        B::InnerBackend::run(|| compare::compare::<B::InnerBackend>(job, &self.device))
    }

    fn measure(&self, workload: &Workload) -> Result<StepTimes, TrainError> {
        B::InnerBackend::run(|| measure::measure::<B>(workload, &self.device))
    }

    fn measure_operator(
        &self,
        model: &LmConfig,
        operator: &Upcycle,
        rounds: usize,
    ) -> Result<OperatorTimes, TrainError> {
        B::InnerBackend::run(|| {
            measure::measure_operator::<B>(model, operator, rounds, &self.device)
        })
    }

    fn measure_operations(&self, sizes: Sizes) -> Vec<OperationTimes> {
        B::InnerBackend::run(|| measure::measure_operations::<B>(sizes, &self.device))
    }

    fn matmul_rate(&self) -> f64 {
        measure::matmul_rate::<B::InnerBackend>(&self.device)
    }

    fn copy_rate(&self) -> f64 {
        measure::copy_rate::<B::InnerBackend>(&self.device)
    }
}
