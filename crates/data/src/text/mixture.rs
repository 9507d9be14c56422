//! The order in which rows come from several sources.

/// Rows after which the order begins again. Weights are rounded to shares of it.
const PERIOD: u64 = 10_000;

/// Shares of rows, and so of tokens, for rows have the same number of them.
///
/// The order is fixed: at every row it takes the source that is furthest behind its share, so that
/// all beginnings of the sequence have the shares but for a row or two.
pub(super) struct Mixture {
    /// The rows of each source in a period.
    rows: Vec<u64>,
    /// For each row of a period its source, and how many rows of that source come before it.
    order: Vec<(usize, u64)>,
}

impl Mixture {
    /// Shares in proportion to `weights`, which must be positive.
    pub(super) fn new(weights: &[f64]) -> Mixture {
        let rows = rounded(weights);
        let mut taken = vec![0_u64; rows.len()];
        let order = (1..=PERIOD)
            .map(|row| {
                let behind = |&source: &usize| {
                    let due = rows[source] * row;
                    i128::from(due) - i128::from(PERIOD * taken[source])
                };
                // From the last on, so that among equals the first is taken.
                let source = (0..rows.len()).rev().max_by_key(behind).unwrap_or(0);
                taken[source] += 1;
                (source, taken[source] - 1)
            })
            .collect();
        Mixture { rows, order }
    }

    /// The source of row `row` of an endless sequence, and its place among the rows of that source.
    pub(super) fn place(&self, row: u64) -> (usize, u64) {
        let (source, before) = self.order[(row % PERIOD) as usize];
        (source, row / PERIOD * self.rows[source] + before)
    }

    /// How many rows the sequence has before it takes more of a source than there are, where
    /// `there` are the rows of each source.
    pub(super) fn rows_within(&self, there: &[u64]) -> u64 {
        let first_beyond = |(source, &there): (usize, &u64)| {
            let (periods, before) = (there / self.rows[source], there % self.rows[source]);
            let row = (self.order.iter()).position(|&place| place == (source, before));
            periods
                .saturating_mul(PERIOD)
                .saturating_add(row.unwrap_or(0) as u64)
        };
        let beyond = there.iter().enumerate().map(first_beyond);
        beyond.min().unwrap_or(0)
    }

    /// The share of a source, from 0 to 1.
    pub(super) fn share(&self, source: usize) -> f64 {
        self.rows[source] as f64 / PERIOD as f64
    }

    /// The rows of each source in a period: all that tells one mixture from another.
    pub(super) fn rows(&self) -> &[u64] {
        &self.rows
    }
}

/// The shares of weights in whole rows of a period: rounded down, and what is left goes to those
/// that lost most.
fn rounded(weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights
        .iter()
        .map(|weight| weight / sum * PERIOD as f64)
        .collect();
    let mut rows: Vec<u64> = exact.iter().map(|&exact| exact as u64).collect();
    let left = PERIOD.saturating_sub(rows.iter().sum());
    let mut by_loss: Vec<usize> = (0..rows.len()).collect();
    by_loss.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    for source in by_loss.into_iter().take(left as usize) {
        rows[source] += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_become_shares() {
        assert_eq!(rounded(&[0.7, 0.3]), [7000, 3000]);
        assert_eq!(rounded(&[2.0, 1.0, 1.0]), [5000, 2500, 2500]);
        assert_eq!(rounded(&[1.0, 1.0, 1.0]), [3334, 3333, 3333]);
        assert_eq!(Mixture::new(&[3.0, 1.0]).share(0), 0.75);
    }

    #[test]
    fn equal_sources_take_turns() {
        let mixture = Mixture::new(&[1.0, 1.0]);
        let places: Vec<_> = (0..4).map(|row| mixture.place(row)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (0, 1), (1, 1)]);
        assert_eq!(mixture.place(2 * PERIOD + 1), (1, PERIOD));
        mixture.place(u64::MAX);
    }

    #[test]
    fn the_first_source_to_run_out_ends_the_rows() {
        let mixture = Mixture::new(&[1.0, 1.0]);
        assert_eq!(mixture.rows_within(&[3, 100]), 6);
        assert_eq!(mixture.rows_within(&[100, 3]), 7);
        assert_eq!(mixture.rows_within(&[0, 3]), 0);
        assert_eq!(mixture.rows_within(&[PERIOD, 3 * PERIOD]), 2 * PERIOD);
        assert_eq!(mixture.rows_within(&[u64::MAX, u64::MAX]), u64::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_beginning_has_the_shares_and_no_row_of_a_source_is_left_out(
            weights in proptest::collection::vec(0.05_f64..1.0, 1..6),
        ) {
            let mixture = Mixture::new(&weights);
            let mut taken = vec![0_u64; weights.len()];
            for row in 0..2 * PERIOD {
                let (source, place) = mixture.place(row);
                prop_assert_eq!(place, taken[source]);
                taken[source] += 1;
                for (source, &taken) in taken.iter().enumerate() {
                    let due = mixture.share(source) * (row + 1) as f64;
                    prop_assert!((taken as f64 - due).abs() <= weights.len() as f64);
                }
            }
            prop_assert_eq!(taken, mixture.rows().iter().map(|rows| 2 * rows).collect::<Vec<_>>());
        }
    }
}
