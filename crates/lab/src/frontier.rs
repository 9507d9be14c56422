//! Stages that can run: those whose parents are finished.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Stage, StageGraph},
    stage::{StageKey, StageSpec},
};

/// What is left of a graph.
pub(crate) struct Frontier<'a> {
    waiting: BTreeMap<StageKey, &'a Stage>,
    finished: BTreeSet<StageKey>,
}

impl<'a> Frontier<'a> {
    /// All stages but those that are finished.
    pub(crate) fn new(graph: &'a StageGraph, finished: impl Fn(&Stage) -> bool) -> Self {
        let mut frontier = Self {
            waiting: BTreeMap::new(),
            finished: BTreeSet::new(),
        };
        for stage in graph.stages() {
            if finished(stage) {
                frontier.finished.insert(stage.key.clone());
            } else {
                frontier.waiting.insert(stage.key.clone(), stage);
            }
        }
        frontier
    }

    /// Takes the stage that can run and has the most work behind it.
    pub(crate) fn take(&mut self) -> Option<&'a Stage> {
        let ready = |stage: &&&Stage| {
            let parent = stage.parent.as_ref();
            parent.is_none_or(|parent| self.finished.contains(parent))
        };
        let stage = (self.waiting.values())
            .filter(ready)
            // Trunks before decays: other stages wait for them.
            .max_by_key(|stage| (is_trunk(stage), stage.steps(), &stage.key))
            .copied()?;
        self.waiting.remove(&stage.key)
    }

    /// Puts a stage back that was taken.
    pub(crate) fn put_back(&mut self, stage: &'a Stage) {
        self.waiting.insert(stage.key.clone(), stage);
    }

    /// A stage that was taken is finished.
    pub(crate) fn finish(&mut self, key: StageKey) {
        self.finished.insert(key);
    }

    /// Whether no stage is left to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn is_trunk(stage: &Stage) -> bool {
    match &stage.spec {
        StageSpec::Train { spec, .. } => spec.schedule.decay_from.is_none(),
        StageSpec::Upcycle { .. } => true,
    }
}
