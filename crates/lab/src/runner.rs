//! Runs the stages of a graph, several at a time, each as soon as its parent is finished. Other processes may run the same
//! graph on the same store at the same time: they share the work. Processes of a team train each stage together: the leader
//! claims it and writes, and tells the others when to compute.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_team::Team;
use upcycle_train::{
    Engine, StageCheckpoints, Start, TrainError, TrainEvent, TrainJob, UpcycleJob,
};

use crate::{
    error::LabError,
    graph::{Stage, StageGraph},
    memory::{MemoryLimit, processor},
    shared::{POLL, Shared},
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

/// What the leader of a team tells the others of a stage.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Word {
    /// It is to be computed.
    Compute,
    /// It is finished.
    Finished,
    /// It was told to end.
    Stopped,
}

/// Runs stages; nothing here changes a result.
pub struct Runner<'a> {
    /// What computes; the device of a team, if the stage has one.
    pub engine: &'a dyn Engine,
    /// The processes that compute a stage together; [`Team::alone`] without others.
    pub team: Team,
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
    /// Runs all stages of a graph that are [missing](Store::missing), `jobs` at a time, without a team.
    ///
    /// # Errors
    /// The first stage that fails, also by a panic; stages that are running are finished, no other is begun.
    pub fn run(&self, graph: &StageGraph, jobs: usize) -> Result<(), LabError> {
        let missing = self.store.missing(graph);
        for stage in graph.stages() {
            // A damaged result is told before anything runs.
            if self.store.result(&stage.key)?.is_some() && !missing.contains(&stage.key) {
                self.observer.event(RunEvent::Cached(stage));
            }
        }
        let shared = Shared::new(graph, |stage| !missing.contains(&stage.key));
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(stage) = shared.take(self.stop) {
                        let result = self.survive(stage, || self.try_stage(stage));
                        shared.put(stage, result);
                    }
                });
            }
        });
        shared.failed().map_or(Ok(()), Err)
    }

    /// Runs one stage whose parent is whole, unless it is [whole](Store::is_whole) itself, on all processes of the team; waits
    /// while another process computes it.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_stage(&self, stage: &Stage) -> Result<(), LabError> {
        if self.team.rank() > 0 {
            return self.help(stage);
        }
        while !self.survive(stage, || self.try_stage(stage))? {
            if self.stop.load(Ordering::Relaxed) {
                self.tell(Word::Stopped)?;
                return Err(LabError::Interrupted);
            }
            thread::sleep(POLL);
        }
        self.tell(Word::Finished)
    }

    /// Computes a stage with the leader of the team as often as that begins it.
    fn help(&self, stage: &Stage) -> Result<(), LabError> {
        let unheard = &AtomicBool::new(false);
        loop {
            match self.word(None)? {
                Some(Word::Compute) => {
                    let compute = || self.compute(stage, unheard, &mut |_| {});
                    self.survive(stage, compute)?;
                }
                Some(Word::Stopped) => return Err(LabError::Interrupted),
                Some(Word::Finished) | None => return Ok(()),
            }
        }
    }

    /// Tells the others of the team.
    fn tell(&self, word: Word) -> Result<(), LabError> {
        self.word(Some(word)).map(drop)
    }

    /// What the leader of the team says, who alone has a word.
    fn word(&self, own: Option<Word>) -> Result<Option<Word>, LabError> {
        if self.team.size() == 1 {
            // Threads that compute stages side by side share it.
            return Ok(own);
        }
        let words = self.team.gather_values(&own)?;
        Ok(words.into_iter().next().flatten())
    }

    /// Work on a stage, of which a panic is an error: Burn panics where a device fails, and others wait for the end of every
    /// stage.
    fn survive<T>(
        &self,
        stage: &Stage,
        work: impl FnOnce() -> Result<T, LabError>,
    ) -> Result<T, LabError> {
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        result.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied());
            let problem = text.unwrap_or("it broke off without a word").to_owned();
            Err(self.failed(stage, TrainError::Panicked(problem)))
        })
    }

    fn failed(&self, stage: &Stage, source: TrainError) -> LabError {
        LabError::Stage {
            stage: stage.label.clone(),
            dir: self.store.stage_dir(&stage.key),
            source: Box::new(source),
        }
    }

    /// Whether the stage is finished; false if another process computes it.
    fn try_stage(&self, stage: &Stage) -> Result<bool, LabError> {
        let (store, observer) = (self.store, self.observer);
        let claim = store.claim(stage)?;
        // Another process may have finished it meanwhile.
        if store.is_whole(stage)? {
            observer.event(RunEvent::Cached(stage));
            return Ok(true);
        }
        let Some(claim) = claim else {
            return Ok(false);
        };
        store.keep_metrics(&stage.key)?;
        observer.event(RunEvent::Started(stage));
        self.tell(Word::Compute)?;
        let result = self.compute(stage, claim.lost(), &mut |event| {
            if let TrainEvent::Step { step, .. } | TrainEvent::Resumed { step } = event {
                claim.at_step(step);
            }
            observer.event(RunEvent::Training(stage, event));
        })?;
        let Some(result) = result.filter(|_| !claim.is_lost()) else {
            return Ok(false);
        };
        store.finish(&stage.key, &result)?;
        observer.event(RunEvent::Finished(stage, &result));
        Ok(true)
    }

    /// Computes a stage, with all processes of the team. None if it was cancelled.
    fn compute(
        &self,
        stage: &Stage,
        cancelled: &AtomicBool,
        events: &mut (dyn FnMut(TrainEvent) + Send),
    ) -> Result<Option<StageResult>, LabError> {
        let store = self.store;
        let dir = store.stage_dir(&stage.key);
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
                let processor = processor(self.engine.backend(), spec.precision);
                let (limit, batch) = (&self.limit, &spec.batch);
                let passes = limit.passes_of(&self.team, &stage.model, batch, processor)?;
                let job = TrainJob {
                    spec: &limit.devices.spec(spec),
                    start: &start,
                    dir: &dir,
                    data: self.data,
                    other_data: false,
                    event_file: false,
                    passes,
                    checkpoint_interval: self.checkpoint_interval,
                    cancelled,
                    stop: self.stop,
                };
                match self.engine.train(&job, events) {
                    Err(TrainError::Cancelled) => return Ok(None),
                    Err(TrainError::Interrupted { .. }) => return Err(LabError::Interrupted),
                    outcome => StageResult::Train(outcome.map_err(|it| self.failed(stage, it))?),
                }
            }
            StageSpec::Upcycle { parent, spec } => {
                let checkpoints = StageCheckpoints::new(&dir);
                let to = match self.team.rank() {
                    0 => checkpoints.prepare(stage.to)?,
                    _ => checkpoints.path(stage.to),
                };
                let job = UpcycleJob {
                    spec,
                    from: &store.checkpoint(parent)?,
                    to: Some(&to),
                    data: self.data,
                    // Soon done, and the next stage needs it.
                    stop: &AtomicBool::new(false),
                };
                let outcome = self.engine.upcycle(&job);
                StageResult::Upcycle(outcome.map_err(|it| self.failed(stage, it))?)
            }
        };
        Ok(Some(result))
    }
}
