//! Sums over and into whole tensors.

use super::{
    math::LANES,
    parallel::{Disjoint, for_each_range},
};

/// Elements of one task.
const CHUNK: usize = 1 << 15;

/// Sum of squares.
pub fn squared_norm(x: &[f32]) -> f32 {
    let mut sums = vec![0.0f64; x.len().div_ceil(CHUNK)];
    let parts = Disjoint::new(&mut sums);
    for_each_range(x.len(), CHUNK, |range| {
        let task = range.start / CHUNK;
        // SAFETY: every task has a sum of its own.
        let sum = unsafe { parts.part(task..task + 1) };
        sum[0] = f64::from(squares(&x[range]));
    });
    sums.iter().sum::<f64>() as f32
}

/// `sum += x`, elements of the same length.
pub fn add(sum: &mut [f32], x: &[f32]) {
    assert_eq!(sum.len(), x.len(), "elements of the sum");
    let len = sum.len();
    let sum = Disjoint::new(sum);
    for_each_range(len, CHUNK, |range| {
        // SAFETY: ranges do not overlap.
        let sum = unsafe { sum.part(range.clone()) };
        for (sum, x) in sum.iter_mut().zip(&x[range]) {
            *sum += x;
        }
    });
}

vectorised! {
    fn squares(x: &[f32]) -> f32 {
        let mut sums = [0.0; LANES];
        let mut rows = x.chunks_exact(LANES);
        for row in &mut rows {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum = super::math::fma::<FMA>(*x, *x, *sum);
            }
        }
        let rest: f32 = rows.remainder().iter().map(|x| x * x).sum();
        sums.iter().sum::<f32>() + rest
    }
}
