//! How fast a machine trains the models of a sweep.

use std::{num::NonZeroUsize, thread};

use serde::Serialize;
use upcycle_kernels::Precision;
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::{BatchConfig, EvaluationConfig};

use crate::{
    collect::train_flops,
    exchange::Link,
    graph::{Stage, StageGraph},
    meter::{Meter, StepTimes, Workload},
    stage::StageSpec,
    store::Store,
};

/// Share of the matrix product rate that training reaches; measured 0.4 to 0.7 on CPUs (docs/performance.md).
const UTILISATION: f64 = 0.4;
/// Seconds that measuring one model may take; slower ones are judged by the rate of matrix products.
const PATIENCE: f64 = 3.0;
/// Seconds of measured steps that are enough.
const ENOUGH: f64 = 0.4;
/// Measured steps of a model, at least and at most.
const STEPS: (f64, f64) = (3.0, 20.0);
/// Steps before the measured ones.
const WARMUP: usize = 2;
/// Time of a token's forward pass and loss over that of its training step.
const FORWARD: f64 = 0.35;
/// Bytes a second at which checkpoints are written and read, both with their checks.
const DISK_RATE: f64 = 4e8;
/// Seconds of opening, creating and renaming the files of a stage.
const STAGE_OVERHEAD: f64 = 0.05;

/// FLOP/s of a GPU in the paper: training FLOPs of its Fixed-64 at CPT 50 %, vocabulary head included (6.57e21), over the
/// 41,328 GPU hours that it took.
const PAPER_RATE: f64 = 44e12;

/// Speed of a machine with some stages at a time.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// FLOP/s of training on one device, shared by the stages.
    rate: f64,
    speed: Speed,
    /// Measured seconds of a training step.
    steps: Vec<(Kind, f64)>,
    /// How fast a device sends to others, if that is known.
    link: Option<Link>,
    /// Machines that the devices are spread over.
    machines: NonZeroUsize,
}

/// How the speed of a device is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speed {
    /// From steps that were measured, or else from the measured rate of matrix products.
    Measured,
    /// It was stated.
    Stated,
    /// From the GPU hours that the paper publishes.
    Paper,
}

/// What the time of a training step depends on.
#[derive(Debug, Clone, PartialEq)]
struct Kind {
    model: LmConfig,
    batch: BatchConfig,
    precision: Precision,
}

impl Kind {
    fn of(stage: &Stage) -> Self {
        let precision = match &stage.spec {
            StageSpec::Train { spec, .. } => spec.precision,
            StageSpec::Upcycle { spec, .. } => spec.precision,
        };
        Self {
            model: stage.model.clone(),
            batch: stage.batch().clone(),
            precision,
        }
    }

    /// FLOPs of a step, vocabulary head included.
    fn flops(&self) -> f64 {
        let cost = CostModel::new(&self.model);
        let token = cost.train_flops_per_token(self.batch.context) + cost.head_flops_per_token();
        token * self.batch.tokens() as f64
    }
}

impl Calibration {
    /// Measures a few steps of every model that is still to be trained, with `jobs` of them at a time, where that takes a
    /// moment. Writes nothing.
    pub fn measure(
        meter: &dyn Meter,
        graph: &StageGraph,
        store: Option<&Store>,
        jobs: usize,
    ) -> Self {
        let mut calibration = Self {
            rate: UTILISATION * meter.matmul_rate(),
            speed: Speed::Measured,
            steps: Vec::new(),
            link: None,
            machines: NonZeroUsize::MIN,
        };
        let missing = store.map(|store| store.missing(graph));
        let unfinished = |stage: &&Stage| {
            let missing = missing.as_ref();
            missing.is_none_or(|missing| missing.contains(&stage.key))
        };
        for stage in graph.stages().into_iter().filter(unfinished) {
            let kind = Kind::of(stage);
            let known = calibration.steps.iter().any(|(other, _)| *other == kind);
            if stage.steps() == 0 || known {
                continue;
            }
            let expected = calibration.expected_step(&kind) * jobs as f64;
            if expected * (WARMUP as f64 + STEPS.0) > PATIENCE {
                continue;
            }
            let steps = (ENOUGH / expected).clamp(STEPS.0, STEPS.1) as usize;
            if let Some(seconds) = measured_step(meter, &kind, steps, jobs) {
                calibration.steps.push((kind, seconds));
            }
        }
        calibration
    }

