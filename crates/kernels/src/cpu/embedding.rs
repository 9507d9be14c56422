//! Gradient of an embedding table.

use std::mem::MaybeUninit;

use super::{
    groups::Groups,
    math::add_scaled,
    memory::filled,
    parallel::{Disjoint, for_each_range},
};

/// Table rows of one task.
const IDS: usize = 64;

/// Gradient `[V, D]` of a table from which the rows `ids: [T]`, in `0..V`, were taken, given that of the rows taken,
/// `dy: [T, D]`.
pub fn backward(dy: &[f32], ids: &[i32], vocabulary: usize, width: usize) -> Vec<f32> {
    assert_eq!(dy.len(), ids.len() * width, "dy: [T, D]");
    let groups = Groups::new(ids, vocabulary);
    let sum_up = |table: Disjoint<MaybeUninit<f32>>| {
        for_each_range(vocabulary, IDS, |ids| {
            for id in ids {
                // SAFETY: every id is visited once.
                let row = unsafe { table.cleared(id * width..(id + 1) * width) };
                for &token in &groups.order[groups.range(id)] {
                    let at = token as usize * width;
                    add_scaled(row, &dy[at..at + width], 1.0);
                }
            }
        });
    };
    // SAFETY: every id has its row.
    unsafe { filled(vocabulary * width, sum_up) }
}
