//! The graph of stages. Stages that are equal are one stage.

use std::collections::{BTreeMap, BTreeSet};

use upcycle_lm::LmConfig;
use upcycle_train::BatchConfig;

use crate::stage::{StageKey, StageSpec};

/// One stage of a graph.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Content address.
    pub key: StageKey,
    /// What it does.
    pub spec: StageSpec,
    /// The stage whose checkpoint it goes on from; none for a new model.
    pub parent: Option<StageKey>,
    /// For people: model, seed, steps.
    pub label: String,
    /// The model that it trains, or makes.
    pub model: LmConfig,
    /// First step.
    pub from: u64,
    /// Step after the last.
    pub to: u64,
}

impl Stage {
    /// Optimizer steps of the stage.
    pub fn steps(&self) -> u64 {
        self.to - self.from
    }

    /// Tokens of a training step, or of the batches that a growth measures.
    pub fn batch(&self) -> &BatchConfig {
        match &self.spec {
            StageSpec::Train { spec, .. } => &spec.batch,
            StageSpec::Upcycle { spec, .. } => &spec.batch,
        }
    }
}

/// Stages by key.
#[derive(Debug, Clone, Default)]
pub struct StageGraph {
    stages: BTreeMap<StageKey, Stage>,
    order: Vec<StageKey>,
}

impl StageGraph {
    /// Adds a stage unless it is there.
    pub fn add(&mut self, stage: Stage) {
        if !self.stages.contains_key(&stage.key) {
            self.order.push(stage.key.clone());
            self.stages.insert(stage.key.clone(), stage);
        }
    }

    /// The stage with a key.
    pub fn get(&self, key: &StageKey) -> Option<&Stage> {
        self.stages.get(key)
    }

    /// Number of stages.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no stage.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Stages in an order in which parents come first.
    pub fn stages(&self) -> Vec<&Stage> {
        let mut placed = BTreeSet::new();
        let mut sorted = Vec::with_capacity(self.len());
        while sorted.len() < self.len() {
            let before = sorted.len();
            for stage in self.order.iter().filter_map(|key| self.stages.get(key)) {
                let ready = stage
                    .parent
                    .as_ref()
                    .is_none_or(|parent| placed.contains(parent));
                if ready && placed.insert(&stage.key) {
                    sorted.push(stage);
                }
            }
            // A parent outside the graph can never be placed.
            if sorted.len() == before {
                break;
            }
        }
        sorted
    }

    /// A stage and the stages that it goes on from, oldest first.
    pub fn chain(&self, key: &StageKey) -> Vec<&Stage> {
        let mut chain = Vec::new();
        let mut next = self.get(key);
        while let Some(stage) = next {
            chain.push(stage);
            next = stage.parent.as_ref().and_then(|parent| self.get(parent));
        }
        chain.reverse();
        chain
    }
}
