//! Matrix products for x86-64 processors with AVX2 or AVX-512.
//!
//! The right factor is cut into panels of some columns. Each is laid out for the processor during its first use, or before it where
//! it is given transposed, and while one is computed with, the next one is fetched into the cache. That is what they are for:
//! where a right factor is read once or twice, such as the weights of an expert for its few rows, reading it takes as long as
//! computing, and the [`gemm`] crate does one after the other. A result that is larger than the caches can be written past them.

use super::{
    linear::{Fetch, Product},
    memory::Scratch,
    transpose::transpose,
    view::{View, ViewMut},
};

/// Rows of a tile.
const ROWS: usize = 6;
/// Rows of the left factor from which on a panel that could be read where it is gets copied.
const COPY_ROWS: usize = 49;
/// Depth of a panel at most.
const DEPTH: usize = 1024;
/// The same if the elements of a row of the left factor lie apart: it is read for every panel, in more cache lines than it fills.
const DEPTH_APART: usize = 256;
/// Elements that such a factor may span to be read at once, where adding up parts would take longer.
const SPAN: usize = 1 << 18;

/// Memory to fetch in advance, a row of a panel at a time.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    at: *const f32,
    /// From one row to the next, in elements.
    step: usize,
    /// Rows that are left.
    rows: usize,
}

impl Ahead {
    /// The first panel of `cols` columns of a factor. The rows of a transposed factor are taken to follow each other without
    /// gaps: elsewhere some of what is fetched is of no use.
    fn first_panel(b: View, cols: usize) -> Self {
        let step = if b.strides[1] == 1 {
            b.strides[0]
        } else {
            cols
        };
        Self {
            at: b.data.as_ptr(),
            step,
            rows: b.shape[0],
        }
    }

    /// The next `rows` rows; once none is left, again and again what is at `idle`.
    fn take(&mut self, rows: usize, idle: *const f32) -> (*const f32, usize) {
        if self.rows == 0 {
            return (idle, 0);
        }
        let at = self.at;
        self.at = at.wrapping_add(rows * self.step);
        self.rows = self.rows.saturating_sub(rows);
        (at, self.step)
    }
}

/// One tile of a product: up to [`ROWS`] rows of `a` times some vectors of a panel.
struct Tile {
    depth: usize,
    a: *const f32,
    a_strides: [usize; 2],
    panel: *const f32,
    panel_stride: usize,
    /// Where a tile lays out its panel, if it does.
    copy: *mut f32,
    out: *mut f32,
    out_stride: usize,
    add: bool,
    stream: bool,
    fetch: *const f32,
    fetch_step: usize,
}

/// Writes or adds the part of a tile that lies within the result.
///
/// # Safety
/// All elements at `out` and rows of `out_stride` from there must be writable, and initialised if `add`.
unsafe fn write_part<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    out: *mut f32,
    out_stride: usize,
    add: bool,
) {
    for (r, row) in rows.enumerate() {
        for (c, &sum) in row.iter().enumerate() {
            // SAFETY: the caller vouches for the elements.
            unsafe {
                let out = out.add(r * out_stride + c);
                *out = if add { sum + *out } else { sum };
            }
        }
    }
}

