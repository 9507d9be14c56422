//! Transposed copies of matrices.

#[cfg(target_arch = "x86_64")]
use super::parallel::range;
use super::view::View;

/// Rows and columns of a block.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 8;

/// Writes the transpose of a row-major matrix to rows `out_stride` apart.
pub(crate) fn transpose(matrix: View, out: &mut [f32], out_stride: usize) {
    let ([rows, cols], x, stride) = matrix.row_major();
    if rows == 0 || cols == 0 {
        return;
    }
    assert!((rows - 1) * stride + cols <= x.len(), "rows of the matrix");
    assert!(
        (cols - 1) * out_stride + rows <= out.len(),
        "rows of the transpose"
    );
    #[cfg(target_arch = "x86_64")]
    let (whole_rows, whole_cols) = if is_x86_feature_detected!("avx") {
        let (whole_rows, whole_cols) = (rows / SIDE * SIDE, cols / SIDE * SIDE);
        // Two blocks below each other make up whole cache lines of the transpose.
        for rows in 0..whole_rows.div_ceil(2 * SIDE) {
            let rows = range(rows, 2 * SIDE, whole_rows);
            for col in (0..whole_cols).step_by(SIDE) {
                for row in rows.clone().step_by(SIDE) {
                    // SAFETY: the processor has AVX, and the block lies within both matrices as checked above.
                    unsafe {
                        x86::block(
                            x.as_ptr().add(row * stride + col),
                            stride,
                            out.as_mut_ptr().add(col * out_stride + row),
                            out_stride,
                        );
                    }
                }
            }
        }
        (whole_rows, whole_cols)
    } else {
        (0, 0)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let (whole_rows, whole_cols) = (0, 0);
    for row in 0..rows {
        let from = if row < whole_rows { whole_cols } else { 0 };
        for col in from..cols {
            out[col * out_stride + row] = x[row * stride + col];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::SIDE;

    /// Rows to fetch in advance.
    const AHEAD: usize = 2 * SIDE;

    /// Transposes one block.
    ///
    /// # Safety
    /// All rows of the block must be readable, those of its transpose writable.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn block(x: *const f32, stride: usize, out: *mut f32, out_stride: usize) {
        // SAFETY: the caller vouches for the rows.
        let row = |i: usize| unsafe { _mm256_loadu_ps(x.add(i * stride)) };
        for i in 0..SIDE {
            // Rows that the processor does not foresee; the address need not exist.
            _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add((i + AHEAD) * stride).cast());
        }
        let pairs = |a: __m256, b: __m256| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (a0, a1) = pairs(row(0), row(1));
        let (a2, a3) = pairs(row(2), row(3));
        let (a4, a5) = pairs(row(4), row(5));
        let (a6, a7) = pairs(row(6), row(7));
        let quads = |a: __m256, b: __m256| {
            (
                _mm256_shuffle_ps::<0x44>(a, b),
                _mm256_shuffle_ps::<0xee>(a, b),
            )
        };
        let (b0, b1) = quads(a0, a2);
        let (b2, b3) = quads(a1, a3);
        let (b4, b5) = quads(a4, a6);
        let (b6, b7) = quads(a5, a7);
        for (i, (low, high)) in [(b0, b4), (b1, b5), (b2, b6), (b3, b7)]
            .into_iter()
            .enumerate()
        {
            // SAFETY: the caller vouches for the rows.
            unsafe {
                _mm256_storeu_ps(
                    out.add(i * out_stride),
                    _mm256_permute2f128_ps::<0x20>(low, high),
                );
                _mm256_storeu_ps(
                    out.add((i + 4) * out_stride),
                    _mm256_permute2f128_ps::<0x31>(low, high),
                );
            }
        }
    }
}
