//! Runs the stages of a graph, several at a time, each as soon as its parent is finished.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use upcycle_data::Dataset;
use upcycle_train::{Engine, StageCheckpoints, Start, TrainEvent, TrainJob, UpcycleJob};

use crate::{
    error::LabError,
    graph::{Stage, StageGraph},
    stage::{Origin, StageKey, StageSpec},
    store::{StageResult, Store},
};

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// A stage was finished by an earlier run.
    Cached(&'a Stage),
    /// A stage begins.
    Started(&'a Stage),
    /// News of a training stage.
    Training(&'a Stage, TrainEvent),
    /// A stage is finished.
    Finished(&'a Stage, &'a StageResult),
}

/// Listens to a run, from several threads.
pub trait Observer: Sync {
    /// Called for every event.
    fn event(&self, event: RunEvent);
}

/// How a graph is run; nothing here changes a result.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Stages at a time.
    pub jobs: usize,
    /// Time between checkpoints of a stage.
    pub checkpoint_interval: Duration,
}

/// Runs all stages of a graph that are not finished.
///
/// # Errors
/// The first stage that fails; stages that are running are finished, no other is begun.
pub fn run(
    graph: &StageGraph,
    engine: &dyn Engine,
    data: &Dataset,
    store: &Store,
    options: RunOptions,
    observer: &dyn Observer,
) -> Result<(), LabError> {
    let runner = Runner {
        engine,
        data,
        store,
        options,
        observer,
    };
    let mut state = State::default();
    for stage in graph.stages() {
        if store.result(&stage.key)?.is_some() {
            observer.event(RunEvent::Cached(stage));
            state.finished.insert(stage.key.clone());
        } else {
            state.waiting.insert(stage.key.clone(), stage);
        }
    }
    let shared = Shared {
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(stage) = shared.take() {
                    let result = runner.run_stage(stage);
                    shared.put(stage, result);
                }
            });
        }
    });
    let failed = shared.lock().failed.take();
    failed.map_or(Ok(()), Err)
}

#[derive(Default)]
struct State<'a> {
    waiting: BTreeMap<StageKey, &'a Stage>,
    finished: BTreeSet<StageKey>,
    running: usize,
    failed: Option<LabError>,
}

struct Shared<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
}

impl<'a> Shared<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        // A panic of another thread has not left the plain collections half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage whose parent is finished: the one with the most work behind it. Waits for one; none at the end.
    fn take(&self) -> Option<&'a Stage> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() || state.waiting.is_empty() {
                return None;
            }
            let ready = state
                .waiting
                .values()
                .filter(|stage| {
                    let parent = stage.parent.as_ref();
                    parent.is_none_or(|parent| state.finished.contains(parent))
                })
                // Trunks before decays: other stages wait for them.
                .max_by_key(|stage| (is_trunk(stage), stage.steps(), &stage.key))
                .copied();
            if let Some(stage) = ready {
                state.waiting.remove(&stage.key);
                state.running += 1;
                return Some(stage);
            }
            if state.running == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, stage: &Stage, result: Result<(), LabError>) {
        let mut state = self.lock();
        state.running -= 1;
        match result {
            Ok(()) => {
                state.finished.insert(stage.key.clone());
            }
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }
}

fn is_trunk(stage: &Stage) -> bool {
    match &stage.spec {
        StageSpec::Train { spec, .. } => spec.schedule.decay_from.is_none(),
        StageSpec::Upcycle { .. } => true,
    }
}

struct Runner<'a> {
    engine: &'a dyn Engine,
    data: &'a Dataset,
    store: &'a Store,
    options: RunOptions,
    observer: &'a dyn Observer,
}

impl Runner<'_> {
    fn run_stage(&self, stage: &Stage) -> Result<(), LabError> {
        let (store, observer) = (self.store, self.observer);
        let _claim = store.claim(stage)?;
        // Another process may have finished it while this one waited for the claim.
        if store.result(&stage.key)?.is_some() {
            observer.event(RunEvent::Cached(stage));
            return Ok(());
        }
        observer.event(RunEvent::Started(stage));
        let dir = store.stage_dir(&stage.key);
        let failed = |source| LabError::Stage {
            stage: stage.label.clone(),
            dir: dir.clone(),
            source: Box::new(source),
        };
        let result = match &stage.spec {
            StageSpec::Train { origin, spec } => {
                let start = match (&stage.parent, origin) {
                    (Some(parent), _) | (None, Origin::Stage(parent)) => {
                        Start::Checkpoint(store.checkpoint(parent)?)
                    }
                    (None, Origin::Initial { model, seed }) => Start::Initial {
                        model: model.clone(),
                        seed: *seed,
                    },
                };
                let job = TrainJob {
                    spec,
                    start: &start,
                    dir: &dir,
                    data: self.data,
                    checkpoint_interval: self.options.checkpoint_interval,
                };
                let outcome = self
                    .engine
                    .train(&job, &mut |event| {
                        observer.event(RunEvent::Training(stage, event))
                    })
                    .map_err(failed)?;
                StageResult::Train(outcome)
            }
            StageSpec::Upcycle { parent, spec } => {
                let job = UpcycleJob {
                    spec,
                    from: &store.checkpoint(parent)?,
                    to: Some(&StageCheckpoints::new(&dir).prepare(stage.to)?),
                    data: self.data,
                };
                StageResult::Upcycle(self.engine.upcycle(&job).map_err(failed)?)
            }
        };
        store.finish(&stage.key, &result)?;
        observer.event(RunEvent::Finished(stage, &result));
        Ok(())
    }
}