/// Products for one instruction set, with tiles of [`ROWS`] rows and `vectors` registers of `lanes` elements.
macro_rules! products {
    (
        $name:ident, $features:literal, $lanes:literal lanes, $vectors:literal vectors,
        $zero:ident, $load:ident, $splat:ident, $fma:ident, $add:ident, $store:ident, $stream:ident,
        [$($count:literal),*]
    ) => {
        pub(super) mod $name {
            use std::arch::x86_64::*;

            use super::*;

            /// Columns of a panel.
            const PANEL: usize = $lanes * $vectors;

            /// # Safety
            /// The processor must have the instructions, and the tile must lie within its matrices.
            #[target_feature(enable = $features)]
            unsafe fn tile<const V: usize, const R: usize, const COPY: bool>(tile: &Tile) {
                let mut sums = [[$zero(); V]; R];
                let (mut a, mut panel, mut fetch) = (tile.a, tile.panel, tile.fetch);
                let mut copy = tile.copy;
                let [row, next] = tile.a_strides;
                let rows: [usize; R] = std::array::from_fn(|r| r * row);
                // Not a closure, which would stay a function of its own in builds for development.
                macro_rules! step {
                    () => {
                        // SAFETY: the caller vouches for the tile.
                        unsafe {
                            let mut b = [$zero(); V];
                            for v in 0..V {
                                b[v] = $load(panel.add(v * $lanes));
                                if COPY {
                                    $store(copy.add(v * $lanes), b[v]);
                                }
                            }
                            for r in 0..R {
                                let a = $splat(*a.add(rows[r]));
                                for v in 0..V {
                                    sums[r][v] = $fma(b[v], a, sums[r][v]);
                                }
                            }
                        }
                        (a, panel) = (a.wrapping_add(next), panel.wrapping_add(tile.panel_stride));
                        if COPY {
                            copy = copy.wrapping_add(PANEL);
                        }
                    };
                }
                for _ in 0..tile.depth / 4 {
                    step!();
                    step!();
                    step!();
                    step!();
                    for line in 0..PANEL / 16 {
                        _mm_prefetch::<_MM_HINT_T1>(fetch.wrapping_add(16 * line).cast());
                    }
                    fetch = fetch.wrapping_add(tile.fetch_step);
                }
                for _ in 0..tile.depth % 4 {
                    step!();
                }
                for r in 0..R {
                    for v in 0..V {
                        // SAFETY: the caller vouches for the tile.
                        unsafe {
                            let out = tile.out.add(r * tile.out_stride + v * $lanes);
                            if tile.stream {
                                $stream(out, sums[r][v]);
                            } else if tile.add {
                                $store(out, $add(sums[r][v], $load(out)));
                            } else {
                                $store(out, sums[r][v]);
                            }
                        }
                    }
                }
            }

            /// Tiles by the vectors and the rows that they have.
            const TILES: [[unsafe fn(&Tile); ROWS]; $vectors] = [$([
                tile::<$count, 1, false>, tile::<$count, 2, false>, tile::<$count, 3, false>,
                tile::<$count, 4, false>, tile::<$count, 5, false>, tile::<$count, 6, false>,
            ]),*];

            /// Tiles that lay out their panel, by the vectors that they have.
            const COPYING: [unsafe fn(&Tile); $vectors] = [$(tile::<$count, ROWS, true>),*];

            /// # Safety
            /// The processor must have the instructions, the shapes must match, and what is added to must be initialised.
            #[target_feature(enable = $features)]
            pub(crate) unsafe fn multiply(a: View, b: View, out: ViewMut, how: Product) {
                let ([rows, depth], cols) = (a.shape, b.shape[1]);
                let apart = a.strides[1];
                let aligned = out.start.addr().is_multiple_of(64) && out.row_stride.is_multiple_of(16);
                let stream = how.stream && !how.add && aligned && depth <= DEPTH && depth * apart <= SPAN;
                let parts = match apart {
                    _ if stream => 1,
                    1 => depth.div_ceil(DEPTH).max(1),
                    _ => depth.div_ceil(DEPTH_APART).max(1),
                };
                let sizes = [depth.div_ceil(parts) * PANEL, ROWS * PANEL];
                let mut scratch = Scratch::new(sizes);
                // A copy of a panel, and what a tile computes that does not fill its vectors.
                let [copy, edge] = scratch.parts(sizes);
                for part in 0..parts {
                    let part = part * depth / parts..(part + 1) * depth / parts;
                    let (a, b) = (a.cols(part.clone()), b.rows(part.clone()));
                    let depth = part.len();
                    let add = how.add || part.start > 0;
                    for first in (0..cols).step_by(PANEL) {
                        let width = PANEL.min(cols - first);
                        let panel = b.cols(first..first + width);
                        let (vectors, full) = (width.div_ceil($lanes), width.is_multiple_of($lanes));
                        let in_place = panel.strides[1] == 1 && full;
                        // The first tile lays out the panel for the others, which then costs it next to nothing.
                        let first_copies = in_place && rows >= COPY_ROWS;
                        let (start, stride) = if in_place {
                            (panel.data.as_ptr(), panel.strides[0])
                        } else {
                            lay_out(panel, copy);
                            (copy.as_ptr(), PANEL)
                        };
                        let next = first + PANEL;
                        let mut ahead = match how.fetch {
                            Fetch::Right(_) if next < cols => Ahead::first_panel(b.cols(next..cols), PANEL),
                            Fetch::Right(Some(next)) => Ahead::first_panel(next, PANEL),
                            Fetch::Out if !stream => Ahead {
                                at: out.start.wrapping_add(ROWS * out.row_stride + first),
                                step: out.row_stride,
                                rows: rows.saturating_sub(ROWS),
                            },
                            _ => Ahead { at: start, step: 0, rows: 0 },
                        };
                        let tiles = &TILES[vectors - 1];
                        let mut tile = Tile {
                            depth,
                            a: a.data.as_ptr(),
                            a_strides: a.strides,
                            panel: start,
                            panel_stride: stride,
                            copy: copy.as_mut_ptr(),
                            out: edge.as_mut_ptr(),
                            out_stride: if full { out.row_stride } else { PANEL },
                            add: add && full,
                            stream: stream && full,
                            fetch: start,
                            fetch_step: 0,
                        };
                        for row in (0..rows).step_by(ROWS) {
                            let height = ROWS.min(rows - row);
                            let target = out.start.wrapping_add(row * out.row_stride + first);
                            tile.a = a.data.as_ptr().wrapping_add(row * a.strides[0]);
                            (tile.fetch, tile.fetch_step) = ahead.take(depth / 4, start);
                            if full {
                                tile.out = target;
                            }
                            // SAFETY: the tile lies within the views, or within the copy of a panel and `edge`.
                            unsafe {
                                if first_copies && row == 0 {
                                    COPYING[vectors - 1](&tile);
                                    (tile.panel, tile.panel_stride) = (copy.as_ptr(), PANEL);
                                } else {
                                    tiles[height - 1](&tile);
                                }
                                if !full {
                                    let rows = edge.chunks_exact(PANEL).take(height).map(|row| &row[..width]);
                                    write_part(rows, target, out.row_stride, add);
                                }
                            }
                        }
                    }
                }
                if stream {
                    // Before another thread reads what was written past the caches.
                    _mm_sfence();
                }
            }

            /// Writes a panel to rows of [`PANEL`] elements. Those behind its columns keep what they were.
            #[target_feature(enable = $features)]
            fn lay_out(panel: View, out: &mut [f32]) {
                let [depth, width] = panel.shape;
                if panel.strides[1] != 1 {
                    return transpose(panel.t(), out, PANEL);
                }
                for (row, out) in out.chunks_exact_mut(PANEL).take(depth).enumerate() {
                    let row = &panel.data[row * panel.strides[0]..][..width];
                    let (vectors, rest) = row.as_chunks::<$lanes>();
                    let (out_vectors, _) = out.as_chunks_mut::<$lanes>();
                    for (vector, out) in vectors.iter().zip(out_vectors) {
                        *out = *vector;
                    }
                    out[width - rest.len()..width].copy_from_slice(rest);
                }
            }
        }
    };
}

products! {
    avx512, "avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,fma", 16 lanes, 4 vectors,
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_storeu_ps, _mm512_stream_ps,
    [1, 2, 3, 4]
}

products! {
    avx2, "avx2,fma", 8 lanes, 2 vectors,
    _mm256_setzero_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_storeu_ps, _mm256_stream_ps,
    [1, 2]
}
