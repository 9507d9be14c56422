//! The training loop of one stage.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use burn::{module::AutodiffModule, tensor::DType};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, Precision};
use upcycle_lm::{LmConfig, WeightSource};

use crate::{
    checkpoint::{Checkpoint, StageCheckpoints},
    config::TrainSpec,
    engine::TrainJob,
    error::TrainError,
    evaluate::{Evaluation, evaluate},
    learner::{Learner, Settings, StepSums},
    metrics::{MetricsLine, MetricsLog, read_metrics},
    team::{Peer, team},
};

/// Where a stage starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// A new model.
    Initial {
        /// Its shape.
        model: Box<LmConfig>,
        /// Seed of its parameters.
        seed: u64,
    },
    /// The checkpoint in this folder.
    Checkpoint(PathBuf),
    /// A model that was trained elsewhere; its optimizer starts anew.
    Weights(Arc<dyn WeightSource>),
}

/// What a stage tells while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainEvent {
    /// The stage goes on from its own checkpoint.
    Resumed {
        /// Steps done before.
        step: u64,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Training loss in nats.
        loss: f64,
        /// Tokens of the step.
        tokens: u64,
        /// Seconds of the step.
        seconds: f64,
    },
    /// An evaluation is done.
    Evaluated {
        /// Steps done.
        step: u64,
        /// Validation loss in nats.
        loss: f64,
    },
}

/// Result of a training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Steps done since the model was new.
    pub step: u64,
    /// Tokens seen since the model was new.
    pub tokens: u64,
    /// Validation at the end.
    pub evaluation: Evaluation,
    /// Seconds spent in training steps, over all attempts.
    pub train_seconds: f64,
}

/// Training takes at least this many times as long as saving.
const SAVING_SHARE: u32 = 20;

/// Runs a training stage on some devices, from its own last checkpoint if it has one. The first device evaluates and writes;
/// the others only train.
pub fn train<B: MoeAutodiffBackend>(
    job: &TrainJob,
    devices: &[B::Device],
    events: &mut dyn FnMut(TrainEvent),
) -> Result<TrainOutcome, TrainError> {
    let (spec, device) = (job.spec, &devices[0]);
    spec.validate()?;
    let team = team(devices.len(), spec.batch.rows)?;
    if spec.precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(TrainError::NoBf16);
    }
    job.data.check_shape(spec.batch.context)?;
    let own = StageCheckpoints::new(job.dir);
    let mut state: Checkpoint<B> = match own.latest() {
        Some(path) => {
            let state = Checkpoint::load(&path, device)?;
            events(TrainEvent::Resumed { step: state.step });
            state
        }
        None => match job.start {
            Start::Initial { model, seed } => Checkpoint::initial(model, *seed, device)?,
            Start::Checkpoint(path) => Checkpoint::load(path, device)?,
            Start::Weights(source) => Checkpoint::of_weights(source.as_ref(), device)?,
        },
    };
    check_fits(&state, job.data, spec)?;
    state.data = job.data.fingerprint().to_owned();
    state.tokenizer = job.data.tokenizer_json();

    if team.len() == 1 {
        return lead(job, state, device, Peer::ALONE, events);
    }
    // Parameters have to have the same names everywhere, so all begin with what is written.
    if own.latest().is_none() {
        own.save(&state)?;
    }
    drop(state);
    let gone = || TrainError::Device("the first checkpoint is gone".into());
    let begin = own.latest().ok_or_else(gone)?;
    // Nothing may fail between the start of the others and joining them: they would wait.
    let state = Checkpoint::<B>::load(&begin, device)?;
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (devices.iter().zip(&team).skip(1))
            .map(|(device, &peer)| {
                let begin = &begin;
                scope.spawn(move || B::InnerBackend::run(|| help::<B>(job, begin, device, peer)))
            })
            .collect();
        let outcome = lead(job, state, device, team[0], events);
        let ended = |_| {
            Err(TrainError::Device(
                "the thread of another device ended early".into(),
            ))
        };
        let helped = helpers
            .into_iter()
            .try_for_each(|helper| helper.join().unwrap_or_else(ended));
        match (outcome, helped) {
            // That others have failed is no reason; theirs is.
            (Err(TrainError::Device(_)), Err(reason)) => Err(reason),
            (outcome, helped) => outcome.and_then(|outcome| helped.map(|()| outcome)),
        }
    })
}

