//! What a sweep will cost, before it runs.

use serde::Serialize;
use upcycle_lm::{CostModel, MemoryEstimate, ParameterCount};

use crate::{
    collect::train_flops,
    graph::{Stage, StageGraph},
    stage::StageSpec,
    store::Store,
};

/// Share of the matrix product rate that training reaches with plain operations on a CPU; a rough figure.
const UTILISATION: f64 = 0.15;

/// Costs of all stages of a sweep.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// One for each stage, parents first.
    pub stages: Vec<StageEstimate>,
}

/// Costs of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageEstimate {
    /// Content address.
    pub key: String,
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
    /// Peak memory in bytes.
    pub memory: MemoryEstimate,
    /// Estimated seconds.
    pub seconds: f64,
}

impl Estimate {
    /// Estimates the stages of a graph on a machine with a matrix product rate in FLOP/s.
    pub fn new(graph: &StageGraph, store: Option<&Store>, matmul_rate: f64) -> Self {
        let stages = graph
            .stages()
            .into_iter()
            .map(|stage| {
                let cached =
                    store.is_some_and(|store| matches!(store.result(&stage.key), Ok(Some(_))));
                estimate(stage, cached, matmul_rate)
            })
            .collect();
        Self { stages }
    }

    /// Stages that have to run.
    pub fn remaining(&self) -> impl Iterator<Item = &StageEstimate> {
        self.stages.iter().filter(|stage| !stage.cached)
    }

    /// Seconds of all stages that have to run, one after the other.
    pub fn seconds(&self) -> f64 {
        self.remaining().map(|stage| stage.seconds).sum()
    }

    /// FLOPs of all stages that have to run.
    pub fn flops(&self) -> f64 {
        self.remaining().map(|stage| stage.flops).sum()
    }

    /// Optimizer steps of all stages that have to run.
    pub fn steps(&self) -> u64 {
        self.remaining().map(|stage| stage.steps).sum()
    }

    /// Largest memory of a stage that has to run, in bytes.
    pub fn memory(&self) -> u64 {
        self.remaining()
            .map(|stage| stage.memory.total())
            .max()
            .unwrap_or(0)
    }
}

/// Estimated seconds of training of some FLOPs, on a machine with a matrix product rate in FLOP/s.
pub fn training_seconds(flops: f64, matmul_rate: f64) -> f64 {
    flops / (matmul_rate * UTILISATION)
}

fn estimate(stage: &Stage, cached: bool, matmul_rate: f64) -> StageEstimate {
    let cost = CostModel::new(&stage.model);
    let batch = match &stage.spec {
        StageSpec::Train { spec, .. } => &spec.batch,
        StageSpec::Upcycle { spec, .. } => &spec.batch,
    };
    let tokens = stage.steps() * batch.tokens();
    let flops = train_flops(stage) + cost.head_flops_per_token() * tokens as f64;
    StageEstimate {
        key: stage.key.to_string(),
        label: stage.label.clone(),
        cached,
        steps: stage.steps(),
        tokens,
        parameters: cost.parameters(),
        flops,
        memory: cost.memory(batch.rows * batch.context, batch.context),
        seconds: training_seconds(flops, matmul_rate),
    }
}
