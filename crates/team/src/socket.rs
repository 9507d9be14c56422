//! The connection to another process. A thread writes what is to be sent, another one reads what comes.

use std::{
    io::{self, BufReader, BufWriter, ErrorKind, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::{
    error::TeamError,
    frame::Frame,
    inbox::{Inbox, Parcel},
};

/// Time without anything to write after which a heartbeat is written.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time without anything to read, or without room to write, after which the other process is lost.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 1 << 16;

/// A connection. It ends when this is dropped.
pub(crate) struct Socket {
    stream: TcpStream,
    frames: Sender<Frame>,
}

impl Socket {
    /// Talks to the process of a rank; what it sends goes to the inbox.
    pub(crate) fn open(rank: usize, stream: TcpStream, inbox: &Arc<Inbox>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let (frames, queue) = mpsc::channel();

        let (output, loser) = (stream.try_clone()?, Arc::clone(inbox));
        let write = move || {
            if let Err(error) = write_frames(&output, &queue) {
                loser.lose(rank, format!("nothing can be sent to it ({error})"));
                // If the other side has gone, there is nothing to end.
                let _ = output.shutdown(Shutdown::Both);
            }
        };
        thread::Builder::new()
            .name(format!("team-to-{rank}"))
            .spawn(write)?;

        let (input, inbox, answers) = (stream.try_clone()?, Arc::clone(inbox), frames.clone());
        let read = move || {
            if let Err(error) = read_frames(input, rank, &inbox, &answers) {
                inbox.lose(rank, reason(&error));
            }
        };
        thread::Builder::new()
            .name(format!("team-from-{rank}"))
            .spawn(read)?;

        Ok(Self { stream, frames })
    }

    /// Sends a frame after those before it.
    pub(crate) fn send(&self, frame: Frame) {
        // Without a writer the connection has ended, and the inbox says why.
        let _ = self.frames.send(frame);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If the other side has gone, there is nothing to end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn write_frames(stream: &TcpStream, queue: &Receiver<Frame>) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(BUFFER, stream);
    loop {
        let frame = match queue.recv_timeout(HEARTBEAT) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => Frame::Heartbeat,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        frame.write(&mut output)?;
        output.flush()?;
        if frame == Frame::Farewell {
            return Ok(());
        }
    }
}

/// Reads until the other process has nothing more to say.
fn read_frames(
    stream: TcpStream,
    from: usize,
    inbox: &Inbox,
    answers: &Sender<Frame>,
) -> io::Result<()> {
    let mut input = BufReader::with_capacity(BUFFER, stream);
    loop {
        match Frame::read(&mut input)? {
            Frame::Heartbeat => continue,
            Frame::Tensor(data) => {
                inbox.put(from, Parcel::Data(data));
                continue;
            }
            Frame::Value(bytes) => {
                inbox.put(from, Parcel::Value(bytes));
                continue;
            }
            Frame::Fault { rank, reason } => {
                inbox.fail(TeamError::Lost { rank, reason });
                answer(answers);
            }
            Frame::Leave => answer(answers),
            Frame::Farewell => {}
        }
        inbox.leave(from);
        return Ok(());
    }
}

fn answer(answers: &Sender<Frame>) {
    // Without a writer the connection has ended, and nobody waits for the answer.
    let _ = answers.send(Frame::Farewell);
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            "its connection ended; its process was killed, or the network failed".into()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("it has not been heard of for {} seconds", SILENCE.as_secs())
        }
        _ => format!("its connection failed ({error})"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn connections_that_end_or_make_no_sense_are_losses() {
        for sent in [&[][..], &[255_u8; 64]] {
            let (mut other, stream) = connection();
            let inbox = Arc::new(Inbox::new(2));
            let _socket = Socket::open(1, stream, &inbox).unwrap();
            other.write_all(sent).unwrap();
            if sent.is_empty() {
                drop(other);
            }
            let error = inbox.take(1).err().unwrap();
            assert!(matches!(error, TeamError::Lost { rank: 1, .. }), "{error}");
        }
    }

    #[test]
    fn who_leaves_is_answered_and_no_loss() {
        let (mut other, stream) = connection();
        let inbox = Arc::new(Inbox::new(2));
        let _socket = Socket::open(1, stream, &inbox).unwrap();
        Frame::Value(vec![7]).write(&mut other).unwrap();
        Frame::Leave.write(&mut other).unwrap();
        assert_eq!(Frame::read(&mut other).unwrap(), Frame::Farewell);
        drop(other);
        assert!(matches!(inbox.take(1), Ok(Parcel::Value(bytes)) if bytes == [7]));
        assert_eq!(inbox.fault(), None);
        let error = inbox.take(1).err().unwrap().to_string();
        assert!(
            error.contains("device 1") && error.contains("left"),
            "{error}"
        );
    }
}
