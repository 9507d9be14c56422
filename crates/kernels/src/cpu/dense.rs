//! `y = x w` of all rows, and its gradients.

use super::{linear::matmul_parallel, memory::filled, view::View};

/// `x: [T, D]` times `w: [D, O]`, `[T, O]`.
pub fn forward(x: &[f32], w: &[f32], d: usize, o: usize) -> Vec<f32> {
    product(View::of_rows(x, d), View::of_rows(w, o), o)
}

/// Gradient of `x`, `[T, D]`, from that of `y`, `[T, O]`.
pub fn backward_x(dy: &[f32], w: &[f32], d: usize, o: usize) -> Vec<f32> {
    product(View::of_rows(dy, o), View::of_rows(w, o).t(), d)
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
