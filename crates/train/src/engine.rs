//! The seam between experiments and tensors.

use std::{marker::PhantomData, ops::ControlFlow, path::Path};

use burn::module::AutodiffModule;
use upcycle_kernels::{DeviceMemory, MoeAutodiffBackend, MoeBackend, Proof};
use upcycle_lm::{Finish, GeneratedToken, WeightSink};
use upcycle_operator::Verification;
use upcycle_tasks::ScoringModel;
use upcycle_team::Team;

use crate::{
    checkpoint::Checkpoint,
    compare,
    crew::Crew,
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

    /// What this process has of the device's memory; none where nobody keeps an account.
    fn memory(&self) -> Option<DeviceMemory> {
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
    trainers: Trainers<B::Device>,
    /// Devices that share the experts of a layer.
    expert_parallel: usize,
    marker: PhantomData<fn() -> B>,
}

/// Which devices train together.
enum Trainers<D> {
    /// Those of this process, the engine's own first.
    Devices(Vec<D>),
    /// The engine's own and those of other processes.
    Processes(Team),
}

impl<B: MoeAutodiffBackend> BurnEngine<B> {
    /// An engine on `device`.
    pub fn new(backend: &'static str, description: String, device: B::Device) -> Self {
        Self {
            backend,
            description,
            trainers: Trainers::Devices(vec![device.clone()]),
            device,
            expert_parallel: 1,
            marker: PhantomData,
        }
    }

    /// The same engine, which trains on more devices of this process at a time. Each takes a share of the sequences of a
    /// batch; `expert_parallel` devices in a row share the experts of every MoE layer.
    #[must_use]
    pub fn with_more_devices(
        mut self,
        more: impl IntoIterator<Item = B::Device>,
        expert_parallel: usize,
    ) -> Self {
        let devices: Vec<B::Device> = [self.device.clone()].into_iter().chain(more).collect();
        if devices.len() > 1 {
            self.description = format!("{} devices: {}", devices.len(), self.description);
        }
        self.trainers = Trainers::Devices(devices);
        self.expert_parallel = expert_parallel;
        self
    }

    /// The same engine as one of several processes that train one model, each on one device: a member of `team`, as in
    /// [`with_more_devices`](Self::with_more_devices).
    ///
    /// Every process [trains](Engine::train) the same jobs in the same order, in folders that all of them see; the one with
    /// rank 0 writes and sends events. Whoever connected the team [leaves](Team::leave) it when the last job has ended, in
    /// whatever way.
    #[must_use]
    pub fn in_team(mut self, team: Team, expert_parallel: usize) -> Self {
        if team.size() > 1 {
            self.description = format!("{} processes: {}", team.size(), self.description);
        }
        self.trainers = Trainers::Processes(team);
        self.expert_parallel = expert_parallel;
        self
    }
}

impl<B: MoeAutodiffBackend> Engine for BurnEngine<B> {
    fn prove(&self) -> Option<Proof> {
        B::InnerBackend::prove(&self.device)
    }

    fn memory(&self) -> Option<DeviceMemory> {
        B::InnerBackend::memory(&self.device)
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
        match &self.trainers {
            Trainers::Devices(devices) => {
                trainer::train_on_devices::<B>(job, devices, self.expert_parallel, events)
            }
            Trainers::Processes(team) => {
                let crew = Crew::new(team.clone(), self.expert_parallel)?;
                let work = || trainer::train::<B>(job, &self.device, &crew, events);
                B::InnerBackend::run(work)
            }
        }
    }

    fn upcycle(&self, job: &UpcycleJob) -> Result<UpcycleOutcome, TrainError> {
        match &self.trainers {
            Trainers::Devices(devices) => {
                upcycler::upcycle_on_devices::<B>(job, devices, self.expert_parallel)
            }
            Trainers::Processes(team) => {
                let crew = Crew::new(team.clone(), self.expert_parallel)?;
                B::InnerBackend::run(|| upcycler::upcycle::<B>(job, &crew, &self.device))
            }
        }
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
