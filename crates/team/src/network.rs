//! Connections that are waited for.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

/// Time between two looks whether somebody calls.
const LOOK: Duration = Duration::from_millis(20);
/// Time between two calls of somebody who does not listen yet.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for one call.
const CALL: Duration = Duration::from_secs(5);
/// The longest time to wait.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Until when to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// From now on.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(YEAR))
    }

    /// Time that is left, never quite nothing.
    pub(crate) fn remaining(self) -> Duration {
        let remaining = self.0.saturating_duration_since(Instant::now());
        remaining.max(Duration::from_millis(1))
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

/// Listens at the port of an address. On all interfaces, unless the address is a number: a machine's own name often stands
/// for an address that others do not reach.
pub(crate) fn listen(address: &str) -> io::Result<TcpListener> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let number = host.trim_matches(['[', ']']).parse::<IpAddr>();
    match port.parse() {
        Ok(port) if number.is_err() && host != "localhost" => listen_everywhere(port),
        _ => TcpListener::bind(address),
    }
}

/// Listens on all interfaces; at port 0, at one that is free.
pub(crate) fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}

/// The next connection, if there is one in time.
pub(crate) fn accept(listener: &TcpListener, deadline: Deadline) -> io::Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(Some(stream));
            }
            Err(error) => match error.kind() {
                _ if deadline.is_over() => return Ok(None),
                ErrorKind::WouldBlock => thread::sleep(LOOK),
                ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// A connection to an address, as soon as somebody listens there.
pub(crate) fn dial(address: &str, deadline: Deadline) -> io::Result<TcpStream> {
    loop {
        match dial_once(address, deadline.remaining().min(CALL)) {
            Err(_) if !deadline.is_over() => thread::sleep(PAUSE.min(deadline.remaining())),
            result => return result,
        }
    }
}

fn dial_once(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut error = io::Error::from(ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            // Where nobody listens, a call can be given the very port that it calls.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                error = ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(problem) => error = problem,
        }
    }
    Err(error)
}
