//! Amounts on the command line: `200M`, `1.5B`, `65536`.

/// Parses a whole number with an optional suffix `k`, `M`, `B` or `T` (powers of 1000).
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" | "m" => 1e6,
        "B" | "G" | "b" => 1e9,
        "T" | "t" => 1e12,
        suffix => return Err(format!("unknown suffix `{suffix}`; use k, M, B or T")),
    };
    let value: f64 = digits
        .replace('_', "")
        .parse()
        .map_err(|_| "not a number; examples: 65536, 200M, 1.5B".to_owned())?;
    let amount = (value * factor).round();
    if amount.is_nan() || amount < 1.0 {
        Err("must be at least 1".into())
    } else if amount > 1e16 {
        Err("more than any machine can count through".into())
    } else {
        Ok(amount as u64)
    }
}

/// Parses a number of bytes: `5GB`, `500M`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[number.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        unit => return Err(format!("unknown unit `{unit}`; examples: 500MB, 5GB, 4GiB")),
    };
    let value: f64 = number
        .parse()
        .map_err(|_| "not a size; examples: 500MB, 5GB, 4GiB".to_owned())?;
    match (value * factor).round() {
        bytes if (1.0..=1e16).contains(&bytes) => Ok(bytes as u64),
        _ => Err("must be at least one byte, and not more than any disk holds".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn suffixes_scale() {
        assert_eq!(parse("65_536"), Ok(65_536));
        assert_eq!(parse("1M"), Ok(1_000_000));
        assert_eq!(parse("1.5B"), Ok(1_500_000_000));
    }

    #[test]
    fn bytes_may_be_named() {
        assert_eq!(super::parse_bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(super::parse_bytes("500M"), Ok(500_000_000));
        assert_eq!(super::parse_bytes("2gb"), Ok(2_000_000_000));
        assert_eq!(super::parse_bytes("1GiB"), Ok(1 << 30));
        assert!(super::parse_bytes("0").is_err());
        assert!(super::parse_bytes("GB").is_err());
    }

    #[test]
    fn nonsense_is_named() {
        assert!(parse("1X").is_err_and(|error| error.contains("`X`")));
        assert!(parse("many").is_err());
        assert!(parse("0").is_err());
        assert!(parse("-3").is_err());
        assert!(parse("nan").is_err());
        assert!(parse("99999999T").is_err_and(|error| error.contains("more than")));
    }
}
