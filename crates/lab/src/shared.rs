//! The stages of a graph as threads share them: each is taken as soon as its parent is finished.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    error::LabError,
    frontier::Frontier,
    graph::{Stage, StageGraph},
};

/// Time between two looks at a stage that another process computes.
pub(crate) const POLL: Duration = Duration::from_millis(500);

struct State<'a> {
    frontier: Frontier<'a>,
    /// Stages that other processes compute.
    elsewhere: Vec<&'a Stage>,
    /// When those were looked at.
    looked: Instant,
    running: usize,
    failed: Option<LabError>,
}

/// Stages that threads take and give back.
pub(crate) struct Shared<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
}

impl<'a> Shared<'a> {
    /// The stages of a graph but for those that were finished before.
    pub(crate) fn new(graph: &'a StageGraph, finished: impl Fn(&Stage) -> bool) -> Self {
        Self {
            state: Mutex::new(State {
                frontier: Frontier::new(graph, finished),
                elsewhere: Vec::new(),
                looked: Instant::now(),
                running: 0,
                failed: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// The first error of a stage, at the end.
    pub(crate) fn failed(&self) -> Option<LabError> {
        self.lock().failed.take()
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        // A panic of another thread has not left the plain collections half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage whose parent is finished. Waits for one; none at the end.
    pub(crate) fn take(&self, stop: &AtomicBool) -> Option<&'a Stage> {
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

    /// Gives a stage back: finished, computed by another process, or failed.
    pub(crate) fn put(&self, stage: &'a Stage, result: Result<bool, LabError>) {
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
