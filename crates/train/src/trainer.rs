//! The training loop of one stage.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use burn::{
    module::AutodiffModule,
    optim::{GradientsAccumulator, GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{DType, ElementConversion, Tensor},
};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, Precision};
use upcycle_lm::{Lm, LmConfig};

use crate::{
    checkpoint::{Checkpoint, StageCheckpoints},
    config::TrainSpec,
    engine::TrainJob,
    error::TrainError,
    evaluate::{Evaluation, evaluate, tensors},
    gradients,
    metrics::{MetricsLine, MetricsLog, read_metrics},
};

/// Where a stage starts.
#[derive(Debug, Clone, PartialEq)]
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

/// Runs a training stage, from its own last checkpoint if it has one.
pub fn train<B: MoeAutodiffBackend>(
    job: &TrainJob,
    device: &B::Device,
    events: &mut dyn FnMut(TrainEvent),
) -> Result<TrainOutcome, TrainError> {
    let spec = job.spec;
    spec.validate()?;
    if spec.precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(TrainError::NoBf16);
    }
    job.data.check_shape(spec.batch.context)?;
    let own = StageCheckpoints::new(job.dir);
    let mut state = match own.latest() {
        Some(path) => {
            let state = Checkpoint::load(&path, device)?;
            events(TrainEvent::Resumed { step: state.step });
            state
        }
        None => match job.start {
            Start::Initial { model, seed } => Checkpoint::initial(model, *seed, device)?,
            Start::Checkpoint(path) => Checkpoint::load(path, device)?,
        },
    };
    check_fits(&state, job.data, spec)?;
    state.data = job.data.fingerprint().to_owned();
    state.tokenizer = job.data.tokenizer_json();

    let mut log = MetricsLog::resume(&job.dir.join("metrics.jsonl"), state.step)?;
    let mut stepper = Stepper::<B>::new(spec, state, device);
    let mut saved = Instant::now();
    let mut interval = job.checkpoint_interval;
    while stepper.step < spec.schedule.end {
        let step = stepper.step;
        let line;
        (stepper, line) = stepper.train_step(job.data).map_err(|error| match error {
            StepError::NotFinite(what) => TrainError::NotFinite {
                what,
                step,
                kept: kept(&own),
            },
            StepError::Data(error) => error.into(),
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
        if saved.elapsed() >= interval {
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
    let evaluation = stepper.evaluate(job.data)?;
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

/// Model, optimizer and position between two steps.
struct Stepper<'a, B: MoeAutodiffBackend> {
    spec: &'a TrainSpec,
    device: &'a B::Device,
    model: Lm<B>,
    optimizer: AdamWRecord<B>,
    step: u64,
    tokens: u64,
    rest: Rest,
}

/// What a checkpoint carries and training does not touch.
struct Rest {
    lineage: Vec<upcycle_moe::ExpertSources>,
    data: String,
    tokenizer: Option<String>,
}

enum StepError {
    NotFinite(&'static str),
    Data(upcycle_data::DataError),
}

impl<'a, B: MoeAutodiffBackend> Stepper<'a, B> {
    fn new(spec: &'a TrainSpec, state: Checkpoint<B>, device: &'a B::Device) -> Self {
        Self {
            spec,
            device,
            model: state.model,
            optimizer: state.optimizer,
            step: state.step,
            tokens: state.tokens,
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
        let mut accumulator = GradientsAccumulator::new();
        let mut loads: Vec<Tensor<B, 1>> = Vec::new();
        let mut loss_sum = 0.0;
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
                .map_err(StepError::Data)?;
            let (inputs, targets) = tensors::<B>(&batch, self.device);
            let output = self.model.forward(inputs, targets, spec.precision);
            let loss = output.loss_t.sum() / batch.scored() as f32;
            loss_sum += loss.clone().into_scalar().elem::<f64>();
            let score = self.model.config().score;
            let objective = output
                .routing
                .iter()
                .filter_map(|routing| spec.balancing.loss(routing, score))
                .fold(loss, |objective, loss| objective + loss);
            for (layer, routing) in output.routing.iter().enumerate() {
                match loads.get_mut(layer) {
                    Some(load) => *load = load.clone() + routing.load_e(),
                    None => loads.push(routing.load_e()),
                }
            }
            let gradients = (objective / passes as f32).backward();
            let gradients = GradientsParams::from_grads(gradients, &self.model);
            accumulator.accumulate(&self.model, gradients);
        }
        let loss = loss_sum / passes as f64;
        if !loss.is_finite() {
            return Err(StepError::NotFinite("the training loss"));
        }
        let gradients = accumulator.grads();
        let gradient_norm = gradients::global_norm(&self.model, &gradients);
        if !gradient_norm.is_finite() {
            return Err(StepError::NotFinite("the gradient norm"));
        }
        let lr = spec.schedule.lr(self.step);
        let mut optimizer =
            OptimizerAdaptor::from(spec.optimizer.adamw(gradient_norm)).load_record(self.optimizer);
        let model = optimizer.step(lr, self.model, gradients);
        self.optimizer = optimizer.to_record();
        self.model = model.balance(loads, &spec.balancing);
        self.step += 1;
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
            &self.model.valid(),
            data,
            self.spec.batch.context,
            self.spec.evaluation.rows,
            &self.rest.lineage,
            self.spec.precision,
            self.device,
        )
    }

    fn evaluation_line(&self, evaluation: &Evaluation) -> MetricsLine {
        MetricsLine::Evaluation {
            step: self.step,
            tokens: self.tokens,
            loss: evaluation.loss,
        }
    }

    fn checkpoint(&self) -> Checkpoint<B> {
        Checkpoint {
            model: self.model.clone(),
            optimizer: self.optimizer.clone(),
            step: self.step,
            tokens: self.tokens,
            lineage: self.rest.lineage.clone(),
            data: self.rest.data.clone(),
            tokenizer: self.rest.tokenizer.clone(),
        }
    }
}
