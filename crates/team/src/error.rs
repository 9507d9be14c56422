//! Why devices cannot go on together.

use thiserror::Error;

/// Why a team cannot go on, or cannot meet. Ranks are those of the whole team.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TeamError {
    /// A device failed, ended before its work was done, or does not answer.
    #[error("device {rank} of the team is lost: {reason}")]
    Lost {
        /// The device.
        rank: usize,
        /// What it said, or what was seen of it.
        reason: String,
    },
    /// Devices make calls that do not fit together.
    #[error(
        "device {rank} of the team does not do what this one does: {problem}; all members make the same calls in the same order"
    )]
    Mismatch {
        /// The device that sent what was not awaited.
        rank: usize,
        /// What it sent.
        problem: String,
    },
    /// A call that no member can make.
    #[error("no device of the team can be asked for this: {0}")]
    Call(String),
    /// A tensor or value that is not sent.
    #[error("a device of the team cannot send what it has: {0}")]
    Send(String),
    /// A call after [`leave`](crate::Team::leave).
    #[error("this device has left the team; it leaves after its last call")]
    Left,
    /// The processes did not meet.
    #[error("the processes of the team cannot meet at {address}: {problem}")]
    Connect {
        /// Where they were to meet.
        address: String,
        /// Why they did not.
        problem: String,
    },
}
