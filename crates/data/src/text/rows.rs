//! Rows of a split, from one source or several.

use super::{mixture::Mixture, windows::Windows};
use crate::{Batch, DataError, Split};

/// The windows of a split, in the shares of a mixture where there are several sources.
pub(super) struct Rows<'a> {
    pub(super) split: Split,
    pub(super) context: usize,
    pub(super) sources: Vec<Windows<'a>>,
    /// None for a single source.
    pub(super) mixture: Option<&'a Mixture>,
}

impl Rows<'_> {
    /// Rows before one comes a second time.
    pub(super) fn count(&self) -> u64 {
        let counts: Vec<u64> = self.sources.iter().map(Windows::count).collect();
        match self.mixture {
            Some(mixture) => mixture.rows_within(&counts),
            None => counts.iter().sum(),
        }
    }

    /// Rows of an endless sequence, in which each source is shuffled anew whenever all of it was
    /// seen.
    pub(super) fn shuffled(
        &self,
        seed: u64,
        first_row: u64,
        rows: usize,
    ) -> Result<Batch, DataError> {
        self.batch(first_row, rows, |windows, row| {
            windows.shuffled(self.split, seed, row)
        })
    }

    /// Rows of a fixed order, every prefix of which covers all sources. There must be so many.
    pub(super) fn spread(&self, first_row: u64, rows: usize) -> Result<Batch, DataError> {
        self.batch(first_row, rows, |windows, row| windows.spread(row))
    }

    /// A batch of the windows that `choose` picks for rows of the sources.
    fn batch(
        &self,
        first_row: u64,
        rows: usize,
        choose: impl Fn(&Windows<'_>, u64) -> u64,
    ) -> Result<Batch, DataError> {
        let mut batch = Batch::zeros(rows, self.context, 1)?;
        batch.weights.fill(1.0);
        let inputs = batch.inputs.chunks_exact_mut(self.context);
        let targets = batch.targets.chunks_exact_mut(self.context);
        for ((row, inputs), targets) in (0..rows as u64).zip(inputs).zip(targets) {
            let row = first_row.wrapping_add(row);
            let (source, row) = match self.mixture {
                Some(mixture) => mixture.place(row),
                None => (0, row),
            };
            let windows = &self.sources[source];
            windows.copy(choose(windows, row), inputs, targets);
        }
        Ok(batch)
    }
}
