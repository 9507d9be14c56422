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

/// The ratio of two means over the same seeds, each pair of values being one seed's numerator and denominator, with its 95 %
/// interval by Fieller's theorem: the ratios that a paired t-test of `numerator - ratio * denominator` does not reject.
///
/// `sd` is the standard deviation of the seeds' own ratios, as far as their denominators are at least `least`. The ratio is
/// NaN where the mean denominator is less than that. There is no interval for one seed, nor where the denominator itself
/// cannot be told from zero: all ratios would be possible.
pub fn ratio_of_means(pairs: impl IntoIterator<Item = (f64, f64)>, least: f64) -> Summary {
    let finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let pairs: Vec<(f64, f64)> = pairs.into_iter().filter(finite).collect();
    let n = pairs.len();
    let own = pairs.iter().filter(|pair| pair.1 >= least);
    let sd = summarize(own.map(|(a, b)| a / b)).sd;
    let count = n as f64;
    let (a, b) = pairs.iter().fold((0.0, 0.0), |(a, b), pair| {
        (a + pair.0 / count, b + pair.1 / count)
    });
    if n == 0 || b < least {
        return Summary {
            n,
            mean: f64::NAN,
            sd,
            interval: None,
        };
    }
    let freedom = n - 1;
    // Variances and the covariance of the two means.
    let of_means = |product: &dyn Fn(&(f64, f64)) -> f64| {
        pairs.iter().map(product).sum::<f64>() / (freedom as f64 * count)
    };
    let v_aa = of_means(&|pair| (pair.0 - a).powi(2));
    let v_bb = of_means(&|pair| (pair.1 - b).powi(2));
    let v_ab = of_means(&|pair| (pair.0 - a) * (pair.1 - b));
    let interval = critical_t(freedom).and_then(|t| {
        // (a - r b)^2 = t^2 (v_aa - 2 r v_ab + r^2 v_bb), solved for r.
        let square = b * b - t * t * v_bb;
        let middle = a * b - t * t * v_ab;
        let rest = a * a - t * t * v_aa;
        let root = (middle * middle - square * rest).max(0.0).sqrt();
        (square > 0.0).then(|| ((middle - root) / square, (middle + root) / square))
    });
    Summary {
        n,
        mean: a / b,
        sd,
        interval,
    }
}

/// How probable data as far from a bound are if the mean lies on it: one-sided p-values of a t-test, one for either side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// Small where the mean is above the bound.
    pub above: f64,
    /// Small where the mean is below the bound.
    pub below: f64,
}

impl Test {
    /// Of a mean against a bound; fewer than two seeds can tell nothing.
    pub fn of(summary: &Summary, bound: f64) -> Self {
        let error = summary.sd / (summary.n as f64).sqrt();
        let distance = summary.mean - bound;
        let student = StudentsT::new(0.0, 1.0, summary.n.saturating_sub(1) as f64);
        let (Ok(student), true) = (student, error.is_finite()) else {
            return Self::OPEN;
        };
        if error == 0.0 {
            let certain = |is: bool| if is { 0.0 } else { 1.0 };
            return Self {
                above: certain(distance > 0.0),
                below: certain(distance < 0.0),
            };
        }
        let t = distance / error;
        Self {
            above: student.cdf(-t),
            below: student.cdf(t),
        }
    }

    /// Tells nothing.
    pub const OPEN: Self = Self {
        above: 1.0,
        below: 1.0,
    };

    /// That all of several quantities are above their bounds, or all below: the weakest of the tests decides.
    pub fn all(tests: impl IntoIterator<Item = Self>) -> Self {
        let weakest = |a: Self, b: Self| Self {
            above: a.above.max(b.above),
            below: a.below.max(b.below),
        };
        tests.into_iter().reduce(weakest).unwrap_or(Self::OPEN)
    }

