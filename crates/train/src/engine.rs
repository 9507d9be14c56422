//! The seam between experiments and tensors.

use std::{
    marker::PhantomData,
    path::Path,
    time::{Duration, Instant},
};

use burn::tensor::{ElementConversion, Tensor};
use upcycle_data::Dataset;
use upcycle_kernels::MoeAutodiffBackend;

use crate::{
    config::{TrainSpec, UpcycleSpec},
    error::TrainError,
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
        events: &mut dyn FnMut(TrainEvent),
    ) -> Result<TrainOutcome, TrainError>;

    /// Applies the operator to a checkpoint and writes the grown model as another.
    ///
    /// # Errors
    /// See [`TrainError`]; nothing is then written.
    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError>;

    /// Rate of a large f32 matrix product, in FLOP/s; measured when called, for some tenths of a second.
    fn matmul_rate(&self) -> f64;
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

/// [`Engine`] on a Burn backend.
pub struct BurnEngine<B: MoeAutodiffBackend> {
    backend: &'static str,
    description: String,
    device: B::Device,
    marker: PhantomData<fn() -> B>,
}

impl<B: MoeAutodiffBackend> BurnEngine<B> {
    /// An engine on `device`.
    pub fn new(backend: &'static str, description: String, device: B::Device) -> Self {
        Self {
            backend,
            description,
            device,
            marker: PhantomData,
        }
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
        events: &mut dyn FnMut(TrainEvent),
    ) -> Result<TrainOutcome, TrainError> {
        trainer::train::<B>(job, &self.device, events)
    }

    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError> {
        upcycler::upcycle::<B>(job, &self.device)
    }

    fn matmul_rate(&self) -> f64 {
        const N: usize = 1024;
        let x = Tensor::<B::InnerBackend, 2>::ones([N, N], &self.device);
        let product = || {
            let y = x.clone().matmul(x.clone());
            // Reading one element waits for the device.
            y.slice([0..1, 0..1]).into_scalar().elem::<f32>()
        };
        product();
        let rate = || {
            let started = Instant::now();
            product();
            2.0 * (N as f64).powi(3) / started.elapsed().as_secs_f64()
        };
        (0..8).map(|_| rate()).fold(0.0, f64::max)
    }
}
