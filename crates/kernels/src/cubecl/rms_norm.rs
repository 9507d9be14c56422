//! Root mean square normalisation, forward and backward.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{array, cubes, elements, empty},
    reduce::{COLUMN_CHUNK, cube_sum, sum_columns},
};

/// Units of a cube; one cube a row.
const ROW_UNITS: usize = 128;

/// `x / rms(x) * scale` and `1 / rms(x)` of every row, `[T, D]` and `[T]`.
///
/// All tensors here are contiguous and in f32.
pub fn forward<R: CubeRuntime>(
    x_td: &CubeTensor<R>,
    scale_d: &CubeTensor<R>,
    eps: f32,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let client = &x_td.client;
    let [rows, width] = [0, 1].map(|axis| x_td.meta.shape()[axis]);
    let out = empty(x_td, [rows, width], DType::F32);
    let inverse_rms = empty(x_td, [rows], DType::F32);
    forward_kernel::launch::<R>(
        client,
        cubes(client, rows),
        CubeDim::new_1d(ROW_UNITS as u32),
        array(x_td),
        array(scale_d),
        array(&out),
        array(&inverse_rms),
        rows,
        width,
        eps,
    );
    (out, inverse_rms)
}

/// Gradient of `x`, `[T, D]`.
pub fn backward_x<R: CubeRuntime>(
    x_td: &CubeTensor<R>,
    scale_d: &CubeTensor<R>,
    inverse_rms_t: &CubeTensor<R>,
    dy_td: &CubeTensor<R>,
) -> CubeTensor<R> {
    let client = &x_td.client;
    let [rows, width] = [0, 1].map(|axis| x_td.meta.shape()[axis]);
    let dx_td = empty(x_td, [rows, width], DType::F32);
    backward_kernel::launch::<R>(
        client,
        cubes(client, rows),
        CubeDim::new_1d(ROW_UNITS as u32),
        array(x_td),
        array(scale_d),
        array(inverse_rms_t),
        array(dy_td),
        array(&dx_td),
        rows,
        width,
    );
    dx_td
}

/// Gradient of the scale, `[D]`, in two levels of sums.
pub fn backward_scale<R: CubeRuntime>(
    x_td: &CubeTensor<R>,
    inverse_rms_t: &CubeTensor<R>,
    dy_td: &CubeTensor<R>,
) -> CubeTensor<R> {
    let client = &x_td.client;
    let [rows, width] = [0, 1].map(|axis| x_td.meta.shape()[axis]);
    let chunks = rows.div_ceil(COLUMN_CHUNK);
    let partial = empty(x_td, [chunks, width], DType::F32);
    let (count, dim) = elements(client, chunks * width);
    scale_kernel::launch::<R>(
        client,
        count,
        dim,
        array(x_td),
        array(inverse_rms_t),
        array(dy_td),
        array(&partial),
        rows,
        width,
    );
    sum_columns(&partial)
}

#[cube(launch)]
fn forward_kernel(
    x: &Array<f32>,
    scale: &Array<f32>,
    out: &mut Array<f32>,
    inverse_rms: &mut Array<f32>,
    rows: usize,
    width: usize,
    eps: f32,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut squares = 0.0f32;
    for column in range_stepped(unit, width, ROW_UNITS) {
        let value = x[row * width + column];
        squares += value * value;
    }
    let mean = cube_sum(squares, unit, ROW_UNITS) / f32::cast_from(width as u32);
    let inverse = 1.0f32 / f32::sqrt(mean + eps);
    for column in range_stepped(unit, width, ROW_UNITS) {
        let at = row * width + column;
        out[at] = x[at] * inverse * scale[column];
    }
    if unit == 0 {
        inverse_rms[row] = inverse;
    }
}

#[cube(launch)]
fn backward_kernel(
    x: &Array<f32>,
    scale: &Array<f32>,
    inverse_rms: &Array<f32>,
    dy: &Array<f32>,
    dx: &mut Array<f32>,
    rows: usize,
    width: usize,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let inverse = inverse_rms[row];
    let mut dot = 0.0f32;
    for column in range_stepped(unit, width, ROW_UNITS) {
        let at = row * width + column;
        dot += dy[at] * scale[column] * x[at] * inverse;
    }
    let mean = cube_sum(dot, unit, ROW_UNITS) / f32::cast_from(width as u32);
    for column in range_stepped(unit, width, ROW_UNITS) {
        let at = row * width + column;
        dx[at] = (dy[at] * scale[column] - x[at] * inverse * mean) * inverse;
    }
}

/// Sums of `dy * x / rms(x)` over the rows of every chunk, one unit a column of a chunk.
#[cube(launch)]
fn scale_kernel(
    x: &Array<f32>,
    inverse_rms: &Array<f32>,
    dy: &Array<f32>,
    partial: &mut Array<f32>,
    rows: usize,
    width: usize,
) {
    let chunks = rows.div_ceil(COLUMN_CHUNK);
    if ABSOLUTE_POS >= chunks * width {
        terminate!();
    }
    let (chunk, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let from = chunk * COLUMN_CHUNK;
    let mut sum = 0.0f32;
    for row in from..min(from + COLUMN_CHUNK, rows) {
        let at = row * width + column;
        sum += dy[at] * x[at] * inverse_rms[row];
    }
    partial[ABSOLUTE_POS] = sum;
}
