//! Products of sorted rows with the weight matrices of their experts.
//!
//! The grid is fixed by what the host knows; a cube finds its expert and rows in the block table.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{array, cubes, empty},
    routing::{Blocks, Routing},
    tensor_core::{self, Instruction},
    tile::{Tile, multiply_add, zeroed},
    weight_gradient,
};

/// Which row of the left operand belongs to a sorted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// The operand has one row a sorted row.
    Sorted,
    /// The operand has one row a token.
    OfTokens,
}

/// How the weights of one expert lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weights {
    /// `[inner, columns]`.
    Plain,
    /// `[columns, inner]`.
    Transposed,
}

/// What is compiled into a product kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    tile: Tile,
    rows: Rows,
    weights: Weights,
    /// Add to the output instead of writing it.
    add: bool,
}

/// Sorted routed rows and their blocks, for all products of one operation.
#[derive(Clone)]
pub struct Groups<R: CubeRuntime> {
    /// Rows by expert.
    pub routing: Routing<R>,
    tile: Tile,
    blocks: Blocks<R>,
    core: Core,
}

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The units of a cube, each with a register tile.
    Units,
    /// Tensor cores, which take operands of 16 bits.
    Tensor(Instruction),
}

impl<R: CubeRuntime> Groups<R> {
    /// Groups the rows of `experts_r`, `top_k` rows a token, for products with at least `columns` columns.
    pub fn new(
        experts_r: &CubeTensor<R>,
        top_k: usize,
        experts: usize,
        columns: usize,
        core: Core,
    ) -> Self {
        let routing = Routing::new(experts_r, top_k, experts);
        let tile = Tile::of_rows(routing.rows() / experts, columns);
        let blocks = Blocks::new(&routing, tile.m);
        Self {
            routing,
            tile,
            blocks,
            core,
        }
    }

    /// `out[r] = a[row of r] * w[expert of r]` over the sorted rows, in f32, `[R, columns]`.
    ///
    /// `a` is `[_, inner]` with its rows as `rows` says, `w` is `[E, inner, columns]` or its transpose.
    pub fn product(
        &self,
        (a, rows): (&CubeTensor<R>, Rows),
        (w, weights): (&CubeTensor<R>, Weights),
    ) -> CubeTensor<R> {
        let columns = match weights {
            Weights::Plain => w.meta.shape()[2],
            Weights::Transposed => w.meta.shape()[1],
        };
        let out = empty(a, [self.routing.rows(), columns], DType::F32);
        self.launch((a, rows), (w, weights), &out, false);
        out
    }

    /// Adds a [`product`](Self::product) to `out`.
    pub fn add_product(
        &self,
        left: (&CubeTensor<R>, Rows),
        right: (&CubeTensor<R>, Weights),
        out: &CubeTensor<R>,
    ) {
        self.launch(left, right, out, true);
    }

    /// `dw[e] = sum over the rows r of e of a[row of r]^T * g[row of r]`, `[E, inner, columns]` in f32; zero for an expert
    /// without rows.
    pub fn weight_gradient(
        &self,
        left: (&CubeTensor<R>, Rows),
        right: (&CubeTensor<R>, Rows),
    ) -> CubeTensor<R> {
        match self.core {
            Core::Units => weight_gradient::on_units(&self.routing, left, right),
            Core::Tensor(instruction) => {
                tensor_core::weight_gradient(&self.routing, left, right, instruction)
            }
        }
    }

    fn launch(
        &self,
        (a, rows): (&CubeTensor<R>, Rows),
        (w, weights): (&CubeTensor<R>, Weights),
        out: &CubeTensor<R>,
        add: bool,
    ) {
        let client = &a.client;
        let (inner, columns) = (a.meta.shape()[1], out.meta.shape()[1]);
        let Self { tile, blocks, .. } = self;
        if let Core::Tensor(instruction) = self.core {
            let groups = (&self.routing, blocks, [tile.m, tile.n]);
            return tensor_core::product(groups, (a, rows), (w, weights), out, add, instruction);
        }
        let plan = Plan {
            tile: *tile,
            rows,
            weights,
            add,
        };
        // SAFETY: the kernel compares every position with the sizes here, which are those of the buffers; rows and
        // tokens come from a permutation of the routed rows, whatever the experts are. All loops are bounded.
        unsafe {
            product_kernel::launch_unchecked::<R>(
                client,
                cubes(client, blocks.count * columns.div_ceil(tile.n)),
                tile.cube_dim(),
                array(a),
                array(&self.routing.tokens),
                array(w),
                array(&self.routing.offsets),
                array(&blocks.experts),
                array(&blocks.rows),
                array(out),
                blocks.count,
                self.routing.experts(),
                inner,
                columns,
                plan,
                a.dtype.into(),
            );
        }
    }
}

/// The row of an operand that belongs to a sorted row.
#[cube]
pub fn operand_row(tokens: &Array<u32>, row: usize, #[comptime] rows: Rows) -> usize {
    if comptime!(rows == Rows::OfTokens) {
        tokens[row] as usize
    } else {
        row
    }
}

