//! Sums in an order that does not vary, and maxima.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{array, elements, empty};

/// Rows that one unit sums at the first level of a sum over rows.
pub const COLUMN_CHUNK: usize = 64;

/// Sum of one value a unit, to every unit; all units of the cube must call it.
#[cube]
pub fn cube_sum(value: f32, unit: usize, #[comptime] units: usize) -> f32 {
    cube_fold(value, unit, units, false)
}

/// Largest of one value a unit, to every unit; all units of the cube must call it.
#[cube]
pub fn cube_max(value: f32, unit: usize, #[comptime] units: usize) -> f32 {
    cube_fold(value, unit, units, true)
}

/// The sum of the values of all units, or the largest of them.
#[cube]
fn cube_fold(value: f32, unit: usize, #[comptime] units: usize, #[comptime] largest: bool) -> f32 {
    let mut values = SharedMemory::<f32>::new(units);
    values[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(units.ilog2()) {
        let half = comptime!(units >> (level + 1));
        if unit < half {
            let other = values[unit + half];
            if comptime!(largest) {
                values[unit] = max(values[unit], other);
            } else {
                values[unit] += other;
            }
        }
        sync_cube();
    }
    values[0]
}

/// Sums over the rows of a contiguous f32 matrix, `[T, D] -> [D]`.
pub fn sum_columns<R: CubeRuntime>(x_td: &CubeTensor<R>) -> CubeTensor<R> {
    let client = &x_td.client;
    let [mut rows, width] = [0, 1].map(|axis| x_td.meta.shape()[axis]);
    let mut x = x_td.clone();
    loop {
        let chunks = rows.div_ceil(COLUMN_CHUNK);
        let out = empty(&x, [chunks, width], DType::F32);
        let (count, dim) = elements(client, chunks * width);
        sum_kernel::launch::<R>(client, count, dim, array(&x), array(&out), rows, width);
        (x, rows) = (out, chunks);
        if rows <= 1 {
            break;
        }
    }
    CubeTensor::new_contiguous(x.client, x.device, [width].into(), x.handle, x.dtype)
}

#[cube(launch)]
fn sum_kernel(x: &Array<f32>, out: &mut Array<f32>, rows: usize, width: usize) {
    let chunks = rows.div_ceil(COLUMN_CHUNK);
    if ABSOLUTE_POS >= chunks * width {
        terminate!();
    }
    let (chunk, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let from = chunk * COLUMN_CHUNK;
    let mut sum = 0.0f32;
    for row in from..min(from + COLUMN_CHUNK, rows) {
        sum += x[row * width + column];
    }
    out[ABSOLUTE_POS] = sum;
}
