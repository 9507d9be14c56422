//! How fast a machine trains the models of a sweep.

use std::thread;

use upcycle_kernels::Precision;
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::{BatchConfig, EvaluationConfig};

use crate::{
    collect::train_flops,
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

/// Speed of a machine with some stages at a time.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// Rate of matrix products, FLOP/s, shared by the stages.
    matmul_rate: f64,
    /// Measured seconds of a training step.
    steps: Vec<(Kind, f64)>,
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
        let (batch, precision) = match &stage.spec {
            StageSpec::Train { spec, .. } => (&spec.batch, spec.precision),
            StageSpec::Upcycle { spec, .. } => (&spec.batch, spec.precision),
        };
        Self {
            model: stage.model.clone(),
            batch: batch.clone(),
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
            matmul_rate: meter.matmul_rate(),
            steps: Vec::new(),
        };
        let unfinished = |stage: &&Stage| store.is_none_or(|store| !store.is_finished(&stage.key));
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

    /// Seconds of a step by its FLOPs, alone on the machine.
    fn expected_step(&self, kind: &Kind) -> f64 {
        training_seconds(kind.flops(), self.matmul_rate)
    }

    /// Seconds of a stage beside `jobs - 1` others, and whether its step was measured.
    pub(crate) fn stage_seconds(&self, stage: &Stage, jobs: usize) -> (f64, bool) {
        let kind = Kind::of(stage);
        let measured = self.steps.iter().find(|(other, _)| *other == kind);
        let step = match measured {
            Some((_, seconds)) => *seconds,
            None => self.expected_step(&kind) * jobs as f64,
        };
        let token = step / kind.batch.tokens() as f64;
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
                let evaluated = ((between + 1) as usize * rows + test_rows) * kind.batch.context;
                stage.steps() as f64 * step + evaluated as f64 * token * FORWARD
            }
            StageSpec::Upcycle { spec, .. } => {
                let batches = match spec.recipe.measurements().is_empty() {
                    true => 0,
                    false => spec.evidence_batches,
                };
                let evaluated = 2 * spec.evaluation_rows * kind.batch.context;
                batches as f64 * step + evaluated as f64 * token * FORWARD
            }
        };
        (work + files + STAGE_OVERHEAD, measured.is_some())
    }
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
    let kind = Kind::of(stage);
    let tokens = stage.steps() * kind.batch.tokens();
    train_flops(stage) + CostModel::new(&stage.model).head_flops_per_token() * tokens as f64
}
