//! What a sweep will cost, before it runs.

use std::collections::BTreeMap;

use serde::Serialize;
use upcycle_lm::{CostModel, MemoryEstimate, ParameterCount};
use upcycle_report::Setting;
use upcycle_train::PassConfig;

use crate::{
    calibrate::{Calibration, stage_flops},
    disk::stage_bytes,
    frontier::Frontier,
    graph::{Stage, StageGraph},
    memory::{MemoryLimit, PROCESS, checkpoint_memory, growth_memory, peak_memory, step_memory},
    plan::{CellPlan, SweepPlan},
    stage::{StageKey, StageSpec},
    store::Store,
};

/// Costs of a sweep.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// One for each stage, parents first.
    pub stages: Vec<StageEstimate>,
    /// Upcycled beside Fixed-mE, for every setting and recipe.
    pub prices: Vec<Price>,
    /// Stages at a time.
    pub jobs: usize,
    /// Seconds until everything is finished, with `jobs` stages at a time; none on a backend that is not here.
    pub seconds: Option<f64>,
    /// Largest memory of `jobs` stages at a time, in bytes.
    pub memory: u64,
    /// Bytes of disk that the remaining stages need: what they leave, and a second checkpoint while one is written.
    pub disk: u64,
}

/// Costs of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Content address.
    pub key: StageKey,
    /// For people.
    pub label: String,
    /// Whether it is finished already.
    pub cached: bool,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Parameters of the model.
    pub parameters: ParameterCount,
    /// Training FLOPs, vocabulary head included.
    pub flops: f64,
    /// How activations share memory.
    pub passes: PassConfig,
    /// Memory of a training step in bytes.
    pub memory: MemoryEstimate,
    /// What reading and writing checkpoints takes of the machine's own memory, in bytes; on a CPU beside the step's.
    pub checkpoint_memory: u64,
    /// Most that a stage takes of the device's memory, in bytes.
    pub peak_memory: u64,
    /// Bytes that it leaves on the disk: a checkpoint and metrics.
    pub disk: u64,
    /// Estimated seconds beside the other jobs; none on a backend that is not here.
    pub seconds: Option<f64>,
    /// Whether the seconds come from measured steps, not from the rate of matrix products.
    pub measured: bool,
}

/// What one upcycled model costs beside the big model from scratch (the paper, section 2 of its method).
#[derive(Debug, Clone, Serialize)]
pub struct Price {
    /// Where in the sweep.
    #[serde(flatten)]
    pub setting: Setting,
    /// Recipe.
    pub recipe: String,
    /// FLOPs of Fixed-mE, vocabulary head included.
    pub flops_fixed_me: f64,
    /// FLOPs of Upcycled, pre-training included.
    pub flops_upcycled: f64,
    /// Estimated seconds of Fixed-mE.
    pub seconds_fixed_me: Option<f64>,
    /// Estimated seconds of Upcycled, pre-training included.
    pub seconds_upcycled: Option<f64>,
    /// Estimated seconds of Upcycled where the small model is there already.
    pub seconds_after_pretraining: Option<f64>,
}

impl Estimate {
    /// Estimates the stages of a plan, with `jobs` at a time, each of which has its own limit of memory.
    pub fn new(
        plan: &SweepPlan,
        store: Option<&Store>,
        backend: &str,
        calibration: Option<&Calibration>,
        jobs: usize,
        limit: &MemoryLimit,
    ) -> Self {
        let graph = &plan.graph;
        let missing = store.map(|store| store.missing(graph));
        let finished = |stage: &Stage| {
            let missing = missing.as_ref();
            missing.is_some_and(|missing| !missing.contains(&stage.key))
        };
        let stages: Vec<StageEstimate> = graph
            .stages()
            .into_iter()
            .map(|stage| StageEstimate {
                cached: finished(stage),
                ..estimate(stage, backend, calibration, jobs, limit)
            })
            .collect();
        let mut memory: Vec<u64> = remaining(&stages).map(|stage| stage.peak_memory).collect();
        memory.sort_unstable_by(|a, b| b.cmp(a));
        let mut disk: Vec<u64> = remaining(&stages).map(|stage| stage.disk).collect();
        disk.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            disk: disk.iter().sum::<u64>() + disk.iter().take(jobs).sum::<u64>(),
            prices: prices(plan, calibration, jobs),
            seconds: makespan(graph, &stages, jobs),
            memory: PROCESS + memory.iter().take(jobs).sum::<u64>(),
            jobs,
            stages,
        }
    }

    /// Stages that have to run.
    pub fn remaining(&self) -> impl Iterator<Item = &StageEstimate> {
        remaining(&self.stages)
    }

    /// FLOPs of all stages that have to run.
    pub fn flops(&self) -> f64 {
        // The sum of nothing is -0.0.
        self.remaining().map(|stage| stage.flops).sum::<f64>() + 0.0
    }

    /// Optimizer steps of all stages that have to run.
    pub fn steps(&self) -> u64 {
        self.remaining().map(|stage| stage.steps).sum()
    }

    /// The stage that needs the most memory.
    pub fn largest(&self) -> Option<&StageEstimate> {
        self.remaining().max_by_key(|stage| stage.peak_memory)
    }
}

