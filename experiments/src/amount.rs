//! Amounts on the command line: `200M`, `1.5B`, `65536`, `5GB`, `450GB/s`.

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
    let unit = &text[number.len()..];
    // Bytes are not confused with bits here, so that small letters will do.
    let sign = unit.to_ascii_uppercase().replace('I', "i");
    let factor = factor(sign.strip_suffix('B').unwrap_or(&sign))
        .ok_or(format!("unknown unit `{unit}`; examples: 500MB, 5GB, 4GiB"))?;
    let value: f64 = number
        .parse()
        .map_err(|_| "not a size; examples: 500MB, 5GB, 4GiB".to_owned())?;
    match (value * factor).round() {
        bytes if (1.0..=1e16).contains(&bytes) => Ok(bytes as u64),
        _ => Err("must be at least one byte, and not more than any disk holds".into()),
    }
}

/// Parses a rate in bytes a second, which may be given in bits: `450GB/s`, `400Gb/s`.
pub fn parse_link(text: &str) -> Result<f64, String> {
    rate(text, "450GB/s, or in bits 400Gb/s", |unit| {
        let amount = unit.strip_suffix("/s")?;
        let bits = amount.strip_suffix("bit").or(amount.strip_suffix('b'));
        match bits {
            Some(scale) => Some(factor(scale)? / 8.0),
            None => factor(amount.strip_suffix('B')?),
        }
    })
}

/// Parses a speed in floating-point operations a second: `400TFLOP/s`.
pub fn parse_speed(text: &str) -> Result<f64, String> {
    rate(text, "400TFLOP/s, 1.2 PFLOP/s", |unit| {
        factor(unit.strip_suffix("FLOP/s")?)
    })
}

/// A positive number and a unit, of which `factor` says how much it is.
fn rate(text: &str, examples: &str, factor: impl Fn(&str) -> Option<f64>) -> Result<f64, String> {
    let is_unit = |c: char| !(c.is_ascii_digit() || c == '.');
    let (number, unit) = text.split_at(text.find(is_unit).unwrap_or(text.len()));
    let unit = unit.trim();
    let factor = factor(unit).ok_or(format!("unknown unit `{unit}`; examples: {examples}"))?;
    match number.parse::<f64>().map(|number| number * factor) {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(_) => Err("must be more than zero, and finite".into()),
        Err(_) => Err(format!("not a rate; examples: {examples}")),
    }
}

/// A power of a thousand, or of 1024, by its sign.
fn factor(sign: &str) -> Option<f64> {
    Some(match sign {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        _ => return None,
    })
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
        assert_eq!(super::parse_bytes("3kib"), Ok(3 << 10));
        assert_eq!(super::parse_bytes("7b"), Ok(7));
        assert!(super::parse_bytes("4xb").is_err_and(|error| error.contains("`xb`")));
        assert!(super::parse_bytes("0").is_err());
        assert!(super::parse_bytes("GB").is_err());
    }

    #[test]
    fn rates_are_in_bytes_or_bits() {
        assert_eq!(super::parse_link("450GB/s"), Ok(450e9));
        assert_eq!(super::parse_link("25 GB/s"), Ok(25e9));
        assert_eq!(super::parse_link("50Gb/s"), Ok(6.25e9));
        assert_eq!(super::parse_link("400 Gbit/s"), Ok(50e9));
        assert_eq!(super::parse_link("1GiB/s"), Ok(f64::from(1 << 30)));
        for (nonsense, told) in [
            ("450", "unit ``"),
            ("450GB", "`GB`"),
            ("450 gigabytes/s", "gigabytes/s"),
            ("fast", "examples: 450GB/s"),
            ("GB/s", "not a rate"),
            ("-3GB/s", "`-3GB/s`"),
            ("0GB/s", "more than zero"),
        ] {
            let error = super::parse_link(nonsense).unwrap_err();
            assert!(error.contains(told), "{nonsense}: {error}");
        }
        assert_eq!(super::parse_speed("400TFLOP/s"), Ok(400e12));
        assert_eq!(super::parse_speed("1.2 PFLOP/s"), Ok(1.2e15));
        assert!(super::parse_speed("400GB/s").is_err());
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
