//! Ranges and ticks of an axis.

use std::ops::Range;

/// Round numbers on an axis.
pub(crate) struct Ticks {
    pub(crate) values: Vec<f64>,
    /// Decimals that tell neighbours apart.
    pub(crate) decimals: usize,
}

/// About `target` multiples of 1, 2, 2.5 or 5 times a power of ten inside the range.
pub(crate) fn ticks(range: &Range<f64>, target: usize) -> Ticks {
    let raw = (range.end - range.start) / target.max(1) as f64;
    if !(raw.is_finite() && raw > 0.0) {
        return Ticks {
            values: vec![range.start],
            decimals: 2,
        };
    }
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(10.0 * power);
    let first = (range.start / step - 1e-6).ceil();
    let count = ((range.end / step + 1e-6).floor() - first + 1.0).clamp(0.0, 100.0) as usize;
    let values = (0..count).map(|i| (first + i as f64) * step).collect();
    Ticks {
        values,
        decimals: decimals(step),
    }
}

fn decimals(step: f64) -> usize {
    (0..12)
        .find(|d| {
            let shifted = step * 10_f64.powi(*d);
            (shifted - shifted.round()).abs() < 1e-6 * shifted
        })
        .unwrap_or(12) as usize
}

/// The range of the finite values; none if there is none.
pub(crate) fn extent(values: impl IntoIterator<Item = f64>) -> Option<Range<f64>> {
    values
        .into_iter()
        .filter(|v| v.is_finite())
        .fold(None, |range: Option<Range<f64>>, v| match range {
            None => Some(v..v),
            Some(r) => Some(r.start.min(v)..r.end.max(v)),
        })
}

/// Values no larger than this are what rounding leaves of zero.
const ZERO: f64 = 1e-6;

/// Widens a range by shares of its length below and above, and never leaves it empty: around one value it is a thousandth of
/// that, or of one; a constant zero has an axis up to one, where ticks are a few digits long.
pub(crate) fn widened(range: &Range<f64>, below: f64, above: f64) -> Range<f64> {
    let largest = range.start.abs().max(range.end.abs());
    let smallest = match largest <= ZERO {
        true => 1.0,
        false => 1e-3 * largest.max(1.0),
    };
    let length = (range.end - range.start).max(smallest);
    range.start - below * length..range.end.max(range.start + smallest) + above * length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let t = ticks(&(-150.0..110.0), 6);
        assert_eq!(t.values, [-150.0, -100.0, -50.0, 0.0, 50.0, 100.0]);
        assert_eq!(t.decimals, 0);
        let t = ticks(&(1.41..1.49), 4);
        assert_eq!(t.decimals, 2);
        assert_eq!(t.values.len(), 4);
    }

    #[test]
    fn odd_ranges_do_no_harm() {
        assert_eq!(ticks(&(1.0..1.0), 5).values, [1.0]);
        assert_eq!(ticks(&(f64::NAN..1.0), 5).values.len(), 1);
        assert!(extent([f64::NAN]).is_none());
        let range = widened(&(2.0..2.0), 0.1, 0.1);
        assert!(range.start < 2.0 && range.end > 2.0);
    }

    #[test]
    fn ticks_of_a_constant_are_short() {
        for constant in [0.0, -1e-9, 1e-5, 0.25, 1.5] {
            let ticks = ticks(&widened(&(constant..constant), 0.02, 0.06), 7);
            assert!(ticks.decimals <= 5, "{constant}: {}", ticks.decimals);
            assert!(ticks.values.len() > 2, "{constant}: {:?}", ticks.values);
        }
    }
}