    /// Devices that train at this rate, in FLOP/s.
    pub fn stated(rate: f64) -> Self {
        Self {
            rate,
            speed: Speed::Stated,
            steps: Vec::new(),
            link: None,
            machines: NonZeroUsize::MIN,
        }
    }

    /// Devices as fast as the paper's.
    pub fn of_paper() -> Self {
        Self {
            speed: Speed::Paper,
            ..Self::stated(PAPER_RATE)
        }
    }

    /// The same devices, which send to others so fast.
    #[must_use]
    pub fn with_link(self, link: Option<Link>) -> Self {
        Self { link, ..self }
    }

    /// The same devices, spread over so many machines.
    #[must_use]
    pub fn with_machines(self, machines: NonZeroUsize) -> Self {
        Self { machines, ..self }
    }

    /// FLOP/s of training on one device, where no steps were measured.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// How the speed is known.
    pub fn speed(&self) -> Speed {
        self.speed
    }

    /// How fast a device sends to others, if that is known.
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Machines that the devices are spread over.
    pub(crate) fn machines(&self) -> NonZeroUsize {
        self.machines
    }

    /// Seconds of a step by its FLOPs, alone on the machine.
    fn expected_step(&self, kind: &Kind) -> f64 {
        kind.flops() / self.rate
    }

    /// Seconds of a stage's training step on one device beside `jobs - 1` others, and whether it was measured.
    pub(crate) fn step_seconds(&self, stage: &Stage, jobs: usize) -> (f64, bool) {
        let kind = Kind::of(stage);
        let measured = self.steps.iter().find(|(other, _)| *other == kind);
        match measured {
            Some((_, seconds)) => (*seconds, true),
            None => (self.expected_step(&kind) * jobs as f64, false),
        }
    }
}

/// Seconds of a stage whose training steps take `step` seconds.
pub(crate) fn stage_seconds(stage: &Stage, step: f64) -> f64 {
    let batch = stage.batch();
    let token = step / batch.tokens() as f64;
    let parameters = CostModel::new(&stage.model).parameters().total();
    // Parameters and two moments, written by the stage and read by the next.
    let files = 2.0 * 12.0 * parameters as f64 / DISK_RATE;
    let work = match &stage.spec {
        StageSpec::Train { spec, .. } => {
            let EvaluationConfig {
                every,
                rows,
                test_rows,
            } = spec.evaluation;
            let between = (stage.to - 1) / every - stage.from.min(stage.to - 1) / every;
            let evaluated = ((between + 1) as usize * rows + test_rows) * batch.context;
            stage.steps() as f64 * step + evaluated as f64 * token * FORWARD
        }
        StageSpec::Upcycle { spec, .. } => {
            let batches = match spec.recipe.measurements().is_empty() {
                true => 0,
                false => spec.evidence_batches,
            };
            let pass = step / batch.accumulation as f64;
            let evaluated = 2 * spec.evaluation_rows * batch.context;
            batches as f64 * pass + evaluated as f64 * token * FORWARD
        }
    };
    work + files + STAGE_OVERHEAD
}

/// Median seconds of a step where `jobs` run at the same time; none if the machine cannot run it.
fn measured_step(meter: &dyn Meter, kind: &Kind, steps: usize, jobs: usize) -> Option<f64> {
    let workload = Workload {
        model: kind.model.clone(),
        batch: kind.batch.clone(),
        precision: kind.precision,
        warmup: WARMUP,
        steps,
    };
    let times: Vec<StepTimes> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| scope.spawn(|| meter.steps(&workload).ok()))
            .collect();
        let joined = workers.into_iter().filter_map(|worker| worker.join().ok());
        joined.flatten().collect()
    });
    let mut seconds: Vec<f64> = times
        .iter()
        .flat_map(|times| times.gradients.iter().zip(&times.update))
        .map(|(gradients, update)| gradients + update)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied()
}

/// Estimated seconds of training of some FLOPs, on a machine with a matrix product rate in FLOP/s.
pub fn training_seconds(flops: f64, matmul_rate: f64) -> f64 {
    flops / (matmul_rate * UTILISATION)
}

/// FLOPs of a stage, vocabulary head included.
pub(crate) fn stage_flops(stage: &Stage) -> f64 {
    let tokens = stage.steps() * stage.batch().tokens();
    train_flops(stage) + CostModel::new(&stage.model).head_flops_per_token() * tokens as f64
}
