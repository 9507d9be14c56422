//! How processes find each other.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use crate::{
    error::TeamError,
    guests,
    meeting::Meeting,
    message::{self, Answer, Hello, Place, VERSION},
    network::{self, Deadline},
};

/// Connections to all other processes, in the order of their ranks.
pub(crate) fn connections(meeting: &Meeting) -> Result<Vec<TcpStream>, TeamError> {
    let meet = || match meeting.rank {
        _ if meeting.size == 1 => Ok(Vec::new()),
        0 => lead(meeting),
        _ => follow(meeting),
    };
    meeting
        .check()
        .and_then(|()| meet())
        .map_err(|problem| meeting.failed(problem))
}

fn lead(meeting: &Meeting) -> Result<Vec<TcpStream>, String> {
    let listener = network::listen(&meeting.address)
        .map_err(|error| format!("rank 0 cannot listen there: {error}"))?;
    guests::receive(meeting, &listener, Deadline::after(meeting.timeout))
}

/// Goes to the processes of lower ranks in their order, then waits for those of higher ones. So no two wait for each other.
fn follow(meeting: &Meeting) -> Result<Vec<TcpStream>, String> {
    let deadline = Deadline::after(meeting.timeout);
    let cannot_listen = |error: io::Error| format!("rank {} cannot listen: {error}", meeting.rank);
    let listener = network::listen_everywhere(0).map_err(cannot_listen)?;
    let port = listener.local_addr().map_err(cannot_listen)?.port();

    let (leader, places) = visit(&meeting.address, meeting, port, deadline)?;
    if places.len() != meeting.size - 1 {
        return Err("rank 0 does not know where all processes are".into());
    }
    let leader_address = leader.peer_addr().map_err(|error| error.to_string())?.ip();
    let mut connections = vec![leader];
    for place in places.iter().take(meeting.rank - 1) {
        let address = place.address.unwrap_or(leader_address);
        let address = SocketAddr::new(address, place.port).to_string();
        let (stream, _) = visit(&address, meeting, port, deadline)?;
        connections.push(stream);
    }
    connections.extend(guests::receive(meeting, &listener, deadline)?);
    Ok(connections)
}

/// Goes to a process and waits to be let in.
fn visit(
    address: &str,
    meeting: &Meeting,
    port: u16,
    deadline: Deadline,
) -> Result<(TcpStream, Vec<Place>), String> {
    let mut stream = network::dial(address, deadline).map_err(|error| {
        let seconds = meeting.timeout.as_secs_f64();
        format!("nobody has answered at {address} within {seconds} seconds ({error})")
    })?;
    let hello = Hello {
        version: VERSION,
        token: meeting.token.clone(),
        rank: meeting.rank,
        size: meeting.size,
        port,
    };
    let answer = message::write(&mut stream, &hello)
        .and_then(|()| message::read(&mut stream, deadline.remaining()));
    match answer {
        Ok(Answer::Welcome(places)) => Ok((stream, places)),
        Ok(Answer::Refused(problem)) => Err(problem),
        Err(error) => Err(format!(
            "who listens at {address} has gone, or does not let this process in ({error})"
        )),
    }
}
