//! The seam between experiments and tensors.

use std::{marker::PhantomData, ops::ControlFlow, path::Path};

use burn::module::AutodiffModule;
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, Proof};
use upcycle_lm::{Finish, GeneratedToken, WeightSink};
use upcycle_operator::Verification;
use upcycle_tasks::ScoringModel;

use crate::{
    checkpoint::Checkpoint,
    compare,
    error::TrainError,
    generate,
    job::{
        CompareJob, GenerateJob, Start, TrainEvent, TrainJob, TrainOutcome, UpcycleJob,
        UpcycleOutcome,
    },
    load::load,
    scoring::LmScorer,
    trainer, upcycler,
};

/// Runs stages. Implementations can be shared by threads.
pub trait Engine: Send + Sync {
    /// Name of the backend, as on the command line.
    fn backend(&self) -> &str;

    /// The device, in words.
    fn device(&self) -> &str;

    /// Tries the kernels that only this device can run, see [`MoeBackend::prove`]; none if there are none.
    fn prove(&self) -> Option<Proof> {
        None
    }

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

    /// Continues a text, and tells each token as soon as it is there. Returns why each continuation ended.
    ///
    /// # Errors
    /// If the model cannot be read, or cannot continue the text.
    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut (dyn FnMut(GeneratedToken) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Finish>, TrainError>;

    /// Loads a model to be evaluated on downstream tasks.
    ///
    /// # Errors
    /// If it cannot be loaded.
    fn scorer(&self, model: &Start) -> Result<Box<dyn ScoringModel>, TrainError>;
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
    fn prove(&self) -> Option<Proof> {
        B::InnerBackend::prove(&self.device)
    }

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
        upcycler::upcycle_on_devices::<B>(job, &self.devices, 1)
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

    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut (dyn FnMut(GeneratedToken) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Finish>, TrainError> {
        B::InnerBackend::run(|| generate::generate::<B>(job, &self.device, on_token))
    }

    fn scorer(&self, model: &Start) -> Result<Box<dyn ScoringModel>, TrainError> {
        let model = B::InnerBackend::run(|| load::<B>(model, &self.device))?;
        Ok(Box::new(LmScorer::new(model, &self.device)))
    }
}