impl StageEstimate {
    /// Bytes of the device's memory for a process that runs this stage alone.
    pub fn process_memory(&self) -> u64 {
        PROCESS + self.peak_memory
    }
}

fn remaining(stages: &[StageEstimate]) -> impl Iterator<Item = &StageEstimate> {
    stages.iter().filter(|stage| !stage.cached)
}

fn estimate(
    stage: &Stage,
    backend: &str,
    calibration: Option<&Calibration>,
    jobs: usize,
    limit: &MemoryLimit,
) -> StageEstimate {
    let cost = CostModel::new(&stage.model);
    let (batch, passes, growth) = match &stage.spec {
        StageSpec::Train { spec, .. } => {
            let passes = limit.passes(&stage.model, &spec.batch, backend);
            (&spec.batch, passes, 0)
        }
        StageSpec::Upcycle { spec, .. } => {
            let growth = growth_memory(&stage.model, &spec.batch, backend);
            (&spec.batch, PassConfig::default(), growth)
        }
    };
    let share = limit.share(batch);
    let seconds = calibration.map(|calibration| calibration.stage_seconds(stage, jobs));
    // Layers are computed forward twice; what was measured may have been, too.
    let slower = match seconds {
        Some((_, false)) if passes.recompute => 4.0 / 3.0,
        _ => 1.0,
    };
    StageEstimate {
        key: stage.key.clone(),
        label: stage.label.clone(),
        cached: false,
        passes,
        steps: stage.steps(),
        tokens: stage.steps() * batch.tokens(),
        parameters: cost.parameters(),
        flops: stage_flops(stage),
        memory: step_memory(&stage.model, &share, backend, passes),
        checkpoint_memory: checkpoint_memory(&stage.model),
        peak_memory: peak_memory(&stage.model, &share, backend, passes).max(growth),
        disk: stage_bytes(stage),
        seconds: seconds.map(|(seconds, _)| slower * seconds),
        measured: seconds.is_some_and(|(_, measured)| measured),
    }
}

/// Seconds until all stages are finished, by running the schedule of the runner; none if a stage's are not known.
fn makespan(graph: &StageGraph, stages: &[StageEstimate], jobs: usize) -> Option<f64> {
    let costs: BTreeMap<&StageKey, &StageEstimate> =
        stages.iter().map(|stage| (&stage.key, stage)).collect();
    let mut frontier = Frontier::new(graph, |stage| costs[&stage.key].cached);
    let mut running: Vec<(f64, StageKey)> = Vec::new();
    let mut now = 0.0;
    loop {
        while running.len() < jobs.max(1) {
            let Some(stage) = frontier.take() else { break };
            let seconds = costs[&stage.key].seconds?;
            running.push((now + seconds, stage.key.clone()));
        }
        let next = (0..running.len()).min_by(|&a, &b| running[a].0.total_cmp(&running[b].0));
        let Some(next) = next else { return Some(now) };
        let (end, key) = running.swap_remove(next);
        now = end;
        frontier.finish(key);
    }
}

/// Seeds share prices, so the first of each is taken.
fn prices(plan: &SweepPlan, calibration: Option<&Calibration>, jobs: usize) -> Vec<Price> {
    let first_seed = plan.cells.iter().map(|cell| cell.seed).min();
    let first = (plan.cells.iter()).filter(|cell| Some(cell.seed) == first_seed);
    let price = |cell: &CellPlan| {
        let flops = |key| plan.graph.chain(key).into_iter().map(stage_flops).sum();
        let seconds = |key, from: u64| {
            let calibration = calibration?;
            let chain = plan.graph.chain(key).into_iter();
            let later = chain.filter(|stage| stage.from >= from);
            Some(
                later
                    .map(|stage| calibration.stage_seconds(stage, jobs).0)
                    .sum(),
            )
        };
        let tau = plan.graph.get(&cell.upcycle).map_or(0, |stage| stage.from);
        Price {
            setting: cell.setting.clone(),
            recipe: cell.recipe.clone(),
            flops_fixed_me: flops(&cell.fixed_me),
            flops_upcycled: flops(&cell.upcycled),
            seconds_fixed_me: seconds(&cell.fixed_me, 0),
            seconds_upcycled: seconds(&cell.upcycled, 0),
            seconds_after_pretraining: seconds(&cell.upcycled, tau),
        }
    };
    first.map(price).collect()
}
