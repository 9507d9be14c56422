//! Gradients of expert weights: products over the rows of every expert.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{array, cubes, empty},
    grouped::{Rows, operand_row},
    routing::Routing,
    tile::{Tile, multiply_add, zeroed},
};

/// What is compiled into a gradient kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    tile: Tile,
    left: Rows,
    right: Rows,
}

/// [`Groups::weight_gradient`](super::grouped::Groups::weight_gradient) by the units of cubes.
pub fn on_units<R: CubeRuntime>(
    routing: &Routing<R>,
    (a, left): (&CubeTensor<R>, Rows),
    (g, right): (&CubeTensor<R>, Rows),
) -> CubeTensor<R> {
    let client = &a.client;
    let (inner, columns) = (a.meta.shape()[1], g.meta.shape()[1]);
    let experts = routing.experts();
    let tile = Tile::of_result(inner, columns);
    let out = empty(a, [experts, inner, columns], DType::F32);
    let tiles = inner.div_ceil(tile.m) * columns.div_ceil(tile.n);
    // SAFETY: the kernel compares every position with the sizes here, which are those of the buffers; rows and tokens
    // come from a permutation of the routed rows, whatever the experts are. All loops are bounded.
    unsafe {
        weight_gradient_kernel::launch_unchecked::<R>(
            client,
            cubes(client, experts * tiles),
            tile.cube_dim(),
            array(a),
            array(g),
            array(&routing.tokens),
            array(&routing.offsets),
            array(&out),
            experts,
            inner,
            columns,
            Plan { tile, left, right },
            a.dtype.into(),
        );
    }
    out
}

/// One cube an expert and tile of its gradient; it walks through the expert's rows.
#[cube(launch_unchecked)]
fn weight_gradient_kernel<E: Float>(
    a: &Array<E>,
    g: &Array<E>,
    tokens: &Array<u32>,
    offsets: &Array<u32>,
    out: &mut Array<f32>,
    experts: usize,
    inner: usize,
    columns: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: StorageType,
) {
    let tile = comptime!(plan.tile);
    let across = columns.div_ceil(tile.n);
    let tiles = inner.div_ceil(tile.m) * across;
    let expert = CUBE_POS / tiles;
    if expert >= experts {
        terminate!();
    }
    let first_inner = CUBE_POS % tiles / across * tile.m;
    let first_column = CUBE_POS % across * tile.n;
    let first_row = offsets[expert] as usize;
    let end_row = offsets[expert + 1] as usize;
    let unit = UNIT_POS as usize;

    let mut left = SharedMemory::<f32>::new(comptime!(tile.left_len()));
    let mut right = SharedMemory::<f32>::new(comptime!(tile.right_len()));
    let mut result = zeroed(tile);
    for step in 0..(end_row - first_row).div_ceil(tile.k) {
        let row = first_row + step * tile.k;
        load::<E>(
            a,
            tokens,
            &mut left,
            row,
            end_row,
            first_inner,
            inner,
            unit,
            tile.m,
            tile.k,
            comptime!(tile.units()),
            plan.left,
        );
        load::<E>(
            g,
            tokens,
            &mut right,
            row,
            end_row,
            first_column,
            columns,
            unit,
            tile.n,
            tile.k,
            comptime!(tile.units()),
            plan.right,
        );
        sync_cube();
        multiply_add(&left, &right, &mut result, unit, tile);
        sync_cube();
    }

    let register_columns = comptime!(tile.n / tile.side);
    #[unroll]
    for i in 0..comptime!(tile.m / tile.side) {
        let k = first_inner + unit / tile.side + i * tile.side;
        #[unroll]
        for j in 0..register_columns {
            let column = first_column + unit % tile.side + j * tile.side;
            if k < inner && column < columns {
                out[(expert * inner + k) * columns + column] = result[i * register_columns + j];
            }
        }
    }
}

/// Loads `rows` rows from `row` and `width` of their columns from `first`, zero outside; by `units` units.
#[cube]
fn load<E: Float>(
    source: &Array<E>,
    tokens: &Array<u32>,
    shared: &mut SharedMemory<f32>,
    row: usize,
    end_row: usize,
    first: usize,
    columns: usize,
    unit: usize,
    #[comptime] width: usize,
    #[comptime] rows: usize,
    #[comptime] units: usize,
    #[comptime] of: Rows,
) {
    #[unroll]
    for load in 0..comptime!(width * rows / units) {
        let at = load * units + unit;
        let (i, column) = (at / width, at % width);
        let mut value = 0.0f32;
        if row + i < end_row && first + column < columns {
            let from = operand_row(tokens, row + i, of);
            value = f32::cast_from(source[from * columns + first + column]);
        }
        shared[i * comptime!(width + 1) + column] = value;
    }
}