/// Trains a device's share of every batch.
fn help<B: MoeAutodiffBackend>(
    job: &TrainJob,
    begin: &Path,
    device: &B::Device,
    peer: Peer,
) -> Result<(), TrainError> {
    let membership = peer.join::<B>(device)?;
    let state = Checkpoint::<B>::load(begin, device)?;
    let mut stepper = Stepper::<B>::new(job.spec, state, device, peer);
    while stepper.step < job.spec.schedule.end {
        match stepper.train_step(job.data) {
            Ok((next, _)) => stepper = next,
            // The first device finds the same and tells it.
            Err(StepError::NotFinite(_)) => return Ok(()),
            Err(StepError::Other(error)) => return Err(error),
        }
    }
    membership.leave();
    Ok(())
}

/// Trains, evaluates and writes.
fn lead<B: MoeAutodiffBackend>(
    job: &TrainJob,
    state: Checkpoint<B>,
    device: &B::Device,
    peer: Peer,
    events: &mut dyn FnMut(TrainEvent),
) -> Result<TrainOutcome, TrainError> {
    let spec = job.spec;
    let own = StageCheckpoints::new(job.dir);
    let membership = peer.join::<B>(device)?;
    let mut log = MetricsLog::resume(&job.dir.join("metrics.jsonl"), state.step)?;
    let mut stepper = Stepper::<B>::new(spec, state, device, peer);
    let mut saved = Instant::now();
    let mut interval = job.checkpoint_interval;
    let cancelled = || job.cancelled.load(Ordering::Relaxed);
    while stepper.step < spec.schedule.end {
        if cancelled() {
            return Err(TrainError::Cancelled);
        }
        let step = stepper.step;
        let line;
        (stepper, line) = stepper.train_step(job.data).map_err(|error| match error {
            StepError::NotFinite(what) => TrainError::NotFinite {
                what,
                step,
                kept: kept(&own),
            },
            StepError::Other(error) => error,
        })?;
        if let MetricsLine::Step { loss, seconds, .. } = line {
            events(TrainEvent::Step {
                step: stepper.step,
                loss,
                tokens: spec.batch.tokens(),
                seconds,
            });
        }
        log.push(&line);
        if stepper.step.is_multiple_of(spec.evaluation.every) && stepper.step < spec.schedule.end {
            let evaluation = stepper.evaluate(job.data)?;
            log.push(&stepper.evaluation_line(&evaluation));
            events(TrainEvent::Evaluated {
                step: stepper.step,
                loss: evaluation.loss,
            });
        }
        if saved.elapsed() >= interval && !cancelled() {
            let started = Instant::now();
            log.flush()?;
            own.save(&stepper.checkpoint())?;
            // Big models are saved less often, so that saving takes a small share of the time.
            interval = job
                .checkpoint_interval
                .max(SAVING_SHARE * started.elapsed());
            saved = Instant::now();
        }
    }
    membership.leave();
    let evaluation = stepper.evaluate(job.data)?;
    if cancelled() {
        return Err(TrainError::Cancelled);
    }
    log.push(&stepper.evaluation_line(&evaluation));
    log.flush()?;
    events(TrainEvent::Evaluated {
        step: stepper.step,
        loss: evaluation.loss,
    });
    own.save(&stepper.checkpoint())?;
    Ok(TrainOutcome {
        step: stepper.step,
        tokens: stepper.tokens,
        evaluation,
        train_seconds: train_seconds(&job.dir.join("metrics.jsonl"))?,
    })
}

fn train_seconds(metrics: &Path) -> Result<f64, TrainError> {
    let lines = read_metrics(metrics)?;
    Ok(lines
        .iter()
        .map(|line| match line {
            MetricsLine::Step { seconds, .. } => *seconds,
            MetricsLine::Evaluation { .. } => 0.0,
        })
        .sum())
}

fn kept(own: &StageCheckpoints) -> String {
    match own.latest() {
        Some(path) => format!("the last good checkpoint is kept in {}", path.display()),
        None => "the stage had no checkpoint yet".into(),
    }
}

