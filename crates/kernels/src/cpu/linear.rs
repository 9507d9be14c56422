//! Matrix products.

use std::{marker::PhantomData, ops::Range};

#[cfg(target_arch = "x86_64")]
use super::panels;
use super::{
    math::Level,
    memory::{LINE, Scratch},
    parallel::{for_each, range},
    transpose::transpose,
    view::{View, ViewMut},
};

/// How a product is computed and where to.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "the `gemm` crate does not ask for it")
)]
pub(crate) struct Product<'a> {
    /// Adds to what is there.
    pub(crate) add: bool,
    /// Writes past the caches, where the layout allows it: for results that would leave them before they are read.
    pub(crate) stream: bool,
    /// What is fetched into the caches meanwhile.
    pub(crate) fetch: Fetch<'a>,
}

/// What a product fetches into the caches while it computes.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "the `gemm` crate does not ask for it")
)]
pub(crate) enum Fetch<'a> {
    /// Its own right factor, and then that of this thread's next product, if it is known.
    Right(Option<View<'a>>),
    /// The memory of its result.
    Out,
}

impl Default for Fetch<'_> {
    fn default() -> Self {
        Self::Right(None)
    }
}

/// `out = a b` on the calling thread.
pub fn matmul(a: View, b: View, out: ViewMut) {
    multiply(a, b, out, Product::default());
}

/// `out += a b` on the calling thread.
pub fn matmul_add(a: View, b: View, out: ViewMut) {
    let how = Product {
        add: true,
        ..Product::default()
    };
    multiply(a, b, out, how);
}

/// `out = a b`, or `out += a b`, on the calling thread.
pub(crate) fn multiply(a: View, b: View, out: ViewMut, how: Product) {
    assert_eq!(a.shape[1], b.shape[0], "inner dimensions");
    assert_eq!(out.shape, [a.shape[0], b.shape[1]], "shape of the product");
    assert!(
        !how.add || out.initialised,
        "only what was written can be added to"
    );
    match Level::detect() {
        // SAFETY: the processor has the instructions, and the shapes match.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { panels::avx512::multiply(a, b, out, how) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { panels::avx2::multiply(a, b, out, how) },
        Level::Baseline => multiply_elsewhere(a, b, out, how.add),
    }
}

/// Rows from which on a copy of a transposed factor pays.
const COPY_ROWS: usize = 4;

/// Products of processors that [`panels`] has no tiles for, by the [`gemm`] crate, which reads a transposed right factor more
/// slowly than copying it takes.
pub(super) fn multiply_elsewhere(a: View, b: View, out: ViewMut, add: bool) {
    if b.strides[1] == 1 || a.shape[0] < COPY_ROWS {
        return gemm(a, b, out, add);
    }
    let [k, n] = b.shape;
    let stride = n + LINE;
    let mut scratch = Scratch::new([k * stride]);
    let [copy] = scratch.parts([k * stride]);
    transpose(b.t(), copy, stride);
    gemm(a, View::new(copy, [k, n], stride), out, add);
}

fn gemm(a: View, b: View, out: ViewMut, add: bool) {
    let ([m, k], n) = (a.shape, b.shape[1]);
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
/// Rows or columns of a block are a multiple of this, the columns of a panel.
const BLOCK_STEP: usize = 64;

/// `out = a b`, in blocks of rows or columns over the rayon pool.
pub fn matmul_parallel(a: View, b: View, out: ViewMut) {
    let ([m, k], n) = (a.shape, b.shape[1]);
    assert_eq!(out.shape, [m, n], "shape of the product");
    if m * k * n < PARALLEL_WORK {
        return matmul(a, b, out);
    }
    // Columns cost less: `b` is laid out for every block of rows.
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
                    matmul(a, b.cols(block), out);
                } else {
                    // The right factor stays in the caches from block to block, the result was never there.
                    let out = out.block(block.clone(), 0..n);
                    let how = Product {
                        fetch: Fetch::Out,
                        ..Product::default()
                    };
                    multiply(a.rows(block), b, out, how);
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
