//! Gradient of an embedding table: positions sorted by token, then one sum a row of the table.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{UNITS, array, cubes, empty, units},
    sort::{Digit, sort_by_digit},
};

/// Bits of a token id that one pass of the sort takes.
const DIGIT_BITS: u32 = 8;

/// `dtable[v] = sum over the positions t with ids[t] = v of dy[t]`, `[V, D]`, summed in the order of the positions.
///
/// `dy_td` is contiguous in f32, `ids_t` contiguous with values in `0..vocabulary`.
pub fn gradient<R: CubeRuntime>(
    dy_td: &CubeTensor<R>,
    ids_t: &CubeTensor<R>,
    vocabulary: usize,
) -> CubeTensor<R> {
    let client = &dy_td.client;
    let [positions, width] = [dy_td.meta.shape()[0], dy_td.meta.shape()[1]];
    let order = sort_by_id(ids_t, vocabulary);
    let out = empty(dy_td, [vocabulary, width], DType::F32);
    gradient_kernel::launch::<R>(
        client,
        cubes(client, vocabulary),
        units(),
        array(dy_td),
        array(ids_t),
        array(&order),
        array(&out),
        vocabulary,
        positions,
        width,
        ids_t.dtype.into(),
    );
    out
}

/// Positions sorted by their ids, digit by digit from the lowest.
fn sort_by_id<R: CubeRuntime>(ids_t: &CubeTensor<R>, vocabulary: usize) -> CubeTensor<R> {
    let pass = |earlier: Option<&CubeTensor<R>>, shift: u32| {
        let buckets = ((vocabulary >> shift) + 1).min(1 << DIGIT_BITS);
        sort_by_digit(ids_t, earlier, Digit { shift, buckets }).order
    };
    let mut order = pass(None, 0);
    let mut shift = DIGIT_BITS;
    while vocabulary >> shift > 0 {
        order = pass(Some(&order), shift);
        shift += DIGIT_BITS;
    }
    order
}

/// The number of sorted positions whose id is below `id`.
#[cube]
fn below<I: Int>(ids: &Array<I>, order: &Array<u32>, positions: usize, id: usize) -> usize {
    let mut low = 0usize;
    let mut high = positions;
    while low < high {
        let middle = (low + high) / 2;
        if (u32::cast_from(ids[order[middle] as usize]) as usize) < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// One cube a row of the table; a unit sums columns.
#[cube(launch)]
fn gradient_kernel<I: Int>(
    dy: &Array<f32>,
    ids: &Array<I>,
    order: &Array<u32>,
    out: &mut Array<f32>,
    vocabulary: usize,
    positions: usize,
    width: usize,
    #[define(I)] _dtype: StorageType,
) {
    let id = CUBE_POS;
    if id >= vocabulary {
        terminate!();
    }
    let from = below::<I>(ids, order, positions, id);
    let to = below::<I>(ids, order, positions, id + 1);
    for column in range_stepped(UNIT_POS as usize, width, UNITS) {
        let mut sum = 0.0f32;
        for place in from..to {
            sum += dy[order[place] as usize * width + column];
        }
        out[id * width + column] = sum;
    }
}
