//! Gradient of an embedding table.

use super::{
    groups::Groups,
    math::add_scaled,
    parallel::{Disjoint, for_each_range},
};

/// Table rows of one task.
const IDS: usize = 64;

/// Gradient `[V, D]` of a table from which the rows `ids: [T]`, in `0..V`, were taken, given that of the rows taken,
/// `dy: [T, D]`.
pub fn backward(dy: &[f32], ids: &[i32], vocabulary: usize, width: usize) -> Vec<f32> {
    assert_eq!(dy.len(), ids.len() * width, "dy: [T, D]");
    let groups = Groups::new(ids, vocabulary);
    let mut table = vec![0.0; vocabulary * width];
    let parts = Disjoint::new(&mut table);
    for_each_range(vocabulary, IDS, |ids| {
        for id in ids {
            // SAFETY: every id is visited once.
            let row = unsafe { parts.part(id * width..(id + 1) * width) };
            for &token in &groups.order[groups.range(id)] {
                let at = token as usize * width;
                add_scaled(row, &dy[at..at + width], 1.0);
            }
        }
    });
    table
}
