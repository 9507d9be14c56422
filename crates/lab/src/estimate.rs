//! What a sweep will cost, before it runs.

use std::collections::BTreeMap;

use serde::Serialize;
use upcycle_report::Setting;

use crate::{
    calibrate::{Calibration, Speed, stage_flops},
    devices::Devices,
    exchange::Link,
    fewest::{Fewest, fewest},
    frontier::Frontier,
    graph::{Stage, StageGraph},
    memory::{MemoryLimit, PROCESS, on_cpu},
    plan::{CellPlan, SweepPlan},
    stage::StageKey,
    stage_estimate::{Setup, StageEstimate},
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
    /// Devices that train one model together.
    pub devices: Devices,
    /// How the speed of a device is known; none on a backend that is not here.
    pub speed: Option<Speed>,
    /// FLOP/s of training on one device, where no steps were measured.
    pub rate: Option<f64>,
    /// How fast a device sends to others, if it was said; else exchanges are not in the seconds.
    pub link: Option<Link>,
    /// The fewest devices for each scale, where GPUs have a stated memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fewest: Vec<Fewest>,
    /// Seconds until everything is finished, with `jobs` stages at a time; none on a backend that is not here.
    pub seconds: Option<f64>,
    /// Largest memory of `jobs` stages at a time, in bytes of each device.
    pub memory: u64,
    /// Bytes of disk that the remaining stages need: what they leave, and a second checkpoint while one is written.
    pub disk: u64,
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
        let setup = Setup {
            graph,
            backend,
            calibration,
            jobs,
            limit,
        };
        let stages: Vec<StageEstimate> = graph
            .stages()
            .into_iter()
            .map(|stage| StageEstimate {
                cached: finished(stage),
                ..setup.estimate(stage)
            })
            .collect();
        let mut memory: Vec<u64> = remaining(&stages).map(|stage| stage.peak_memory).collect();
        memory.sort_unstable_by(|a, b| b.cmp(a));
        let mut disk: Vec<u64> = remaining(&stages).map(|stage| stage.disk).collect();
        disk.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            disk: disk.iter().sum::<u64>() + disk.iter().take(jobs).sum::<u64>(),
            prices: prices(plan, &stages),
            seconds: makespan(graph, &stages, jobs),
            memory: PROCESS + memory.iter().take(jobs).sum::<u64>(),
            jobs,
            devices: limit.devices,
            speed: calibration.map(Calibration::speed),
            rate: calibration.map(Calibration::rate),
            link: calibration.and_then(Calibration::link).copied(),
            fewest: match limit.bytes.is_some() && !on_cpu(backend) {
                true => fewest(plan, backend, limit),
                false => Vec::new(),
            },
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

fn remaining(stages: &[StageEstimate]) -> impl Iterator<Item = &StageEstimate> {
    stages.iter().filter(|stage| !stage.cached)
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
fn prices(plan: &SweepPlan, stages: &[StageEstimate]) -> Vec<Price> {
    let costs: BTreeMap<&StageKey, &StageEstimate> =
        stages.iter().map(|stage| (&stage.key, stage)).collect();
    let first_seed = plan.cells.iter().map(|cell| cell.seed).min();
    let first = (plan.cells.iter()).filter(|cell| Some(cell.seed) == first_seed);
    let price = |cell: &CellPlan| {
        let flops = |key| plan.graph.chain(key).into_iter().map(stage_flops).sum();
        let seconds = |key, from: u64| -> Option<f64> {
            let chain = plan.graph.chain(key).into_iter();
            let later = chain.filter(|stage| stage.from >= from);
            later.map(|stage| costs[&stage.key].seconds).sum()
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
