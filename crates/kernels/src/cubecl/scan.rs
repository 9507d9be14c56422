//! Exclusive prefix sums.

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{UNITS, array, cubes, units};

/// Replaces every row of `values` (`rows` rows of `len` elements) by its exclusive prefix sums, and writes the sum of
/// row `r` to `totals[r]`.
pub fn exclusive_scan<R: CubeRuntime>(
    values: &CubeTensor<R>,
    totals: &CubeTensor<R>,
    [rows, len]: [usize; 2],
) {
    let client = &values.client;
    scan_kernel::launch::<R>(
        client,
        cubes(client, rows),
        units(),
        array(values),
        array(totals),
        rows,
        len,
    );
}

/// One cube a row; every unit takes one strip of it.
#[cube(launch)]
fn scan_kernel(values: &mut Array<u32>, totals: &mut Array<u32>, rows: usize, len: usize) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let strip = len.div_ceil(UNITS);
    let from = unit * strip;
    let to = min(from + strip, len);

    let mut sum = 0u32;
    for i in from..to {
        sum += values[row * len + i];
    }
    let mut sums = SharedMemory::<u32>::new(UNITS);
    sums[unit] = sum;
    inclusive_scan(&mut sums, unit);

    let mut before = sums[unit] - sum;
    for i in from..to {
        let value = values[row * len + i];
        values[row * len + i] = before;
        before += value;
    }
    if unit == UNITS - 1 {
        totals[row] = sums[unit];
    }
}

/// Inclusive prefix sums of one value a unit.
#[cube]
fn inclusive_scan(sums: &mut SharedMemory<u32>, unit: usize) {
    sync_cube();
    #[unroll]
    for level in 0..UNITS.ilog2() {
        let distance = comptime!(1usize << level);
        let mut left = 0u32;
        if unit >= distance {
            left = sums[unit - distance];
        }
        sync_cube();
        sums[unit] += left;
        sync_cube();
    }
}
