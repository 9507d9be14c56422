//! Sums over and into whole tensors, and functions of all elements.

use std::mem::MaybeUninit;

use super::{
    math::{self, LANES},
    memory::filled,
    parallel::{Disjoint, for_each_range},
};

/// Elements of one task.
const CHUNK: usize = 1 << 14;

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

/// `a + b`, slices of the same length.
pub fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    of_both(a, b, sums)
}

/// Logistic function of every element.
pub fn sigmoid(x: &[f32]) -> Vec<f32> {
    of_both(x, x, |x, _, out| sigmoids(x, out))
}

/// Gradient of what [`sigmoid`] made `y` of, given that of `y`.
pub fn sigmoid_backward(y: &[f32], dy: &[f32]) -> Vec<f32> {
    of_both(y, dy, sigmoid_gradients)
}

/// What `write` makes of the elements of two slices of the same length, chunk by chunk.
fn of_both(
    a: &[f32],
    b: &[f32],
    write: impl Fn(&[f32], &[f32], &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "elements of both");
    let write_all = |out: Disjoint<MaybeUninit<f32>>| {
        for_each_range(a.len(), CHUNK, |range| {
            // SAFETY: ranges do not overlap.
            let out = unsafe { out.part(range.clone()) };
            write(&a[range.clone()], &b[range], out);
        });
    };
    // SAFETY: each of these functions writes all elements of its chunk.
    unsafe { filled(a.len(), write_all) }
}

vectorised! {
    fn sums(a: &[f32], b: &[f32], out: &mut [MaybeUninit<f32>]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            out.write(a + b);
        }
    }

    fn sigmoids(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, x) in out.iter_mut().zip(x) {
            out.write(math::sigmoid::<FMA>(*x));
        }
    }

    fn sigmoid_gradients(y: &[f32], dy: &[f32], out: &mut [MaybeUninit<f32>]) {
        for ((out, y), dy) in out.iter_mut().zip(y).zip(dy) {
            out.write(dy * y * (1.0 - y));
        }
    }

    fn squares(x: &[f32]) -> f32 {
        let mut sums = [0.0; LANES];
        let mut rows = x.chunks_exact(LANES);
        for row in &mut rows {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum = math::fma::<FMA>(*x, *x, *sum);
            }
        }
        let rest: f32 = rows.remainder().iter().map(|x| x * x).sum();
        sums.iter().sum::<f32>() + rest
    }
}
