//! The processes of higher ranks, which come to this one.

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::{
    meeting::Meeting,
    message::{self, Answer, Hello, Place, VERSION},
    network::{self, Deadline},
};

/// Time for the first word of who has come.
const PATIENCE: Duration = Duration::from_secs(5);

struct Guest {
    stream: TcpStream,
    place: Place,
}

/// Waits for the processes of higher ranks, and answers them when all have come, or one cannot be let in.
pub(crate) fn receive(
    meeting: &Meeting,
    listener: &TcpListener,
    deadline: Deadline,
) -> Result<Vec<TcpStream>, String> {
    let mut seats: Vec<Option<Guest>> = Vec::new();
    seats.resize_with(meeting.size - meeting.rank - 1, || None);
    let seated = seat(meeting, listener, deadline, &mut seats);

    let mut guests: Vec<Guest> = seats.into_iter().flatten().collect();
    if let Err(problem) = seated {
        for guest in &mut guests {
            refuse(&mut guest.stream, &problem);
        }
        return Err(problem);
    }
    let answer = Answer::Welcome(guests.iter().map(|guest| guest.place).collect());
    for guest in &mut guests {
        message::write(&mut guest.stream, &answer)
            .map_err(|error| format!("a process went before all had come ({error})"))?;
    }
    Ok(guests.into_iter().map(|guest| guest.stream).collect())
}

/// Waits until all seats are taken. They are those of the ranks above the own, in their order.
fn seat(
    meeting: &Meeting,
    listener: &TcpListener,
    deadline: Deadline,
    seats: &mut [Option<Guest>],
) -> Result<(), String> {
    while seats.iter().any(Option::is_none) {
        let comes = network::accept(listener, deadline)
            .map_err(|error| format!("rank {} cannot listen: {error}", meeting.rank))?;
        let Some(mut stream) = comes else {
            return Err(missing(meeting, seats));
        };
        let patience = deadline.remaining().min(PATIENCE);
        let Ok(hello) = message::read::<Hello>(&mut stream, patience) else {
            // No process of any team says nothing, or something else.
            continue;
        };
        if hello.token != meeting.token {
            let problem = "its token is not that of the team that meets here; start all processes of a team with the same one";
            refuse(&mut stream, problem);
            continue;
        }
        let Some(place) = place(&stream, &hello) else {
            // It has gone again.
            continue;
        };
        match free_seat(meeting, &hello, seats) {
            Ok(seat) => *seat = Some(Guest { stream, place }),
            Err(problem) => {
                refuse(&mut stream, &problem);
                return Err(problem);
            }
        }
    }
    Ok(())
}

fn place(stream: &TcpStream, hello: &Hello) -> Option<Place> {
    let address = stream.peer_addr().ok()?.ip().to_canonical();
    Some(Place {
        address: (!address.is_loopback()).then_some(address),
        port: hello.port,
    })
}

/// The seat of who has come, or why there is none.
fn free_seat<'a>(
    meeting: &Meeting,
    hello: &Hello,
    seats: &'a mut [Option<Guest>],
) -> Result<&'a mut Option<Guest>, String> {
    let (rank, own) = (hello.rank, meeting.rank);
    if hello.version != VERSION {
        return Err(format!(
            "rank {rank} speaks version {} of what processes say to each other, and rank {own} version {VERSION}; start the same program everywhere",
            hello.version
        ));
    }
    if hello.size != meeting.size {
        return Err(format!(
            "rank {rank} was told of {} processes, and rank {own} of {}; tell all the same",
            hello.size, meeting.size
        ));
    }
    rank.checked_sub(own + 1)
        .and_then(|index| seats.get_mut(index))
        .filter(|seat| seat.is_none())
        .ok_or_else(|| format!("two processes say that they are rank {rank}; give each its own"))
}

fn missing(meeting: &Meeting, seats: &[Option<Guest>]) -> String {
    let ranks = (meeting.rank + 1..).zip(seats);
    let missing: Vec<_> = ranks
        .filter(|(_, seat)| seat.is_none())
        .map(|(rank, _)| rank.to_string())
        .collect();
    format!(
        "of {} processes, rank {} has waited {} seconds in vain for rank {}; start all with the same address",
        meeting.size,
        meeting.rank,
        meeting.timeout.as_secs_f64(),
        missing.join(", ")
    )
}

fn refuse(stream: &mut TcpStream, problem: &str) {
    // Who has gone needs no answer.
    let _ = message::write(stream, &Answer::Refused(problem.to_owned()));
}
