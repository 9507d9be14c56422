//! Gap closure, savings, and what a handful of seeds can say about a mean.

use std::borrow::Borrow;

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Mean, spread and uncertainty of one quantity over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Number of finite values.
    pub n: usize,
    /// Arithmetic mean; NaN for `n = 0`.
    pub mean: f64,
    /// Sample standard deviation (divisor `n - 1`); NaN for `n < 2`, where there is no spread to speak of.
    pub sd: f64,
    /// 95 % confidence interval of the mean by Student's t; none for `n < 2`.
    pub interval: Option<(f64, f64)>,
}

/// Summarizes the finite values; NaN and infinities (a run that diverged) are left out and not counted.
pub fn summarize(values: impl IntoIterator<Item = impl Borrow<f64>>) -> Summary {
    let values = values.into_iter().map(|value| *value.borrow());
    let finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let n = finite.len();
    let mean = finite.iter().sum::<f64>() / n as f64;
    let squares: f64 = finite.iter().map(|value| (value - mean).powi(2)).sum();
    let freedom = n.saturating_sub(1);
    let sd = (squares / freedom as f64).sqrt();
    let interval = critical_t(freedom).map(|t| {
        let half = t * sd / (n as f64).sqrt();
        (mean - half, mean + half)
    });
    Summary {
        n,
        mean,
        sd,
        interval,
    }
}

/// The two-sided 95 % point of Student's t with `freedom` degrees of freedom; none for no freedom.
fn critical_t(freedom: usize) -> Option<f64> {
    StudentsT::new(0.0, 1.0, freedom as f64)
        .ok()
        .map(|t| t.inverse_cdf(0.975))
}

/// The least lead of Fixed-mE over Fixed-E, in nats a token, that gap closure divides by. A smaller one is below what
/// another seed, or the choice of validation tokens, changes, and the quotient would be noise of any size.
pub const SMALLEST_GAP: f64 = 1e-3;

/// Gap closure `eta = (L_FixedE - L_Upcycled) / (L_FixedE - L_FixedmE)` of three validation losses in nats at equal
/// tokens (paper, section 2): 0 is as good as the small model, 1 as good as the big one from scratch.
///
/// None where Fixed-mE is not better than Fixed-E by [`SMALLEST_GAP`], or where a loss is not finite.
pub fn gap_closure(fixed_e: f64, upcycled: f64, fixed_me: f64) -> Option<f64> {
    let (closed, gap) = (fixed_e - upcycled, fixed_e - fixed_me);
    (gap >= SMALLEST_GAP && gap.is_finite() && closed.is_finite()).then(|| closed / gap)
}

/// What is saved when `cost` is paid instead of `reference`, as a fraction.
pub fn saving(cost: f64, reference: f64) -> Option<f64> {
    let saving = 1.0 - cost / reference;
    (reference > 0.0 && saving.is_finite()).then_some(saving)
}

/// Differences `a - b` of the same seeds: what two recipes share (data order, initial model, the trunk) cancels out.
/// Pairs without both values are left out.
pub fn paired(pairs: impl IntoIterator<Item = (Option<f64>, Option<f64>)>) -> Summary {
    summarize(pairs.into_iter().filter_map(|(a, b)| Some(a? - b?)))
}

/// Slope of the least-squares line through the points; none for fewer than two places.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), point| {
        (x + point.0 / n, y + point.1 / n)
    });
    let square: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let product: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let slope = product / square;
    slope.is_finite().then_some(slope)
}

/// Fewer pairs say nothing of a rank correlation.
const FEWEST_PAIRS: usize = 4;

/// Spearman's rank correlation, ties by their mean rank; none for fewer than four pairs of finite values, or where one
/// side has a single value.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let finite = |pair: &&(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().filter(finite).copied().unzip();
    if x.len() < FEWEST_PAIRS {
        return None;
    }
    let (x, y) = (ranks(&x), ranks(&y));
    let middle = (x.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - middle) * (b - middle)).sum()
    };
    let correlation = product(&x, &y) / (product(&x, &x) * product(&y, &y)).sqrt();
    correlation.is_finite().then_some(correlation)
}

