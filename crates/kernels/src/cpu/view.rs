//! Matrices within slices.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

/// A matrix to read: any two strides over a slice.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) shape: [usize; 2],
    pub(super) strides: [usize; 2],
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub fn new(data: &'a [f32], [rows, cols]: [usize; 2], row_stride: usize) -> Self {
        assert!(
            extent([rows, cols], [row_stride, 1]) <= data.len(),
            "a {rows} x {cols} matrix of row stride {row_stride} does not fit {} elements",
            data.len()
        );
        Self {
            data,
            shape: [rows, cols],
            strides: [row_stride, 1],
        }
    }

    /// A contiguous row-major matrix of `cols` columns.
    pub fn of_rows(data: &'a [f32], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "rows of {cols} columns do not make up {} elements",
            data.len()
        );
        Self::new(data, [data.len() / cols, cols], cols)
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.shape[0]
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        let ([rows, cols], [row_stride, col_stride]) = (self.shape, self.strides);
        Self {
            data: self.data,
            shape: [cols, rows],
            strides: [col_stride, row_stride],
        }
    }

    /// Shape, elements and row stride of a row-major matrix.
    pub(crate) fn row_major(self) -> ([usize; 2], &'a [f32], usize) {
        assert_eq!(self.strides[1], 1, "a row-major matrix");
        (self.shape, self.data, self.strides[0])
    }

    /// Some of the rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        assert!(
            rows.start <= rows.end && rows.end <= self.shape[0],
            "rows of the matrix"
        );
        let start = (rows.start * self.strides[0]).min(self.data.len());
        Self {
            data: &self.data[start..],
            shape: [rows.len(), self.shape[1]],
            strides: self.strides,
        }
    }

    /// Some of the columns.
    pub fn cols(self, cols: Range<usize>) -> Self {
        self.t().rows(cols).t()
    }
}

/// A row-major matrix to write, whose rows may lie apart.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(super) start: *mut f32,
    pub(super) shape: [usize; 2],
    pub(super) row_stride: usize,
    pub(super) initialised: bool,
    pub(super) slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for the `&mut [f32]` it was made of.
unsafe impl Send for ViewMut<'_> {}

impl<'a> ViewMut<'a> {
    /// A contiguous matrix of `cols` columns.
    pub fn of_rows(data: &'a mut [f32], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "rows of {cols} columns do not make up {} elements",
            data.len()
        );
        Self {
            start: data.as_mut_ptr(),
            shape: [data.len() / cols, cols],
            row_stride: cols,
            initialised: true,
            slice: PhantomData,
        }
    }

    /// A matrix to write within `len` elements from `memory`, from element `start`.
    ///
    /// # Safety
    /// The memory must be writable during `'a`, and the elements of this matrix must not be used through anything else
    /// meanwhile.
    pub(crate) unsafe fn within(
        memory: *mut f32,
        len: usize,
        start: usize,
        shape: [usize; 2],
        row_stride: usize,
    ) -> Self {
        assert!(
            start + extent(shape, [row_stride, 1]) <= len,
            "matrix within the memory"
        );
        assert!(
            shape[0] <= 1 || row_stride >= shape[1],
            "rows must not overlap"
        );
        Self {
            // SAFETY: within the memory, as checked.
            start: unsafe { memory.add(start) },
            shape,
            row_stride,
            initialised: false,
            slice: PhantomData,
        }
    }

    /// The same matrix, for a shorter time.
    pub(crate) fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut {
            slice: PhantomData,
            ..*self
        }
    }

    /// The same matrix, to be read as well.
    ///
    /// # Safety
    /// All of its elements must have been written.
    pub(crate) unsafe fn assume_written(self) -> Self {
        Self {
            initialised: true,
            ..self
        }
    }

    /// A row of a matrix that need not be initialised.
    pub(crate) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        let [rows, cols] = self.shape;
        assert!(row < rows && !self.initialised, "rows of a matrix to write");
        // SAFETY: the row lies within the matrix, whose elements are this view's.
        unsafe {
            let start = self.start.add(row * self.row_stride);
            std::slice::from_raw_parts_mut(start.cast(), cols)
        }
    }

    /// The first columns.
    pub(crate) fn first_cols(self, cols: usize) -> Self {
        let [rows, all] = self.shape;
        assert!(cols <= all, "columns of the matrix");
        Self {
            shape: [rows, cols],
            ..self
        }
    }
}

/// Elements from the first to behind the last one of a matrix.
fn extent([rows, cols]: [usize; 2], [row_stride, col_stride]: [usize; 2]) -> usize {
    if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + (cols - 1) * col_stride + 1
    }
}
