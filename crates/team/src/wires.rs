//! What joins one member to all others.

use std::{
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use burn::tensor::{Tensor, backend::Backend};

use crate::{
    error::TeamError,
    frame::Frame,
    host,
    inbox::{Inbox, Parcel},
    meet,
    meeting::Meeting,
    socket::Socket,
};

/// Time for the last words of who has failed.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The way to one member.
enum Wire {
    Thread(Arc<Inbox>),
    Socket(Socket),
}

/// The ways of one member to all, itself included, and its inbox. Whoever drops them without leaving has failed.
pub(crate) struct Wires {
    rank: usize,
    inbox: Arc<Inbox>,
    wires: Vec<Wire>,
    sent: AtomicU64,
    left: AtomicBool,
    /// The others know of the fault.
    told: AtomicBool,
}

impl Wires {
    /// Those of the only member of a team.
    pub(crate) fn alone() -> Self {
        Self::within(0, &[Arc::new(Inbox::new(1))])
    }

    /// Those of each thread of a team.
    pub(crate) fn threads(size: usize) -> Vec<Self> {
        let inboxes: Vec<_> = (0..size).map(|_| Arc::new(Inbox::new(size))).collect();
        (0..size).map(|rank| Self::within(rank, &inboxes)).collect()
    }

    fn within(rank: usize, inboxes: &[Arc<Inbox>]) -> Self {
        let wires = inboxes.iter().cloned().map(Wire::Thread).collect();
        Self::new(rank, Arc::clone(&inboxes[rank]), wires)
    }

    /// Those of a process.
    pub(crate) fn connect(meeting: &Meeting) -> Result<Self, TeamError> {
        let inbox = Arc::new(Inbox::new(meeting.size));
        let open = |(index, stream): (usize, TcpStream)| {
            let rank = index + usize::from(index >= meeting.rank);
            Socket::open(rank, stream, &inbox).map(Wire::Socket)
        };
        let mut wires = meet::connections(meeting)?
            .into_iter()
            .enumerate()
            .map(open)
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| meeting.failed(error))?;
        wires.insert(meeting.rank, Wire::Thread(Arc::clone(&inbox)));
        Ok(Self::new(meeting.rank, inbox, wires))
    }

    fn new(rank: usize, inbox: Arc<Inbox>, wires: Vec<Wire>) -> Self {
        Self {
            rank,
            inbox,
            wires,
            sent: AtomicU64::new(0),
            left: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// The own rank.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// Number of members.
    pub(crate) fn size(&self) -> usize {
        self.wires.len()
    }

    /// Sends a tensor, and does not wait for its arrival.
    pub(crate) fn send_tensor<B: Backend, const D: usize>(
        &self,
        to: usize,
        tensor: Tensor<B, D>,
    ) -> Result<(), TeamError> {
        self.check(to)?;
        let bytes = tensor.shape().num_elements() * tensor.dtype().size();
        match &self.wires[to] {
            Wire::Thread(inbox) => inbox.put(self.rank, Parcel::Tensor(Box::new(tensor))),
            Wire::Socket(socket) => {
                let data = host::read(tensor).map_err(|error| self.fail(error))?;
                socket.send(Frame::Tensor(data));
            }
        }
        self.count(to, bytes);
        Ok(())
    }

    /// Sends a value, and does not wait for its arrival.
    pub(crate) fn send_value(&self, to: usize, value: Vec<u8>) -> Result<(), TeamError> {
        self.check(to)?;
        self.count(to, value.len());
        match &self.wires[to] {
            Wire::Thread(inbox) => inbox.put(self.rank, Parcel::Value(value)),
            Wire::Socket(socket) => socket.send(Frame::Value(value)),
        }
        Ok(())
    }

    /// The next that a member has sent here. Waits for it.
    pub(crate) fn receive(&self, from: usize) -> Result<Parcel, TeamError> {
        self.check_left()?;
        self.inbox.take(from).map_err(|error| self.fail(error))
    }

    /// Bytes of tensors and values that went to others.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// The first error of the team.
    pub(crate) fn fault(&self) -> Option<TeamError> {
        self.inbox.fault()
    }

    /// Keeps an error unless there is one, tells the others of that which is kept, and gives it.
    pub(crate) fn fail(&self, error: TeamError) -> TeamError {
        let fault = self.inbox.fail(error);
        if self.left.load(Relaxed) || self.told.swap(true, Relaxed) {
            return fault;
        }
        let (rank, reason) = match fault.clone() {
            TeamError::Lost { rank, reason } => (rank, reason),
            other => (self.rank, other.to_string()),
        };
        for (_, wire) in self.others() {
            let reason = reason.clone();
            match wire {
                Wire::Thread(inbox) => drop(inbox.fail(TeamError::Lost { rank, reason })),
                Wire::Socket(socket) => socket.send(Frame::Fault { rank, reason }),
            }
        }
        fault
    }

    /// The work is done. Waits until other processes have all that was sent to them.
    pub(crate) fn leave(&self) {
        if self.fault().is_some() || self.left.swap(true, Relaxed) {
            return;
        }
        for (_, wire) in self.others() {
            match wire {
                Wire::Thread(inbox) => inbox.leave(self.rank),
                Wire::Socket(socket) => socket.send(Frame::Leave),
            }
        }
        self.wait_for_answers(Duration::MAX);
    }

    fn check(&self, other: usize) -> Result<(), TeamError> {
        self.check_left()?;
        self.inbox.check(other).map_err(|error| self.fail(error))
    }

    fn check_left(&self) -> Result<(), TeamError> {
        if self.left.load(Relaxed) {
            return Err(TeamError::Left);
        }
        Ok(())
    }

    fn count(&self, to: usize, bytes: usize) {
        if to != self.rank {
            self.sent.fetch_add(bytes as u64, Relaxed);
        }
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Wire)> {
        let wires = self.wires.iter().enumerate();
        wires.filter(|(rank, _)| *rank != self.rank)
    }

    fn wait_for_answers(&self, limit: Duration) {
        let processes = self
            .others()
            .filter(|(_, wire)| matches!(wire, Wire::Socket(_)))
            .map(|(rank, _)| rank);
        self.inbox
            .wait_until_left(&processes.collect::<Vec<_>>(), limit);
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        if self.left.load(Relaxed) {
            return;
        }
        let reason = if thread::panicking() {
            "it panicked"
        } else {
            "it ended before its work was done"
        };
        self.fail(TeamError::Lost {
            rank: self.rank,
            reason: reason.into(),
        });
        self.wait_for_answers(LAST_WORDS);
    }
}
