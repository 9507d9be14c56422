//! Numbers as people read them.

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

/// A fraction in per cent without trailing zeros, such as `12.5 %`.
pub fn percent(fraction: f64) -> String {
    let text = fixed(100.0 * fraction, 1);
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == MISSING {
        return MISSING.to_owned();
    }
    format!("{text}{PERCENT}")
}

/// A fraction in per cent with one decimal, such as `2.0 %`, so that a column lines up.
pub fn tenth_percent(fraction: f64) -> String {
    match fixed(100.0 * fraction, 1).as_str() {
        MISSING => MISSING.to_owned(),
        text => format!("{text}{PERCENT}"),
    }
}

/// A fraction in whole per cent, such as `−139 %`.
pub fn whole_percent(fraction: f64) -> String {
    match fixed(100.0 * fraction, 0).as_str() {
        MISSING => MISSING.to_owned(),
        text => format!("{text}{PERCENT}"),
    }
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

const COUNTS: [&str; 5] = ["", "K", "M", "B", "T"];
const FLOPS: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

/// A count with a unit prefix, such as `1.02M`.
pub fn count(value: f64) -> String {
    let (scaled, prefix) = prefixed(value, &COUNTS);
    format!("{scaled}{prefix}")
}

/// The unit that suits a count, and its prefix: a million and `M` for 1.02 million.
pub fn count_unit(value: f64) -> (f64, &'static str) {
    let power = power_of_thousand(value, COUNTS.len());
    (1000_f64.powi(power as i32), COUNTS[power])
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

/// Seconds in the unit that suits them.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return MISSING.to_owned();
    }
    let (unit, name) = duration_unit(seconds);
    format!("{} {name}", fixed(seconds / unit, 1))
}

/// The unit that suits some seconds, in seconds, and its name.
pub fn duration_unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        s if s < 120.0 => (1.0, "s"),
        s if s < 7200.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    }
}

/// What is saved when `cost` is paid instead of `reference`, as a fraction.
pub fn saving(cost: f64, reference: f64) -> Option<f64> {
    let saving = 1.0 - cost / reference;
    (reference > 0.0 && saving.is_finite()).then_some(saving)
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
        s if s >= 99.95 || (power == 0 && s.fract() == 0.0) => 0,
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
        assert_eq!(percent(f64::NAN), MISSING);
        assert_eq!(whole_percent(-1.39), "−139\u{a0}%");
        assert_eq!(count(1_024_000.0), "1.02M");
        assert_eq!(count(999_999.0), "1.00M");
        assert_eq!(count(512.0), "512");
        assert_eq!(count(2e16), "20000T");
        assert_eq!(count_unit(2_048_000.0), (1e6, "M"));
        assert_eq!(flops(1.54e18), "1.54 EFLOP");
        assert_eq!(flops(f64::NAN), MISSING);
        assert_eq!(duration(61.25), "61.2 s");
        assert_eq!(duration(10_800.0), "3.0 h");
        assert_eq!(saving(75.0, 100.0), Some(0.25));
        assert_eq!(saving(75.0, 0.0), None);
        assert_eq!(tenth_percent(0.02), "2.0\u{a0}%");
        assert_eq!(tenth_percent(f64::NAN), MISSING);
        assert_eq!(saved(0.037), "3.7\u{a0}%");
        assert_eq!(saved(-0.005), "0.5\u{a0}% more");
    }

    #[test]
    fn spread_needs_two_seeds() {
        assert_eq!(mean_sd(&summarize(&[]), 1.0, 1), MISSING);
        assert_eq!(mean_sd(&summarize(&[0.5]), 100.0, 1), "50.0");
        assert_eq!(mean_sd(&summarize(&[0.4, 0.6]), 100.0, 1), "50.0 ± 14.1");
    }
}
