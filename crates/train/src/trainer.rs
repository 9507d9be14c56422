//! The training loop of one stage.

use std::{fs, path::Path, sync::atomic::Ordering, time::Instant};

use burn::tensor::DType;
use upcycle_data::{Dataset, Split};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend, Precision};

use crate::{
    checkpoint::{Checkpoint, StageCheckpoints, check_data},
    config::{BatchConfig, LearnerConfig, PassConfig, TrainSpec},
    error::TrainError,
    evaluate::Evaluation,
    job::{Start, TrainEvent, TrainJob, TrainOutcome},
    learner::Learner,
    metrics::{LayerRouting, MetricsLine, now, read_metrics},
    metrics_log::MetricsLog,
    pace::{Pace, rate},
    team::{Peer, team},
};

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
    let job = &TrainJob {
        passes: kept_passes(job, own.latest().is_some(), events)?,
        ..*job
    };
    check_fits(&state, job)?;
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

/// How a stage's activations share memory: a stage that goes on keeps its micro-batches where they are enough, so that sums
/// keep their order.
fn kept_passes(
    job: &TrainJob,
    goes_on: bool,
    events: &mut dyn FnMut(TrainEvent),
) -> Result<PassConfig, TrainError> {
    let path = job.dir.join("passes.json");
    let mut passes = job.passes;
    if goes_on {
        let before = fs::read(&path).ok();
        let before = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let before: PassConfig = before.unwrap_or_default();
        match before.micro_batches >= passes.micro_batches {
            true => passes.micro_batches = before.micro_batches,
            false => events(TrainEvent::Recut {
                micro_batches: passes.micro_batches.get(),
            }),
        }
    }
    if passes.micro_batches.get() > 1 {
        let json = serde_json::to_vec(&passes);
        let json = json.map_err(|error| TrainError::Device(error.to_string()))?;
        upcycle_files::write(&path, &json)?;
    }
    Ok(passes)
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
    let mut stepper = Stepper::<B>::new(job, state, device, peer);
    while stepper.step() < job.spec.schedule.end {
        match stepper.train_step(job.data) {
            Ok(_) => {}
            // The first device finds the same and tells it.
            Err(TrainError::NotFinite { .. }) => return Ok(()),
            Err(error) => return Err(error),
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
    let mut log = MetricsLog::resume(job.dir, state.step, job.event_file)?;
    let mut stepper = Stepper::<B>::new(job, state, device, peer);
    let mut saved = Instant::now();
    let mut interval = job.checkpoint_interval;
    let cancelled = || job.cancelled.load(Ordering::Relaxed);
    while stepper.step() < spec.schedule.end {
        if cancelled() {
            return Err(TrainError::Cancelled);
        }
        if job.stop.load(Ordering::Relaxed) {
            log.flush()?;
            own.save(&stepper.checkpoint())?;
            let step = stepper.step();
            return Err(TrainError::Interrupted { step });
        }
        let line = stepper
            .train_step(job.data)
            .map_err(|error| stopped(error, &own))?;
        if let MetricsLine::Step { loss, seconds, .. } = line {
            events(TrainEvent::Step {
                step: stepper.step(),
                loss,
                tokens: spec.batch.tokens(),
                seconds,
            });
        }
        log.push(&line);
        let step = stepper.step();
        if step.is_multiple_of(spec.evaluation.every) && step < spec.schedule.end {
            let evaluation = stepper.validate(job.data);
            let evaluation = evaluation.map_err(|error| stopped(error, &own))?;
            log.push(&stepper.evaluation_line(&evaluation));
            events(TrainEvent::Evaluated {
                step,
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
    let evaluation = stepper.validate(job.data);
    let evaluation = evaluation.map_err(|error| stopped(error, &own))?;
    let test_loss = stepper.test(job.data);
    let test_loss = test_loss.map_err(|error| stopped(error, &own))?;
    if cancelled() {
        return Err(TrainError::Cancelled);
    }
    log.push(&stepper.evaluation_line(&evaluation));
    log.flush()?;
    events(TrainEvent::Evaluated {
        step: stepper.step(),
        loss: evaluation.loss,
    });
    own.save(&stepper.checkpoint())?;
    Ok(TrainOutcome {
        step: stepper.step(),
        tokens: stepper.learner.tokens(),
        evaluation,
        test_loss,
        train_seconds: train_seconds(&job.dir.join("metrics.jsonl"))?,
        kernels: Some(B::InnerBackend::kernels(device, spec.precision)),
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

/// An error that ends a stage, with what is kept of it.
fn stopped(error: TrainError, own: &StageCheckpoints) -> TrainError {
    if !matches!(error, TrainError::NotFinite { .. }) {
        return error;
    }
    TrainError::Stopped {
        source: Box::new(error),
        kept: match own.latest() {
            Some(path) => format!("the last good checkpoint is kept in {}", path.display()),
            None => "the stage had no checkpoint yet".into(),
        },
    }
}

/// The model must know every token of the data, and be trained on the data that it was trained on.
fn check_fits<B: MoeAutodiffBackend>(
    state: &Checkpoint<B>,
    job: &TrainJob,
) -> Result<(), TrainError> {
    let (config, data, spec) = (state.model.config(), job.data, job.spec);
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
    if job.other_data {
        return Ok(());
    }
    check_data(&state.data, data)
}

/// A learner and the specification of its steps.
struct Stepper<'a, B: MoeAutodiffBackend> {
    spec: &'a TrainSpec,
    learner: Learner<B>,
    /// Of the steps since the last evaluation.
    pace: Pace,
}

impl<'a, B: MoeAutodiffBackend> Stepper<'a, B> {
    fn new(job: &TrainJob<'a>, state: Checkpoint<B>, device: &B::Device, peer: Peer) -> Self {
        let config = LearnerConfig {
            passes: job.passes,
            ..job.spec.learner()
        };
        Self {
            spec: job.spec,
            learner: Learner::resume(state, config, device).in_team(peer),
            pace: Pace::default(),
        }
    }

    fn step(&self) -> u64 {
        self.learner.step()
    }

    /// One optimizer step.
    fn train_step(&mut self, data: &Dataset) -> Result<MetricsLine, TrainError> {
        let started = Instant::now();
        let spec = self.spec;
        let BatchConfig {
            rows,
            context,
            accumulation,
        } = spec.batch;
        for pass in 0..accumulation {
            let (split, index) = spec.data.position(self.step(), pass, accumulation);
            let batch = data.batch(split, spec.data.seed, index, rows, context)?;
            self.learner.accumulate(&batch);
        }
        let lr = spec.schedule.lr(self.step());
        let update = self.learner.update(lr)?;
        let seconds = started.elapsed().as_secs_f64();
        let tokens = spec.batch.tokens();
        let line = MetricsLine::Step {
            step: self.step(),
            tokens: self.learner.tokens(),
            loss: update.loss,
            gradient_norm: update.gradient_norm,
            lr,
            seconds,
            tokens_per_second: Some(rate(tokens, seconds)),
            time: Some(now()),
        };
        self.pace.add(&line, tokens);
        Ok(line)
    }

    fn validate(&self, data: &Dataset) -> Result<Evaluation, TrainError> {
        let (context, rows) = (self.spec.batch.context, self.spec.evaluation.rows);
        self.learner
            .evaluate(data, Split::Validation, context, rows)
    }

    /// Loss on the test split; none if the stage is not to be tested.
    fn test(&self, data: &Dataset) -> Result<Option<f64>, TrainError> {
        let (context, rows) = (self.spec.batch.context, self.spec.evaluation.test_rows);
        if rows == 0 {
            return Ok(None);
        }
        let evaluation = self.learner.evaluate(data, Split::Test, context, rows)?;
        Ok(Some(evaluation.loss))
    }

    /// The line of an evaluation, with the pace of the steps since the one before.
    fn evaluation_line(&mut self, evaluation: &Evaluation) -> MetricsLine {
        let pace = std::mem::take(&mut self.pace);
        MetricsLine::Evaluation {
            step: self.step(),
            tokens: self.learner.tokens(),
            loss: evaluation.loss,
            twins: evaluation.twins,
            lr: pace.lr(),
            gradient_norm: pace.gradient_norm(),
            tokens_per_second: pace.tokens_per_second(),
            routing: evaluation.routing.iter().map(LayerRouting::from).collect(),
            time: Some(now()),
        }
    }

    fn checkpoint(&self) -> Checkpoint<B> {
        self.learner.checkpoint()
    }
}
