//! What processes say when they meet: a length of four bytes, little-endian, and MessagePack.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Of what processes say to each other. Those of different versions do not work together.
pub(crate) const VERSION: u32 = 1;

/// Bytes of the longest message. What begins otherwise is no process of a team.
const LONGEST: u32 = 1 << 20;

/// The first word of a process that comes. Every version can read it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) token: String,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// Where it listens itself.
    pub(crate) port: u16,
}

/// The answer, when all are there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Where those listen who have come, in the order of their ranks.
    Welcome(Vec<Place>),
    /// Why the team does not meet.
    Refused(String),
}

/// Where a process listens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Place {
    /// None on the machine of who says so.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

/// Writes a message.
pub(crate) fn write<T: Serialize>(stream: &mut TcpStream, message: &T) -> io::Result<()> {
    let message = rmp_serde::to_vec_named(message).map_err(io::Error::other)?;
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes()[..], &message].concat())
}

/// Reads a message, for which it does not wait any longer.
pub(crate) fn read<T: DeserializeOwned>(
    stream: &mut TcpStream,
    patience: Duration,
) -> io::Result<T> {
    stream.set_read_timeout(Some(patience))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    rmp_serde::from_slice(&message).map_err(io::Error::other)
}
