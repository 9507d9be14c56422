//! Numbers as people read them, on the page, in plots and on the terminal: the one place that says how they are written.

use crate::statistics::Summary;

/// What stands where there is no number.
pub const MISSING: &str = "–";

/// The sign with a space before it at which no line breaks.
const PERCENT: &str = "\u{a0}%";

/// A number with a real minus sign, never `-0`.
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|c| matches!(c, '0' | '.')) => digits.to_owned(),
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

/// A fraction in per cent with some decimals.
fn in_percent(fraction: f64, decimals: usize) -> String {
    match fixed(100.0 * fraction, decimals) {
        text if text == MISSING => text,
        text => text + PERCENT,
    }
}

/// A fraction in per cent without trailing zeros, such as `12.5 %`.
pub fn percent(fraction: f64) -> String {
    in_percent(fraction, 1).replace(&format!(".0{PERCENT}"), PERCENT)
}

/// A fraction in per cent with one decimal, such as `2.0 %`, so that a column lines up.
pub fn tenth_percent(fraction: f64) -> String {
    in_percent(fraction, 1)
}

/// A fraction in whole per cent, such as `−139 %`.
pub fn whole_percent(fraction: f64) -> String {
    in_percent(fraction, 0)
}

/// Mean and standard deviation, such as `1.4590 ± 0.0034`; the mean alone for one seed.
pub fn mean_sd(summary: &Summary, unit: f64, decimals: usize) -> String {
    let mean = fixed(summary.mean * unit, decimals);
    if summary.sd.is_finite() {
        format!("{mean} ± {}", fixed(summary.sd * unit, decimals))
    } else {
        mean
    }
}

/// Mean and interval, such as `12.3 (10.0 to 14.6)`; the mean alone where there is no interval.
pub fn mean_interval(summary: &Summary, unit: f64, decimals: usize) -> String {
    let text = |value: f64| fixed(unit * value, decimals);
    let mean = text(summary.mean);
    match summary.interval {
        Some((low, high)) => format!("{mean} ({} to {})", text(low), text(high)),
        None => mean,
    }
}

const COUNTS: [&str; 5] = ["", "k", "M", "B", "T"];
const FLOPS: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

/// A number of things: `1 file`, `3 files`.
pub fn plural(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// A count in three digits with a unit prefix: `512`, `152k`, `1.03B`.
pub fn count(value: f64) -> String {
    let (scaled, prefix) = prefixed(value, &COUNTS);
    format!("{scaled}{prefix}")
}

/// The unit that suits a count, and its prefix: a million and `M` for 1.02 million.
pub fn count_unit(value: f64) -> (f64, &'static str) {
    let power = power_of_thousand(value, COUNTS.len());
    (1000_f64.powi(power as i32), COUNTS[power])
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

/// Floating-point operations, such as `1.54 EFLOP`.
pub fn flops(value: f64) -> String {
    let (scaled, prefix) = prefixed(value, &FLOPS);
    if scaled == MISSING {
        return scaled;
    }
    format!("{scaled} {prefix}FLOP")
}

/// The unit that suits floating-point operations, and its name.
pub fn flops_unit(value: f64) -> (f64, String) {
    let power = power_of_thousand(value, FLOPS.len());
    (1000_f64.powi(power as i32), format!("{}FLOP", FLOPS[power]))
}

/// A duration in its two largest units: `4 min 10 s`, `3 d 2 h`.
pub fn duration(seconds: f64) -> String {
    const YEAR: u64 = 365 * 86_400;
    if !seconds.is_finite() {
        return MISSING.to_owned();
    }
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        86_400..YEAR => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
        _ => format!("{} y {} d", s / YEAR, s % YEAR / 86_400),
    }
}

/// The one unit that suits some seconds, for an axis: its length in seconds and its name.
pub fn duration_unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        s if s < 120.0 => (1.0, "s"),
        s if s < 7200.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    }
}

/// A share saved, such as `3.7 %`; one that is not saved but spent reads `0.5 % more`.
pub fn saved(saving: f64) -> String {
    let share = tenth_percent(saving.abs());
    if saving < 0.0 {
        format!("{share} more")
    } else {
        share
    }
}

/// The number in three digits and the prefix for its power of a thousand.
fn prefixed<'p>(value: f64, prefixes: &[&'p str]) -> (String, &'p str) {
    let power = power_of_thousand(value, prefixes.len());
    let scaled = value / 1000_f64.powi(power as i32);
    let decimals = match scaled.abs() {
        s if s >= 99.95 || power == 0 => 0,
        s if s >= 9.995 => 1,
        _ => 2,
    };
    (
        fixed(scaled, decimals),
        prefixes.get(power).copied().unwrap_or(""),
    )
}

/// The largest power of a thousand, of some, that leaves a number of one or more.
fn power_of_thousand(value: f64, powers: usize) -> usize {
    let fits = |power: &usize| value.abs() >= 0.9995 * 1000_f64.powi(*power as i32);
    match value.is_finite() {
        true => (1..powers).take_while(fits).last().unwrap_or(0),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::summarize;

    #[test]
    fn numbers_for_people() {
        assert_eq!(fixed(-0.0001, 2), "0.00");
        assert_eq!(fixed(-1.5, 1), "−1.5");
        assert_eq!(percent(0.125), "12.5\u{a0}%");
        assert_eq!(percent(0.1), "10\u{a0}%");
        assert_eq!(percent(f64::NAN), MISSING);
        assert_eq!(whole_percent(-1.39), "−139\u{a0}%");
        assert_eq!(count(1_024_000.0), "1.02M");
        assert_eq!(count(999_999.0), "1.00M");
        assert_eq!(count(512.0), "512");
        assert_eq!(count(151_936.0), "152k");
        assert_eq!(count(1_028_000_000.0), "1.03B");
        assert_eq!(count(2e16), "20000T");
        assert_eq!(count_unit(2_048_000.0), (1e6, "M"));
        assert_eq!(flops(1.54e18), "1.54 EFLOP");
        assert_eq!(flops(f64::NAN), MISSING);
        assert_eq!(duration(59.6), "1 min 0 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        assert_eq!(duration(f64::NAN), MISSING);
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(parameters(1_028_000_000), "1028M");
        assert_eq!(parameters(13_200_000_000), "13.2B");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(0, "file"), "0 files");
        assert_eq!(tenth_percent(0.02), "2.0\u{a0}%");
        assert_eq!(tenth_percent(f64::NAN), MISSING);
        assert_eq!(saved(0.037), "3.7\u{a0}%");
        assert_eq!(saved(-0.005), "0.5\u{a0}% more");
    }

    #[test]
    fn spread_needs_two_seeds() {
        assert_eq!(mean_sd(&summarize([0.0; 0]), 1.0, 1), MISSING);
        assert_eq!(mean_sd(&summarize([0.5]), 100.0, 1), "50.0");
        assert_eq!(mean_sd(&summarize([0.4, 0.6]), 100.0, 1), "50.0 ± 14.1");
    }
}