/// One cube a block of rows and tile of columns; neighbours share their weights.
#[cube(launch_unchecked)]
fn product_kernel<E: Float>(
    a: &Array<E>,
    tokens: &Array<u32>,
    w: &Array<E>,
    offsets: &Array<u32>,
    block_experts: &Array<u32>,
    block_rows: &Array<u32>,
    out: &mut Array<f32>,
    blocks: usize,
    experts: usize,
    inner: usize,
    columns: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: StorageType,
) {
    let tile = comptime!(plan.tile);
    let block = CUBE_POS % blocks;
    let first_column = CUBE_POS / blocks * tile.n;
    if first_column >= columns {
        terminate!();
    }
    let expert = block_experts[block] as usize;
    if expert >= experts {
        terminate!();
    }
    let first_row = block_rows[block] as usize;
    let end_row = min(first_row + tile.m, offsets[expert + 1] as usize);
    let unit = UNIT_POS as usize;

    let mut left = SharedMemory::<f32>::new(comptime!(tile.left_len()));
    let mut right = SharedMemory::<f32>::new(comptime!(tile.right_len()));
    let mut result = zeroed(tile);
    for step in 0..inner.div_ceil(tile.k) {
        let k = step * tile.k;
        load_rows::<E>(
            a, tokens, &mut left, first_row, end_row, k, inner, unit, tile, plan.rows,
        );
        let weights = expert * inner * columns;
        if comptime!(plan.weights == Weights::Plain) {
            load_plain::<E>(
                w,
                &mut right,
                weights,
                k,
                inner,
                first_column,
                columns,
                unit,
                tile,
            );
        } else {
            load_transposed::<E>(
                w,
                &mut right,
                weights,
                k,
                inner,
                first_column,
                columns,
                unit,
                tile,
            );
        }
        sync_cube();
        multiply_add(&left, &right, &mut result, unit, tile);
        sync_cube();
    }

    let register_columns = comptime!(tile.n / tile.side);
    #[unroll]
    for i in 0..comptime!(tile.m / tile.side) {
        let row = first_row + unit / tile.side + i * tile.side;
        #[unroll]
        for j in 0..register_columns {
            let column = first_column + unit % tile.side + j * tile.side;
            if row < end_row && column < columns {
                let at = row * columns + column;
                let mut value = result[i * register_columns + j];
                if plan.add {
                    value += out[at];
                }
                out[at] = value;
            }
        }
    }
}

/// Loads rows `first_row..end_row`, inner positions from `k`, zero outside.
#[cube]
fn load_rows<E: Float>(
    a: &Array<E>,
    tokens: &Array<u32>,
    left: &mut SharedMemory<f32>,
    first_row: usize,
    end_row: usize,
    k: usize,
    inner: usize,
    unit: usize,
    #[comptime] tile: Tile,
    #[comptime] rows: Rows,
) {
    #[unroll]
    for load in 0..comptime!(tile.left_loads()) {
        let at = load * comptime!(tile.units()) + unit;
        let (row, position) = (at / tile.k, at % tile.k);
        let mut value = 0.0f32;
        if first_row + row < end_row && k + position < inner {
            let source = operand_row(tokens, first_row + row, rows);
            value = f32::cast_from(a[source * inner + k + position]);
        }
        left[position * comptime!(tile.m + 1) + row] = value;
    }
}

/// Loads a tile of `[inner, columns]` weights that begin at `weights`, zero outside.
#[cube]
fn load_plain<E: Float>(
    w: &Array<E>,
    right: &mut SharedMemory<f32>,
    weights: usize,
    k: usize,
    inner: usize,
    first_column: usize,
    columns: usize,
    unit: usize,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for load in 0..comptime!(tile.right_loads()) {
        let at = load * comptime!(tile.units()) + unit;
        let (position, column) = (at / tile.n, at % tile.n);
        let mut value = 0.0f32;
        if k + position < inner && first_column + column < columns {
            value = f32::cast_from(w[weights + (k + position) * columns + first_column + column]);
        }
        right[position * comptime!(tile.n + 1) + column] = value;
    }
}

/// Loads a tile of `[columns, inner]` weights that begin at `weights`, zero outside.
#[cube]
fn load_transposed<E: Float>(
    w: &Array<E>,
    right: &mut SharedMemory<f32>,
    weights: usize,
    k: usize,
    inner: usize,
    first_column: usize,
    columns: usize,
    unit: usize,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for load in 0..comptime!(tile.right_loads()) {
        let at = load * comptime!(tile.units()) + unit;
        let (column, position) = (at / tile.k, at % tile.k);
        let mut value = 0.0f32;
        if k + position < inner && first_column + column < columns {
            value = f32::cast_from(w[weights + (first_column + column) * inner + k + position]);
        }
        right[position * comptime!(tile.n + 1) + column] = value;
    }
}
