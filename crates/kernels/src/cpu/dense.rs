//! `y = x w` of all rows, and its gradients.

use super::{
    linear::matmul_parallel,
    memory::{Scratch, filled},
    transpose::transpose,
    view::View,
};

/// `x: [T, D]` times `w: [D, O]`, `[T, O]`.
pub fn forward(x: &[f32], w: &[f32], d: usize, o: usize) -> Vec<f32> {
    product(View::of_rows(x, d), View::of_rows(w, o), o)
}

/// Gradient of `x`, `[T, D]`, from that of `y`, `[T, O]`.
pub fn backward_x(dy: &[f32], w: &[f32], d: usize, o: usize) -> Vec<f32> {
    // A copy of the small factor: products read transposed matrices more slowly.
    let mut scratch = Scratch::new([w.len()]);
    let [transposed] = scratch.parts([w.len()]);
    transpose(View::of_rows(w, o), transposed, d);
    product(View::of_rows(dy, o), View::of_rows(transposed, d), d)
}

/// Gradient of `w`, `[D, O]`, from that of `y`, `[T, O]`.
pub fn backward_w(x: &[f32], dy: &[f32], d: usize, o: usize) -> Vec<f32> {
    product(View::of_rows(x, d).t(), View::of_rows(dy, o), o)
}

fn product(a: View, b: View, cols: usize) -> Vec<f32> {
    let rows = a.height();
    // SAFETY: a product writes all of its elements, and nobody else sees them meanwhile.
    unsafe {
        filled(rows * cols, |out| {
            matmul_parallel(a, b, out.view(0, [rows, cols], cols));
        })
    }
}