/// The model must know every token of the data, and be trained on the data that it was trained on.
fn check_fits<B: MoeAutodiffBackend>(
    state: &Checkpoint<B>,
    data: &Dataset,
    spec: &TrainSpec,
) -> Result<(), TrainError> {
    let config = state.model.config();
    if data.vocab_size() > config.vocab {
        return Err(TrainError::Spec {
            field: "model.vocab",
            problem: format!(
                "{} is less than the {} tokens of the data; raise it or leave it out",
                config.vocab,
                data.vocab_size()
            ),
        });
    }
    if spec.batch.context > config.context {
        return Err(TrainError::Spec {
            field: "batch.context",
            problem: format!(
                "{} is longer than the model's context of {}",
                spec.batch.context, config.context
            ),
        });
    }
    Ok(())
}

/// Learner and position between two steps.
struct Stepper<'a, B: MoeAutodiffBackend> {
    spec: &'a TrainSpec,
    learner: Learner<'a, B>,
    step: u64,
    tokens: u64,
    peer: Peer,
    rest: Rest,
}

/// What a checkpoint carries and training does not touch.
struct Rest {
    lineage: Vec<upcycle_moe::Lineage>,
    data: String,
    tokenizer: Option<String>,
}

enum StepError {
    NotFinite(&'static str),
    Other(TrainError),
}

impl<'a, B: MoeAutodiffBackend> Stepper<'a, B> {
    fn new(spec: &'a TrainSpec, state: Checkpoint<B>, device: &'a B::Device, peer: Peer) -> Self {
        Self {
            spec,
            learner: Learner {
                model: state.model,
                optimizer: state.optimizer,
                settings: Settings {
                    optimizer: &spec.optimizer,
                    balancing: &spec.balancing,
                    precision: spec.precision,
                },
                device,
            },
            step: state.step,
            tokens: state.tokens,
            peer,
            rest: Rest {
                lineage: state.lineage,
                data: state.data,
                tokenizer: state.tokenizer,
            },
        }
    }

    /// One optimizer step. Consumes the model, so that its parameters can be updated in place.
    fn train_step(mut self, data: &Dataset) -> Result<(Self, MetricsLine), StepError> {
        let started = Instant::now();
        let spec = self.spec;
        let passes = spec.batch.accumulation;
        let mut sums = StepSums::new(passes);
        for pass in 0..passes {
            let (split, index) = spec.data.position(self.step, pass, passes);
            let batch = data
                .batch(
                    split,
                    spec.data.seed,
                    index,
                    spec.batch.rows,
                    spec.batch.context,
                )
                .map_err(|error| StepError::Other(error.into()))?;
            self.learner.accumulate(&batch, self.peer, &mut sums);
        }
        let sums = sums.over_all(self.peer, self.learner.device);
        let sums = sums.map_err(StepError::Other)?;
        let loss = sums.loss();
        if !loss.is_finite() {
            return Err(StepError::NotFinite("the training loss"));
        }
        let gradients = sums.gradients(&self.learner.model);
        if !gradients.norm.is_finite() {
            return Err(StepError::NotFinite("the gradient norm"));
        }
        let gradient_norm = gradients.norm;
        let lr = spec.schedule.lr(self.step);
        self.learner = self.learner.update(gradients, lr);
        self.step += 1;
        self.learner.model = self.learner.model.at_step(self.step);
        self.tokens += spec.batch.tokens();
        let line = MetricsLine::Step {
            step: self.step,
            tokens: self.tokens,
            loss,
            gradient_norm,
            lr,
            seconds: started.elapsed().as_secs_f64(),
        };
        Ok((self, line))
    }

    fn evaluate(&self, data: &Dataset) -> Result<Evaluation, TrainError> {
        evaluate(
            &self.learner.model.valid(),
            data,
            self.spec.batch.context,
            self.spec.evaluation.rows,
            &self.rest.lineage,
            self.spec.precision,
            self.learner.device,
        )
    }

    fn evaluation_line(&self, evaluation: &Evaluation) -> MetricsLine {
        MetricsLine::Evaluation {
            step: self.step,
            tokens: self.tokens,
            loss: evaluation.loss,
            twins: evaluation.twins,
        }
    }

    fn checkpoint(&self) -> Checkpoint<B> {
        Checkpoint {
            model: self.learner.model.clone(),
            optimizer: self.learner.optimizer.clone(),
            step: self.step,
            tokens: self.tokens,
            lineage: self.rest.lineage.clone(),
            data: self.rest.data.clone(),
            tokenizer: self.rest.tokenizer.clone(),
        }
    }
}