    /// That all of several quantities are above their bounds, or any is below its own: for `below` the strongest test decides,
    /// corrected for their number (Bonferroni).
    pub fn all_or_not(tests: &[Self]) -> Self {
        let strongest = tests.iter().map(|test| test.below).fold(1.0, f64::min);
        Self {
            above: Self::all(tests.iter().copied()).above,
            below: (strongest * tests.len() as f64).min(1.0),
        }
    }

    /// The two sides exchanged.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            above: self.below,
            below: self.above,
        }
    }

    /// Two-sided p-value.
    pub fn two_sided(self) -> f64 {
        (2.0 * self.above.min(self.below)).min(1.0)
    }
}

/// P-values corrected for their number by Holm's method: whoever takes those below 0.05 as found is wrong about any of them
/// in at most one table of twenty.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut corrected = vec![1.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[index]).min(1.0);
        corrected[index] = largest;
    }
    corrected
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
    fn the_interval_of_a_ratio_is_what_a_paired_test_does_not_reject() {
        let pairs = [(0.5, 1.1), (0.45, 0.9), (0.62, 1.2), (0.4, 0.95)];
        let ratio = ratio_of_means(pairs, 1e-3);
        near(ratio.mean, (0.5 + 0.45 + 0.62 + 0.4) / 4.15, 1e-12);
        let (low, high) = ratio.interval.unwrap();
        assert!(low < ratio.mean && ratio.mean < high);
        for end in [low, high] {
            let rest = summarize(pairs.map(|(a, b)| a - end * b));
            let (below, above) = rest.interval.unwrap();
            near(below.abs().min(above.abs()), 0.0, 1e-9);
        }
    }

    #[test]
    fn a_ratio_needs_a_denominator() {
        let small = ratio_of_means([(0.5, 1e-4), (0.4, 2e-4)], 1e-3);
        assert!(small.n == 2 && small.mean.is_nan() && small.interval.is_none());
        // Nothing can be told of a denominator that is as well zero.
        let wide = ratio_of_means([(0.5, 1.0), (0.5, -0.8)], 1e-3);
        assert!(wide.mean.is_finite() && wide.interval.is_none());
        let one = ratio_of_means([(0.5, 1.0), (f64::NAN, 1.0)], 1e-3);
        assert!(one.n == 1 && one.mean == 0.5 && one.interval.is_none());
        // A seed with a small gap counts, though it has no ratio of its own.
        let all = ratio_of_means([(0.5, 1.0), (0.5, 1.0), (0.1, 1e-6)], 1e-3);
        assert_eq!((all.n, all.sd), (3, 0.0));
        near(all.mean, 1.1 / 2.0, 1e-6);
    }

    #[test]
    fn tests_of_known_samples() {
        // t = 2.5 with 4 degrees of freedom.
        let summary = summarize([1.0, 2.0, 3.0, 4.0, 5.0]);
        let bound = 3.0 - 2.5 * summary.sd / 5.0_f64.sqrt();
        let test = Test::of(&summary, bound);
        near(test.above, 0.033_383, 1e-5);
        near(test.below, 1.0 - 0.033_383, 1e-5);
        near(test.two_sided(), 0.066_767, 1e-5);
        assert_eq!(test.reversed().below, test.above);
        assert_eq!(Test::of(&summarize([1.0]), 0.0), Test::OPEN);
        let certain = Test::of(&summarize([1.0, 1.0]), 0.5);
        assert_eq!((certain.above, certain.below), (0.0, 1.0));
    }

    #[test]
    fn several_tests_are_as_strong_as_they_have_to_be() {
        let test = |above: f64| Test {
            above,
            below: 1.0 - above,
        };
        assert_eq!(Test::all([test(0.01), test(0.2)]).above, 0.2);
        let not = Test::all_or_not(&[test(0.01), test(0.99)]);
        assert_eq!(not.above, 0.99);
        near(not.below, 0.02, 1e-12);
        assert_eq!(Test::all([]), Test::OPEN);
    }

    #[test]
    fn holm_of_the_textbook() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (corrected, expected) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            near(*corrected, expected, 1e-12);
        }
        assert!(holm(&[]).is_empty());
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
