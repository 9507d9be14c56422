//! Output that scripts can trust.

use std::io::{self, Write};

/// Writes a line to standard output. A reader that has gone away is no reason to stop what is being done.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        stdout.write_all(text.as_ref().as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error for people; nobody reading it is no reason to stop.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
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

/// A count with a unit prefix: `152k`, `1.03B`.
pub fn count(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e12 => (v / 1e12, "T"),
        v if v >= 1e9 => (v / 1e9, "B"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => return format!("{v:.0}"),
    };
    let decimals = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$}{unit}")
}

/// A number of things: `1 file`, `3 files`.
pub fn plural(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// Parameters, as models are named by them: `102k`, `154M`, `1028M`, `13.2B`.
pub fn parameters(value: u64) -> String {
    match value {
        1_000_000_000..10_000_000_000 => format!("{:.0}M", value as f64 / 1e6),
        _ => count(value as f64),
    }
}

/// Bytes with a binary unit: `1.4 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A duration in its two largest units: `4 min 10 s`, `3 d 2 h`.
pub fn duration(seconds: f64) -> String {
    const YEAR: u64 = 365 * 86_400;
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        86_400..YEAR => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
        _ => format!("{} y {} d", s / YEAR, s % YEAR / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(151_936.0), "152k");
        assert_eq!(count(1_028_000_000.0), "1.03B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(59.6), "1 min 0 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
    }

    #[test]
    fn causes_are_said_once() {
        let causes = ["a: b".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(join_causes(&causes), "a: b: c");
    }
}
