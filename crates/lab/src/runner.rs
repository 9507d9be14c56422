//! Runs the stages of a graph, several at a time, each as soon as its parent is finished. Other processes may run the same
//! graph on the same store at the same time: they share the work.

use std::{
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use upcycle_data::Dataset;
use upcycle_train::{
    Engine, StageCheckpoints, Start, TrainError, TrainEvent, TrainJob, UpcycleJob,
};

use crate::{
    error::LabError,
    frontier::Frontier,
    graph::{Stage, StageGraph},
    memory::MemoryLimit,
    stage::{Origin, StageSpec},
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

/// Runs stages; nothing here changes a result.
pub struct Runner<'a> {
    /// What computes.
    pub engine: &'a dyn Engine,
    /// What stages are trained on.
    pub data: &'a Dataset,
    /// Where stages live.
    pub store: &'a Store,
    /// What a stage may take of the device's memory.
    pub limit: MemoryLimit,
    /// Time between checkpoints of a stage.
    pub checkpoint_interval: Duration,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Ends the run when it becomes true: stages that are trained write a checkpoint, and no other is begun.
    pub stop: &'a AtomicBool,
}

impl Runner<'_> {
    /// Runs all stages of a graph that are not finished, `jobs` at a time.
    ///
    /// # Errors
    /// The first stage that fails, also by a panic; stages that are running are finished, no other is begun.
    pub fn run(&self, graph: &StageGraph, jobs: usize) -> Result<(), LabError> {
        self.store.reopen_freed(graph)?;
        let mut cached = BTreeSet::new();
        for stage in graph.stages() {
            if self.store.result(&stage.key)?.is_some() {
                self.observer.event(RunEvent::Cached(stage));
                cached.insert(&stage.key);
            }
        }
        let shared = Shared {
            state: Mutex::new(State {
                frontier: Frontier::new(graph, |stage| cached.contains(&stage.key)),
                elsewhere: Vec::new(),
                looked: Instant::now(),
                running: 0,
                failed: None,
            }),
            changed: Condvar::new(),
        };
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(stage) = shared.take(self.stop) {
                        shared.put(stage, self.survive(stage));
                    }
                });
            }
        });
        let failed = shared.lock().failed.take();
        failed.map_or(Ok(()), Err)
    }

    /// Runs one stage whose parent is finished; waits while another process computes it.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_stage(&self, stage: &Stage) -> Result<(), LabError> {
        while !self.survive(stage)? {
            if self.stop.load(Ordering::Relaxed) {
                return Err(LabError::Interrupted);
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// [`try_stage`](Self::try_stage), of which a panic is an error: Burn panics where a device fails, and others wait for the
    /// end of every stage.
    fn survive(&self, stage: &Stage) -> Result<bool, LabError> {
        let result = panic::catch_unwind(AssertUnwindSafe(|| self.try_stage(stage)));
        result.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied());
            let problem = text.unwrap_or("it broke off without a word").to_owned();
            Err(LabError::Stage {
                stage: stage.label.clone(),
                dir: self.store.stage_dir(&stage.key),
                source: Box::new(TrainError::Panicked(problem)),
            })
        })
    }

    /// Whether the stage is finished; false if another process computes it.
    fn try_stage(&self, stage: &Stage) -> Result<bool, LabError> {
        let (store, observer) = (self.store, self.observer);
        let claim = store.claim(stage)?;
        // Another process may have finished it meanwhile.
        if store.result(&stage.key)?.is_some() {
            observer.event(RunEvent::Cached(stage));
            return Ok(true);
        }
        let Some(claim) = claim else {
            return Ok(false);
        };
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
                let backend = self.engine.backend();
                let job = TrainJob {
                    spec: &self.limit.devices.spec(spec),
                    start: &start,
                    dir: &dir,
                    data: self.data,
                    other_data: false,
                    event_file: false,
                    passes: self.limit.passes(&stage.model, &spec.batch, backend),
                    checkpoint_interval: self.checkpoint_interval,
                    cancelled: claim.lost(),
                    stop: self.stop,
                };
                let outcome = self.engine.train(&job, &mut |event| {
                    if let TrainEvent::Step { step, .. } | TrainEvent::Resumed { step } = event {
                        claim.at_step(step);
                    }
                    observer.event(RunEvent::Training(stage, event))
                });
                match outcome {
                    Err(TrainError::Cancelled) => return Ok(false),
                    Err(TrainError::Interrupted { .. }) => return Err(LabError::Interrupted),
                    outcome => StageResult::Train(outcome.map_err(failed)?),
                }
            }
            StageSpec::Upcycle { parent, spec } => {
                let job = UpcycleJob {
                    spec,
                    from: &store.checkpoint(parent)?,
                    to: Some(&StageCheckpoints::new(&dir).prepare(stage.to)?),
                    data: self.data,
                    // Soon done, and the next stage needs it.
                    stop: &AtomicBool::new(false),
                };
                StageResult::Upcycle(self.engine.upcycle(&job).map_err(failed)?)
            }
        };
        if claim.is_lost() {
            return Ok(false);
        }
        store.finish(&stage.key, &result)?;
        observer.event(RunEvent::Finished(stage, &result));
        Ok(true)
    }
}

/// Time between two looks at a stage that another process computes.
const POLL: Duration = Duration::from_millis(500);

struct State<'a> {
    frontier: Frontier<'a>,
    /// Stages that other processes compute.
    elsewhere: Vec<&'a Stage>,
    /// When those were looked at.
    looked: Instant,
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

    /// A stage whose parent is finished. Waits for one; none at the end.
    fn take(&self, stop: &AtomicBool) -> Option<&'a Stage> {
        let mut state = self.lock();
        loop {
            if stop.load(Ordering::Relaxed) {
                state.failed.get_or_insert(LabError::Interrupted);
            }
            if state.failed.is_some() {
                return None;
            }
            if let Some(stage) = state.frontier.take() {
                state.running += 1;
                return Some(stage);
            }
            if state.elsewhere.is_empty() && (state.frontier.is_empty() || state.running == 0) {
                return None;
            }
            let waited = self.changed.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.looked.elapsed() >= POLL {
                // Another look at what others compute.
                state.looked = Instant::now();
                for stage in std::mem::take(&mut state.elsewhere) {
                    state.frontier.put_back(stage);
                }
            }
        }
    }

    fn put(&self, stage: &'a Stage, result: Result<bool, LabError>) {
        let mut state = self.lock();
        state.running -= 1;
        match result {
            Ok(true) => state.frontier.finish(stage.key.clone()),
            Ok(false) => state.elsewhere.push(stage),
            Err(error) => {
                state.failed.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }
}