/// Rank of every value from 1 on; equal values have their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count() as f64;
        let equal = values.iter().filter(|other| *other == value).count() as f64;
        below + (equal + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() < tolerance, "{a} is not near {b}");
    }

    #[test]
    fn summary_of_known_numbers() {
        let summary = summarize([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(summary.n, 8);
        near(summary.mean, 5.0, 1e-12);
        near(summary.sd, (32.0_f64 / 7.0).sqrt(), 1e-12);
        let (low, high) = summary.interval.unwrap();
        near(high - 5.0, 2.364_624 * summary.sd / 8.0_f64.sqrt(), 1e-5);
        near(low + high, 10.0, 1e-12);
    }

    #[test]
    fn critical_values_of_the_tables() {
        for (freedom, expected) in [(1, 12.7062), (2, 4.3027), (4, 2.7764), (30, 2.0423)] {
            near(critical_t(freedom).unwrap(), expected, 1e-4);
        }
    }

    #[test]
    fn few_or_odd_values() {
        let none = summarize([0.0; 0]);
        assert!(none.n == 0 && none.mean.is_nan() && none.interval.is_none());
        let one = summarize([1.5, f64::NAN, f64::INFINITY]);
        assert!(one.n == 1 && one.mean == 1.5 && one.sd.is_nan() && one.interval.is_none());
        let same = summarize([3.0, 3.0]);
        assert_eq!((same.sd, same.interval), (0.0, Some((3.0, 3.0))));
    }

    #[test]
    fn gap_closure_of_the_papers_table_7() {
        for (losses, percent) in [
            ((3.564, 3.519, 3.516), 93.8),
            ((3.153, 3.071, 3.067), 95.3),
            ((2.819, 2.767, 2.763), 92.9),
        ] {
            let eta = gap_closure(losses.0, losses.1, losses.2).unwrap();
            near(100.0 * eta, percent, 0.06);
        }
    }

    #[test]
    fn a_saving_needs_something_to_save() {
        assert_eq!(saving(75.0, 100.0), Some(0.25));
        assert_eq!(saving(75.0, 0.0), None);
    }

    #[test]
    fn pairs_cancel_what_seeds_share() {
        let a = [1.0, 2.0, 3.0].map(Some);
        let b = [0.5, 1.6, 2.4].map(Some);
        let summary = paired(a.into_iter().zip(b).chain([(None, Some(9.0))]));
        assert_eq!(summary.n, 3);
        near(summary.mean, 0.5, 1e-12);
        near(summary.sd, 0.1, 1e-12);
    }

    #[test]
    fn slope_of_a_line_with_noise() {
        let points = [(0.0, 1.0), (1.0, 3.5), (2.0, 4.5), (3.0, 7.0)];
        near(slope(&points).unwrap(), 1.9, 1e-12);
        assert_eq!(slope(&points[..1]), None);
    }

    #[test]
    fn spearman_of_known_ranks() {
        // Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24).
        let pairs = [
            (0.1, 20.0),
            (0.2, 10.0),
            (0.9, 40.0),
            (3.0, 30.0),
            (7.0, 99.0),
        ];
        near(spearman(&pairs).unwrap(), 0.8, 1e-12);
        let ties = [(1.0, 1.0), (1.0, 2.0), (2.0, 3.0), (2.0, 4.0)];
        near(spearman(&ties).unwrap(), 0.894_427, 1e-6);
        assert_eq!(spearman(&pairs[..3]), None);
        assert_eq!(spearman(&[(1.0, 1.0); 5]), None);
        let diverged = [(0.1, f64::NAN); 5];
        assert_eq!(spearman(&diverged), None);
    }

    #[test]
    fn gap_closure_needs_a_gap() {
        assert_eq!(gap_closure(2.0, 2.5, 1.0), Some(-0.5));
        assert_eq!(gap_closure(2.0, 1.9, 2.0), None);
        assert_eq!(gap_closure(2.0, 1.9, 2.1), None);
        assert_eq!(gap_closure(1.6994, 1.7291, 1.6988), None);
        assert!(gap_closure(1.7, 1.7, 1.698).is_some());
        assert_eq!(gap_closure(f64::NAN, 1.9, 1.0), None);
        assert_eq!(gap_closure(2.0, f64::INFINITY, 1.0), None);
        assert_eq!(gap_closure(2.0, 1.9, f64::NEG_INFINITY), None);
    }
}
