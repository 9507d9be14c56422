//! Rows grouped by an id, by counting sort.

use std::ops::Range;

/// The positions of every id, in ascending order.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    /// Positions grouped by id, ascending within a group.
    pub(crate) order: Vec<u32>,
    /// Start of every group in `order`, and the end of the last.
    starts: Vec<u32>,
}

impl Groups {
    /// Groups `ids`, which must lie in `0..groups`.
    pub(crate) fn new(ids: &[i32], groups: usize) -> Self {
        assert!(ids.len() < u32::MAX as usize, "too many rows");
        let mut starts = vec![0u32; groups + 1];
        for &id in ids {
            starts[id as usize + 1] += 1;
        }
        for i in 0..groups {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; ids.len()];
        for (position, &id) in ids.iter().enumerate() {
            let slot = &mut next[id as usize];
            order[*slot as usize] = position as u32;
            *slot += 1;
        }
        Self { order, starts }
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Places in `order` of one group.
    pub(crate) fn range(&self, group: usize) -> Range<usize> {
        self.starts[group] as usize..self.starts[group + 1] as usize
    }

    /// For every position its place in `order`.
    pub(crate) fn inverse(&self) -> Vec<u32> {
        let mut inverse = vec![0; self.order.len()];
        for (place, &position) in self.order.iter().enumerate() {
            inverse[position as usize] = place as u32;
        }
        inverse
    }
}
