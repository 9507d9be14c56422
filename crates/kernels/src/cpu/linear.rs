//! Matrix products: a safe wrapper over [`gemm::gemm`].

use std::{marker::PhantomData, ops::Range};

use super::{
    memory::LINE,
    parallel::{for_each, range},
    transpose::transpose,
    view::{View, ViewMut},
};

/// `out = a b` on the calling thread.
pub fn matmul(a: View, b: View, out: ViewMut) {
    multiply(a, b, out, false);
}

/// `out += a b` on the calling thread.
pub fn matmul_add(a: View, b: View, out: ViewMut) {
    assert!(out.initialised, "only what was written can be added to");
    multiply(a, b, out, true);
}

/// Scratch that [`matmul_by_transposed`] needs for a matrix of this shape.
pub(crate) fn transposed_len([n, k]: [usize; 2]) -> usize {
    k * (n + LINE)
}

/// Rows from which on a transposed copy of the other factor pays.
const COPY_ROWS: usize = 4;

/// `out = a b^T`, or `out += a b^T` if `add`, on the calling thread by way of a transposed copy of `b` in `scratch`:
/// of few rows of `a` it is the larger part of the work to read `b` transposed, and `gemm` is slower at it.
pub(crate) fn matmul_by_transposed(a: View, b: View, scratch: &mut [f32], out: ViewMut, add: bool) {
    assert!(
        !add || out.initialised,
        "only what was written can be added to"
    );
    if a.shape[0] < COPY_ROWS {
        return multiply(a, b.t(), out, add);
    }
    let [n, k] = b.shape;
    let stride = n + LINE;
    transpose(b, scratch, stride);
    multiply(a, View::new(scratch, [k, n], stride), out, add);
}

fn multiply(a: View, b: View, out: ViewMut, add: bool) {
    let ([m, k], [k_b, n]) = (a.shape, b.shape);
    assert_eq!(k, k_b, "inner dimensions");
    assert_eq!(out.shape, [m, n], "shape of the product");
    // SAFETY: views hold only matrices within their memory, and shapes match; `out` is exclusively borrowed, and its
    // elements are read only if they are initialised.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.start,
            1,
            out.row_stride as isize,
            add,
            a.data.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.data.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Multiply-adds below which a product is not worth a second thread.
const PARALLEL_WORK: usize = 1 << 17;
/// Blocks that a parallel product is cut into.
const BLOCKS: usize = 8;
/// Rows or columns of a block are a multiple of this, the side of `gemm`'s own tiles.
const BLOCK_STEP: usize = 64;

/// `out = a b`, in blocks of rows or columns over the rayon pool.
pub fn matmul_parallel(a: View, b: View, out: ViewMut) {
    let ([m, k], n) = (a.shape, b.shape[1]);
    assert_eq!(out.shape, [m, n], "shape of the product");
    if m * k * n < PARALLEL_WORK {
        return multiply(a, b, out, false);
    }
    // Columns cost less: `gemm` packs `b` for every block of rows.
    let (by_columns, all) = (n >= m, n.max(m));
    let size = all.div_ceil(BLOCKS).next_multiple_of(BLOCK_STEP);
    let out = Shared(out);
    for_each(
        all.div_ceil(size),
        || (),
        |(), block| {
            let block = range(block, size, all);
            // SAFETY: blocks do not overlap, and each is taken once.
            unsafe {
                if by_columns {
                    let out = out.block(0..m, block.clone());
                    multiply(a, b.cols(block), out, false);
                } else {
                    let out = out.block(block.clone(), 0..n);
                    multiply(a.rows(block), b, out, false);
                }
            }
        },
    );
}

/// A matrix whose blocks are written by several threads.
struct Shared<'a>(ViewMut<'a>);

// SAFETY: only blocks are taken, which the caller keeps apart.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    /// One block.
    ///
    /// # Safety
    /// Blocks that live at the same time must not overlap.
    unsafe fn block(&self, rows: Range<usize>, cols: Range<usize>) -> ViewMut<'_> {
        let [all_rows, all_cols] = self.0.shape;
        assert!(
            rows.start < rows.end && rows.end <= all_rows,
            "rows of the matrix"
        );
        assert!(
            cols.start < cols.end && cols.end <= all_cols,
            "columns of the matrix"
        );
        ViewMut {
            // SAFETY: the first element of the block lies within the matrix.
            start: unsafe {
                self.0
                    .start
                    .add(rows.start * self.0.row_stride + cols.start)
            },
            shape: [rows.len(), cols.len()],
            slice: PhantomData,
            ..self.0
        }
    }
}
