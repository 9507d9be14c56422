//! A device's place in a team.

use std::{fmt, sync::Arc};

use crate::{error::TeamError, meeting::Meeting, wires::Wires};

/// A device's place in a team of devices that train one model.
///
/// Clones and [subteams](Self::subteam) are the same device: they share its connections, and its errors. When the last of
/// them is dropped before one of them has [left](Self::leave), the device has failed, and all others are told.
#[derive(Clone)]
pub struct Team {
    pub(crate) wires: Arc<Wires>,
    /// Ranks in the whole team, by the ranks in this one.
    members: Arc<[usize]>,
    rank: usize,
}

impl Team {
    /// The only device of its team. Whatever it sends comes back.
    pub fn alone() -> Self {
        Self::of(Wires::alone())
    }

    /// One place for each of the threads of this process that are a team, by rank.
    pub fn threads(size: usize) -> Vec<Self> {
        Wires::threads(size).into_iter().map(Self::of).collect()
    }

    /// Meets other processes, each with one device, over TCP. Waits for all.
    ///
    /// # Errors
    /// If they do not all come in time, or were not told the same.
    pub fn connect(meeting: &Meeting) -> Result<Self, TeamError> {
        Ok(Self::of(Wires::connect(meeting)?))
    }

    fn of(wires: Wires) -> Self {
        Self {
            members: (0..wires.size()).collect(),
            rank: wires.rank(),
            wires: Arc::new(wires),
        }
    }

    /// Which of the members this device is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Some of the members, this device among them, as a team. Their ranks in it are their positions here. All of them name
    /// the same in the same order; teams without a common member can work at the same time.
    ///
    /// # Panics
    /// If a member is not of this team or is there twice, or this device is none of them.
    pub fn subteam(&self, members: impl IntoIterator<Item = usize>) -> Self {
        let members: Vec<_> = members.into_iter().collect();
        let mut seen = vec![false; self.size()];
        for &member in &members {
            assert!(
                member < seen.len() && !seen[member],
                "{members:?} is no part of a team of {}",
                self.size()
            );
            seen[member] = true;
        }
        let Some(rank) = members.iter().position(|&member| member == self.rank) else {
            panic!("device {} is none of its subteam {members:?}", self.rank);
        };
        Self {
            wires: Arc::clone(&self.wires),
            members: members.iter().map(|&member| self.members[member]).collect(),
            rank,
        }
    }

    /// Bytes of tensors and values that this device has sent to others, in all its teams.
    pub fn sent_bytes(&self) -> u64 {
        self.wires.sent()
    }

    /// The first error of any device that this one knows of. Where a call cannot return its error, as in a backward pass,
    /// it is found here.
    pub fn fault(&self) -> Option<TeamError> {
        self.wires.fault()
    }

    /// Tells all devices of the whole team that this one cannot go on. Their calls, and those of this one, are errors from
    /// then on.
    pub fn fail(&self, reason: &str) {
        self.wires.fail(TeamError::Lost {
            rank: self.wires.rank(),
            reason: reason.to_owned(),
        });
    }

    /// The work of this device is done, in all its teams. Waits until other processes have what was sent to them, but not
    /// until they have done theirs.
    pub fn leave(self) {
        self.wires.leave();
    }

    /// The rank of a member in the whole team.
    pub(crate) fn wire(&self, member: usize) -> Result<usize, TeamError> {
        self.members.get(member).copied().ok_or_else(|| {
            let size = self.size();
            self.refuse(format!("there is no member {member} in a team of {size}"))
        })
    }

    /// The error of a call that makes no sense.
    pub(crate) fn refuse(&self, problem: String) -> TeamError {
        self.wires.fail(TeamError::Call(problem))
    }

    /// The error of a parcel that is not what the call awaits.
    pub(crate) fn mismatch(&self, member: usize, problem: String) -> TeamError {
        let rank = self.members[member];
        self.wires.fail(TeamError::Mismatch { rank, problem })
    }

    /// The error of parts that are not one for each member.
    pub(crate) fn check_parts(&self, parts: usize) -> Result<(), TeamError> {
        if parts != self.size() {
            let size = self.size();
            return Err(self.refuse(format!("there are {parts} parts for {size} members")));
        }
        Ok(())
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("rank", &self.rank)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}
