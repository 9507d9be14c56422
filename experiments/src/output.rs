//! Lines of output that scripts can trust.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

/// Rank of this process, where another one speaks for both.
static SILENT: OnceLock<usize> = OnceLock::new();

/// Leaves results and notes to another process of the same work; only errors are written from here on, with this one's rank.
pub fn only_errors(rank: usize) {
    // A process has one place.
    let _ = SILENT.set(rank);
}

/// Whether another process speaks for this one.
pub fn is_silent() -> bool {
    SILENT.get().is_some()
}

/// Writes an error to standard error.
pub fn error(sentence: &str) {
    let rank = SILENT.get().map(|rank| format!("rank {rank}: "));
    let rank = rank.unwrap_or_default();
    let _ = writeln!(io::stderr(), "{rank}error: {sentence}");
}

/// Writes a line to standard output. A reader that has gone away is no reason to stop what is being done.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    piece(&format!("{}\n", text.as_ref())).map(drop)
}

/// Writes a piece of a line to standard output, at once. False if its reader has gone away.
pub fn piece(text: &str) -> io::Result<bool> {
    if is_silent() {
        return Ok(true);
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// Writes a line to standard error for people; nobody reading it is no reason to stop.
macro_rules! note {
    ($($text:tt)*) => {{
        if !$crate::output::is_silent() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), $($text)*);
        }
    }};
}
pub(crate) use note;

/// An error and its causes as one sentence, without causes that are part of the error before them.
pub fn join_causes(causes: &[String]) -> String {
    let mut sentence = String::new();
    for cause in causes {
        if !sentence.contains(cause.as_str()) {
            if !sentence.is_empty() {
                sentence.push_str(": ");
            }
            sentence.push_str(cause);
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let causes = ["a: b".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(join_causes(&causes), "a: b: c");
    }
}
