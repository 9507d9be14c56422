//! Root mean square normalisation, forward and backward.

use std::mem::MaybeUninit;

use super::{
    math::{LANES, dot, fma, sum_lanes},
    memory::filled,
    parallel::{Disjoint, for_each_range},
};

/// Rows of one task, and of one partial sum of the scale's gradient.
const ROWS: usize = 64;

/// `y = x / rms(x) * scale` for every row of `x: [T, D]`, with `scale: [D]`; returns `y` and `1 / rms(x)`, `[T]`.
pub fn forward(x: &[f32], scale: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let (t, d) = shape(x, scale);
    let mut inverse_rms = vec![0.0; t];
    let rms_parts = Disjoint::new(&mut inverse_rms);
    let normalise = |y: Disjoint<MaybeUninit<f32>>| {
        for_each_range(t, ROWS, |rows| {
            let at = rows.start * d..rows.end * d;
            // SAFETY: ranges of rows do not overlap.
            let (y, inverse_rms) = unsafe { (y.part(at.clone()), rms_parts.part(rows)) };
            forward_rows(&x[at], scale, eps, y, inverse_rms);
        });
    };
    // SAFETY: every row is normalised.
    let y = unsafe { filled(x.len(), normalise) };
    (y, inverse_rms)
}

/// Gradients of `x`, `[T, D]`, and of the scale, `[D]`, given that of `y` and what [`forward`] returned.
pub fn backward(x: &[f32], scale: &[f32], inverse_rms: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (t, d) = shape(x, scale);
    assert_eq!(inverse_rms.len(), t, "inverse_rms: [T]");
    assert_eq!(dy.len(), x.len(), "dy: [T, D]");
    let mut partial = vec![0.0; t.div_ceil(ROWS) * d];
    let partial_parts = Disjoint::new(&mut partial);
    let differentiate = |dx: Disjoint<MaybeUninit<f32>>| {
        for_each_range(t, ROWS, |rows| {
            let at = rows.start * d..rows.end * d;
            let chunk = rows.start / ROWS;
            // SAFETY: ranges of rows do not overlap, and each has its partial sum.
            let (dx, dscale) = unsafe {
                (
                    dx.part(at.clone()),
                    partial_parts.part(chunk * d..(chunk + 1) * d),
                )
            };
            let (x, dy) = (&x[at.clone()], &dy[at]);
            backward_rows(x, scale, &inverse_rms[rows], dy, dx, dscale);
        });
    };
    // SAFETY: every row is differentiated.
    let dx = unsafe { filled(x.len(), differentiate) };
    let mut dscale = vec![0.0; d];
    for partial in partial.chunks_exact(d) {
        for (sum, partial) in dscale.iter_mut().zip(partial) {
            *sum += partial;
        }
    }
    (dx, dscale)
}

fn shape(x: &[f32], scale: &[f32]) -> (usize, usize) {
    let d = scale.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "x: [T, D], scale: [D]");
    (x.len() / d, d)
}

vectorised! {
    fn forward_rows(x: &[f32], scale: &[f32], eps: f32, y: &mut [MaybeUninit<f32>], inverse_rms: &mut [f32]) {
        let d = scale.len();
        for ((x, y), inverse) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inverse_rms) {
            *inverse = 1.0 / (dot::<FMA>(x, x) / d as f32 + eps).sqrt();
            for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                y.write(x * *inverse * scale);
            }
        }
    }

    fn backward_rows(x: &[f32], scale: &[f32], inverse_rms: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>], dscale: &mut [f32]) {
        let d = scale.len();
        let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, dy), dx), &inverse) in rows.zip(inverse_rms) {
            let projection = triple_dot::<FMA>(x, dy, scale) * inverse * inverse / d as f32;
            for ((((dx, x), dy), scale), dscale) in dx.iter_mut().zip(x).zip(dy).zip(scale).zip(dscale.iter_mut()) {
                dx.write(inverse * fma::<FMA>(-projection, *x, dy * scale));
                *dscale = fma::<FMA>(dy * inverse, *x, *dscale);
            }
        }
    }
}

/// `sum(a * b * c)` of slices of the same length.
#[inline(always)]
fn triple_dot<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest), (c, c_rest)) = (
        a.as_chunks::<LANES>(),
        b.as_chunks::<LANES>(),
        c.as_chunks::<LANES>(),
    );
    let mut lanes = [0.0; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for l in 0..LANES {
            lanes[l] = fma::<FMA>(a[l] * b[l], c[l], lanes[l]);
        }
    }
    for (l, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        lanes[l] = fma::<FMA>(a * b, *c, lanes[l]);
    }
    sum_lanes(lanes)
}
