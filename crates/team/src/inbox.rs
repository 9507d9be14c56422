//! Where what others send lies until it is asked for.

use std::{
    any::Any,
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::tensor::TensorData;

use crate::error::TeamError;

/// What members send each other.
pub(crate) enum Parcel {
    /// A tensor of a thread of this process, as it is.
    Tensor(Box<dyn Any + Send>),
    /// A tensor of another process.
    Data(TensorData),
    /// A value of the host, as MessagePack.
    Value(Vec<u8>),
}

/// The parcels for one member, in the order in which each other one sent them, and the first error of the team.
pub(crate) struct Inbox {
    state: Mutex<State>,
    change: Condvar,
}

struct State {
    /// By the rank of the sender.
    lanes: Vec<Lane>,
    fault: Option<TeamError>,
}

#[derive(Default)]
struct Lane {
    parcels: VecDeque<Parcel>,
    /// The sender sends nothing more and waits for nothing.
    left: bool,
}

impl Inbox {
    /// For one member of a team.
    pub(crate) fn new(size: usize) -> Self {
        let lanes = (0..size).map(|_| Lane::default()).collect();
        let fault = None;
        Self {
            state: Mutex::new(State { lanes, fault }),
            change: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a parcel.
    pub(crate) fn put(&self, from: usize, parcel: Parcel) {
        self.lock().lanes[from].parcels.push_back(parcel);
        self.change.notify_all();
    }

    /// The next parcel of a sender. Waits for it.
    pub(crate) fn take(&self, from: usize) -> Result<Parcel, TeamError> {
        let mut state = self.lock();
        loop {
            if state.fault.is_none()
                && let Some(parcel) = state.lanes[from].parcels.pop_front()
            {
                return Ok(parcel);
            }
            state.check(from)?;
            state = self
                .change
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why nothing can be sent to another member any more.
    pub(crate) fn check(&self, other: usize) -> Result<(), TeamError> {
        self.lock().check(other)
    }

    /// The first error.
    pub(crate) fn fault(&self) -> Option<TeamError> {
        self.lock().fault.clone()
    }

    /// Keeps an error, unless there is one, and gives that which is kept.
    pub(crate) fn fail(&self, error: TeamError) -> TeamError {
        let fault = self.lock().fault.get_or_insert(error).clone();
        self.change.notify_all();
        fault
    }

    /// Another member has ended its work.
    pub(crate) fn leave(&self, other: usize) {
        self.lock().lanes[other].left = true;
        self.change.notify_all();
    }

    /// The connection to another member has ended, which is an error unless its work has.
    pub(crate) fn lose(&self, rank: usize, reason: String) {
        let mut state = self.lock();
        if !state.lanes[rank].left {
            state.lanes[rank].left = true;
            state.fault.get_or_insert(TeamError::Lost { rank, reason });
        }
        drop(state);
        self.change.notify_all();
    }

    /// Waits until all of these have left, or the time is over.
    pub(crate) fn wait_until_left(&self, others: &[usize], limit: Duration) {
        let waiting = |state: &mut State| others.iter().any(|&other| !state.lanes[other].left);
        drop(self.change.wait_timeout_while(self.lock(), limit, waiting));
    }
}

impl State {
    fn check(&self, other: usize) -> Result<(), TeamError> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None if self.lanes[other].left => Err(TeamError::Lost {
                rank: other,
                reason: "it has left the team, while others go on".into(),
            }),
            None => Ok(()),
        }
    }
}
