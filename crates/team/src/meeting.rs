//! Where processes meet.

use std::time::Duration;

use crate::error::TeamError;

/// Where the processes of a team meet, and which of them this one is. All but the rank is the same for all.
///
/// Rank 0 listens at the address. All others listen at ports of their own, of which rank 0 tells, so that every pair of
/// processes has a connection. What is sent is neither encrypted nor authenticated: it is for a cluster's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// `host:port` of rank 0, as the others reach it.
    pub address: String,
    /// Which of the processes this is, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// What the processes have in common and others have not, such as the id of a cluster's job. Who comes with another
    /// one is turned away.
    pub token: String,
    /// Time for all to come.
    pub timeout: Duration,
}

impl Meeting {
    /// Time for all to come, where nothing else is known: the machines of a cluster's job can start minutes apart.
    pub const TIMEOUT: Duration = Duration::from_secs(300);

    /// Whether there can be such a meeting, or why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rank >= self.size {
            return Err(format!(
                "there is no rank {} of {} processes; ranks begin at 0",
                self.rank, self.size
            ));
        }
        match self.address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
            _ => Err("an address is a host and a port, such as node1:29500".into()),
        }
    }

    /// The error of a meeting that did not take place.
    pub(crate) fn failed(&self, problem: impl ToString) -> TeamError {
        TeamError::Connect {
            address: self.address.clone(),
            problem: problem.to_string(),
        }
    }
}
