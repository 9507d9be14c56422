//! The training loop of one stage, on one device or several.

use std::{path::Path, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};

use crate::{
    begin::begin,
    checkpoint::{Checkpoint, StageCheckpoints},
    crew::Crew,
    devices::on_devices,
    error::TrainError,
    job::{TrainEvent, TrainJob, TrainOutcome},
    keeper::Keeper,
    metrics::{MetricsLine, read_metrics},
    stepper::Stepper,
};

/// Where a stage sends its events.
type Events<'a> = &'a mut (dyn FnMut(TrainEvent) + Send);

/// What all devices do between two steps: whatever comes last here of what any of them wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Order {
    GoOn,
    /// Save, and go on.
    Save,
    /// Save, and end.
    Stop,
    /// End.
    Cancel,
}

/// Runs a training stage on several devices of this process.
pub(crate) fn train_on_devices<B: MoeAutodiffBackend>(
    job: &TrainJob,
    devices: &[B::Device],
    expert_parallel: usize,
    events: Events,
) -> Result<TrainOutcome, TrainError> {
    on_devices::<B, _>(
        devices,
        expert_parallel,
        |device, crew| train::<B>(job, device, crew, events),
        |device, crew| train::<B>(job, device, crew, &mut |_| ()),
    )
}

/// Runs a training stage, from its own last checkpoint if it has one. All devices of a crew do so at the same time. The first
/// one decides when it is saved, writes and sends events; any of them can end it.
pub(crate) fn train<B: MoeAutodiffBackend>(
    job: &TrainJob,
    device: &B::Device,
    crew: &Crew,
    events: Events,
) -> Result<TrainOutcome, TrainError> {
    let mut silent = |_: TrainEvent| ();
    let events: Events = match crew.leads() {
        true => events,
        false => &mut silent,
    };
    let outcome = begin::<B>(job, device, crew, events).and_then(|(state, passes)| {
        let job = &TrainJob { passes, ..*job };
        run(job, state, device, crew, events)
    });
    outcome.map_err(|error| {
        if !error.is_of_all() {
            crew.all.fail(&error.to_string());
        }
        stopped(error, &StageCheckpoints::new(job.dir))
    })
}

fn run<B: MoeAutodiffBackend>(
    job: &TrainJob,
    state: Checkpoint<B>,
    device: &B::Device,
    crew: &Crew,
    events: Events,
) -> Result<TrainOutcome, TrainError> {
    let spec = job.spec;
    let mut keeper = Keeper::resume(job, state.step, crew)?;
    let mut stepper = Stepper::<B>::new(job, state, device, crew);
    let is_cancelled = || job.cancelled.load(Ordering::Relaxed);
    loop {
        let step = stepper.step();
        let is_over = step >= spec.schedule.end;
        let order = if is_cancelled() {
            Order::Cancel
        } else if !is_over && job.stop.load(Ordering::Relaxed) {
            Order::Stop
        } else if crew.leads() && keeper.is_due(step) {
            Order::Save
        } else {
            Order::GoOn
        };
        match crew.greatest(order)? {
            Order::GoOn => {}
            Order::Save => keeper.save(&stepper.checkpoint())?,
            Order::Stop => {
                keeper.save(&stepper.checkpoint())?;
                return Err(TrainError::Interrupted { step });
            }
            Order::Cancel => return Err(TrainError::Cancelled),
        }
        if is_over {
            break;
        }
        let line = stepper.train_step(job.data)?;
        let step = stepper.step();
        if let MetricsLine::Step { loss, seconds, .. } = line {
            events(TrainEvent::Step {
                step,
                loss,
                tokens: spec.batch.tokens(),
                seconds,
            });
        }
        keeper.push(&line);
        if step.is_multiple_of(spec.evaluation.every) && step < spec.schedule.end {
            let evaluation = stepper.validate(job.data)?;
            keeper.push(&stepper.evaluation_line(&evaluation));
            events(TrainEvent::Evaluated {
                step,
                loss: evaluation.loss,
            });
        }
    }
    let evaluation = stepper.validate(job.data)?;
    let test_loss = stepper.test(job.data)?;
    if crew.greatest(is_cancelled())? {
        return Err(TrainError::Cancelled);
    }
    keeper.push(&stepper.evaluation_line(&evaluation));
    events(TrainEvent::Evaluated {
        step: stepper.step(),
        loss: evaluation.loss,
    });
    keeper.save(&stepper.checkpoint())?;
    let train_seconds = match crew.leads() {
        true => train_seconds(&job.dir.join("metrics.jsonl"))?,
        false => 0.0,
    };
    Ok(TrainOutcome {
        step: stepper.step(),
        tokens: stepper.tokens(),
        evaluation,
        test_loss,
        train_seconds: crew.told(train_seconds)?,
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
    if !matches!(error, TrainError::NotFinite { .. } | TrainError::Team(_)) {
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
