//! Products of experts on tensor cores: operands of 16 bits, sums in f32.
//!
//! Sorted rows, blocks and the order of cubes are those of the other products; the tile alone differs. Each plane of a cube
//! (the units that share an instruction) holds fragments of the result, which are multiplied from operands in shared memory.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::{
    cmma::{self, MatrixIdent, MatrixLayout},
    ir::{ElemType, FloatKind, StorageType, features::MmaConfig},
    prelude::*,
};

use super::{
    buffer::{array, cubes, empty},
    grouped::{Rows, Weights, operand_row},
    routing::{Blocks, Routing},
    tile::Tile,
};

/// Rows, columns and inner length of what one instruction multiplies.
const SIDE: usize = 16;
/// Step along the inner axis.
const STEP: usize = 32;
/// Elements between the lines of an operand in shared memory, against bank conflicts. Fragments stay aligned to 32 bytes.
const PAD: usize = 8;
/// Elements of a line of a fragment of the result in shared memory.
const PATCH_LINE: usize = SIDE + 4;
/// Units of a plane.
const PLANE: usize = 32;
/// Bytes that fragments are aligned to.
const ALIGNMENT: usize = 32;

/// Whether the device of `tensor` multiplies fragments of this type with sums in f32, by planes of the size that the kernels
/// take for granted.
pub fn applies<R: CubeRuntime>(tensor: &CubeTensor<R>, dtype: DType) -> bool {
    let properties = tensor.client.properties();
    let operand = StorageType::from(dtype);
    let side = SIDE as u32;
    let wanted = MmaConfig {
        a_type: operand,
        b_type: operand,
        cd_type: ElemType::Float(FloatKind::F32).into(),
        m: side,
        n: side,
        k: side,
    };
    let hardware = &properties.hardware;
    let planes = (hardware.plane_size_min, hardware.plane_size_max);
    properties.features.matmul.cmma.contains(&wanted) && planes == (PLANE as u32, PLANE as u32)
}

/// The tile of one cube, `m` by `n`, shared out to its planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlaneTile {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Planes along the rows.
    planes_m: usize,
    /// Planes along the columns.
    planes_n: usize,
    /// Neighbouring elements that are loaded at a time.
    vector: usize,
}

impl PlaneTile {
    /// The planes of a tile of this size, for matrices with lines of these lengths.
    pub fn new([m, n]: [usize; 2], lines: [usize; 2]) -> Self {
        let (planes_m, planes_n) = match m {
            16 => (1, 4),
            128 => (2, 4),
            _ => (2, 2),
        };
        let fits = |vector: &usize| lines.iter().all(|line| line.is_multiple_of(*vector));
        let vector = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        Self {
            m,
            n,
            planes_m,
            planes_n,
            vector,
        }
    }

    fn units(&self) -> usize {
        self.planes_m * self.planes_n * PLANE
    }

    fn fragments_m(&self) -> usize {
        self.m / self.planes_m / SIDE
    }

    fn fragments_n(&self) -> usize {
        self.n / self.planes_n / SIDE
    }

    fn cube_dim(&self) -> CubeDim {
        CubeDim::new_1d(self.units() as u32)
    }
}

/// How an operand lies in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lines {
    /// Lines of the tile.
    count: usize,
    /// Elements of a line.
    length: usize,
    layout: MatrixLayout,
}

impl Lines {
    /// Elements from one line to the next.
    fn stride(&self) -> usize {
        self.length + PAD
    }

    fn len(&self) -> usize {
        self.count * self.stride()
    }

    /// First element of the fragment at this row and column of the operand.
    fn start(&self, row: usize, column: usize) -> usize {
        match self.layout {
            MatrixLayout::ColMajor => column * self.stride() + row,
            _ => row * self.stride() + column,
        }
    }
}

/// What is compiled into a product kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    tile: PlaneTile,
    rows: Rows,
    weights: Weights,
    /// Add to the output instead of writing it.
    add: bool,
}

impl Plan {
    fn left(&self) -> Lines {
        Lines {
            count: self.tile.m,
            length: STEP,
            layout: MatrixLayout::RowMajor,
        }
    }

    fn right(&self) -> Lines {
        match self.weights {
            Weights::Plain => Lines {
                count: STEP,
                length: self.tile.n,
                layout: MatrixLayout::RowMajor,
            },
            Weights::Transposed => Lines {
                count: self.tile.n,
                length: STEP,
                layout: MatrixLayout::ColMajor,
            },
        }
    }
}

/// Writes or adds `a[row of r] * w[expert of r]` over the sorted rows to `out`, `[R, columns]`; see
/// [`Groups::product`](super::grouped::Groups::product).
pub fn product<R: CubeRuntime>(
    (routing, blocks, size): (&Routing<R>, &Blocks<R>, [usize; 2]),
    (a, rows): (&CubeTensor<R>, Rows),
    (w, weights): (&CubeTensor<R>, Weights),
    out: &CubeTensor<R>,
    add: bool,
) {
    let client = &a.client;
    let (inner, columns) = (a.meta.shape()[1], out.meta.shape()[1]);
    let tile = PlaneTile::new(size, [inner, columns]);
    let plan = Plan {
        tile,
        rows,
        weights,
        add,
    };
    // SAFETY: the kernel compares every position with the sizes here, which are those of the buffers; rows and tokens
    // come from a permutation of the routed rows, whatever the experts are. All loops are bounded.
    unsafe {
        product_on_tensor_cores_kernel::launch_unchecked::<R>(
            client,
            cubes(client, blocks.count * columns.div_ceil(tile.n)),
            tile.cube_dim(),
            tile.vector,
            array(a),
            array(&routing.tokens),
            array(w),
            array(&routing.offsets),
            array(&blocks.experts),
            array(&blocks.rows),
            array(out),
            blocks.count,
            routing.experts(),
            inner,
            columns,
            plan,
            a.dtype.into(),
        );
    }
}

/// One cube a block of rows and tile of columns; neighbours share their weights.
#[cube(launch_unchecked)]
fn product_on_tensor_cores_kernel<E: Float, N: Size>(
    a: &Array<Vector<E, N>>,
    tokens: &Array<u32>,
    w: &Array<Vector<E, N>>,
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
    let weights = expert * inner * columns;

    let mut left = operand::<E, N>(comptime!(plan.left()), tile);
    let mut right = operand::<E, N>(comptime!(plan.right()), tile);
    let sums = zeroed(tile);
    for step in 0..inner.div_ceil(STEP) {
        let k = step * STEP;
        let lines = comptime!(plan.left());
        load::<E, N>(
            a, tokens, &mut left, 0, first_row, end_row, k, inner, lines, tile, plan.rows,
        );
        let lines = comptime!(plan.right());
        if comptime!(plan.weights == Weights::Plain) {
            load::<E, N>(
                w,
                tokens,
                &mut right,
                weights,
                k,
                inner,
                first_column,
                columns,
                lines,
                tile,
                Rows::Sorted,
            );
        } else {
            load::<E, N>(
                w,
                tokens,
                &mut right,
                weights,
                first_column,
                columns,
                k,
                inner,
                lines,
                tile,
                Rows::Sorted,
            );
        }
        sync_cube();
        multiply_add::<E, N>(
            &left,
            &right,
            &sums,
            comptime!(plan.left()),
            comptime!(plan.right()),
            tile,
        );
        sync_cube();
    }
    write(
        &sums,
        out,
        0,
        first_row,
        end_row,
        first_column,
        columns,
        tile,
        plan.add,
    );
}

/// What is compiled into a gradient kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct GradientPlan {
    tile: PlaneTile,
    left: Rows,
    right: Rows,
}

impl GradientPlan {
    fn left_lines(&self) -> Lines {
        Lines {
            count: STEP,
            length: self.tile.m,
            layout: MatrixLayout::ColMajor,
        }
    }

    fn right_lines(&self) -> Lines {
        Lines {
            count: STEP,
            length: self.tile.n,
            layout: MatrixLayout::RowMajor,
        }
    }
}

/// `dw[e] = sum over the rows r of e of a[row of r]^T * g[row of r]` into `out`, `[E, inner, columns]`; see
/// [`Groups::weight_gradient`](super::grouped::Groups::weight_gradient).
pub fn weight_gradient<R: CubeRuntime>(
    routing: &Routing<R>,
    (a, left): (&CubeTensor<R>, Rows),
    (g, right): (&CubeTensor<R>, Rows),
) -> CubeTensor<R> {
    let client = &a.client;
    let (inner, columns) = (a.meta.shape()[1], g.meta.shape()[1]);
    let experts = routing.experts();
    let of_units = Tile::of_result(inner, columns);
    let tile = PlaneTile::new([of_units.m, of_units.n], [inner, columns]);
    let out = empty(a, [experts, inner, columns], DType::F32);
    let tiles = inner.div_ceil(tile.m) * columns.div_ceil(tile.n);
    // SAFETY: as for products.
    unsafe {
        weight_gradient_on_tensor_cores_kernel::launch_unchecked::<R>(
            client,
            cubes(client, experts * tiles),
            tile.cube_dim(),
            tile.vector,
            array(a),
            array(g),
            array(&routing.tokens),
            array(&routing.offsets),
            array(&out),
            experts,
            inner,
            columns,
            GradientPlan { tile, left, right },
            a.dtype.into(),
        );
    }
    out
}

/// One cube an expert and tile of its gradient; it walks through the expert's rows.
#[cube(launch_unchecked)]
fn weight_gradient_on_tensor_cores_kernel<E: Float, N: Size>(
    a: &Array<Vector<E, N>>,
    g: &Array<Vector<E, N>>,
    tokens: &Array<u32>,
    offsets: &Array<u32>,
    out: &mut Array<f32>,
    experts: usize,
    inner: usize,
    columns: usize,
    #[comptime] plan: GradientPlan,
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

    let mut left = operand::<E, N>(comptime!(plan.left_lines()), tile);
    let mut right = operand::<E, N>(comptime!(plan.right_lines()), tile);
    let sums = zeroed(tile);
    for step in 0..(end_row - first_row).div_ceil(STEP) {
        let row = first_row + step * STEP;
        let lines = comptime!(plan.left_lines());
        load::<E, N>(
            a,
            tokens,
            &mut left,
            0,
            row,
            end_row,
            first_inner,
            inner,
            lines,
            tile,
            plan.left,
        );
        let lines = comptime!(plan.right_lines());
        load::<E, N>(
            g,
            tokens,
            &mut right,
            0,
            row,
            end_row,
            first_column,
            columns,
            lines,
            tile,
            plan.right,
        );
        sync_cube();
        multiply_add::<E, N>(
            &left,
            &right,
            &sums,
            comptime!(plan.left_lines()),
            comptime!(plan.right_lines()),
            tile,
        );
        sync_cube();
    }
    write(
        &sums,
        out,
        expert * inner * columns,
        first_inner,
        inner,
        first_column,
        columns,
        tile,
        false,
    );
}

/// Shared memory for an operand.
#[cube]
fn operand<E: Float, N: Size>(
    #[comptime] lines: Lines,
    #[comptime] tile: PlaneTile,
) -> SharedMemory<Vector<E, N>> {
    SharedMemory::<Vector<E, N>>::new_aligned(comptime!(lines.len() / tile.vector), ALIGNMENT)
}

/// The fragments of a plane, zeroed.
#[cube]
fn zeroed(#[comptime] tile: PlaneTile) -> Sequence<cmma::Matrix<f32>> {
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.fragments_m() * tile.fragments_n()) {
        sums.push(cmma::Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            SIDE,
            MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    sums
}

/// Loads lines `first..end` of the matrix that begins at `base`, from position `position` of their `width`, zero outside.
#[cube]
fn load<E: Float, N: Size>(
    source: &Array<Vector<E, N>>,
    tokens: &Array<u32>,
    shared: &mut SharedMemory<Vector<E, N>>,
    base: usize,
    first: usize,
    end: usize,
    position: usize,
    width: usize,
    #[comptime] lines: Lines,
    #[comptime] tile: PlaneTile,
    #[comptime] of: Rows,
) {
    let vector = comptime!(tile.vector);
    let vectors = comptime!(lines.length / vector);
    let all = comptime!(lines.count * vectors);
    #[unroll]
    for load in 0..comptime!(all.div_ceil(tile.units())) {
        let at = load * comptime!(tile.units()) + UNIT_POS as usize;
        if at < all {
            let (line, place) = (at / vectors, at % vectors);
            let from = position + place * vector;
            let mut value = Vector::<E, N>::new(E::from_int(0));
            if first + line < end && from < width {
                let row = operand_row(tokens, first + line, of);
                value = source[(base + row * width + from) / vector];
            }
            shared[line * comptime!(lines.stride() / vector) + place] = value;
        }
    }
}

/// Adds the product of the shared operands to the fragments of every plane.
#[cube]
fn multiply_add<E: Float, N: Size>(
    left: &SharedMemory<Vector<E, N>>,
    right: &SharedMemory<Vector<E, N>>,
    sums: &Sequence<cmma::Matrix<f32>>,
    #[comptime] left_lines: Lines,
    #[comptime] right_lines: Lines,
    #[comptime] tile: PlaneTile,
) {
    let vector = comptime!(tile.vector);
    let plane = UNIT_POS as usize / PLANE;
    let left_first = plane / tile.planes_n * comptime!(tile.m / tile.planes_m);
    let right_first = plane % tile.planes_n * comptime!(tile.n / tile.planes_n);
    let left_step = comptime!(left_lines.start(1, 0));
    let right_step = comptime!(right_lines.start(0, 1));
    #[unroll]
    for k in 0..comptime!(STEP / SIDE) {
        let mut rights = Sequence::<cmma::Matrix<Vector<E, N>>>::new();
        #[unroll]
        for j in 0..comptime!(tile.fragments_n()) {
            let start = right_first * right_step + comptime!(right_lines.start(k * SIDE, j * SIDE));
            rights.push(cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::B,
                SIDE,
                SIDE,
                SIDE,
                right_lines.layout,
                &right.slice(start / vector, comptime!(right_lines.len() / vector)),
                comptime!(right_lines.stride() as u32),
            ));
        }
        #[unroll]
        for i in 0..comptime!(tile.fragments_m()) {
            let start = left_first * left_step + comptime!(left_lines.start(i * SIDE, k * SIDE));
            let fragment = cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::A,
                SIDE,
                SIDE,
                SIDE,
                left_lines.layout,
                &left.slice(start / vector, comptime!(left_lines.len() / vector)),
                comptime!(left_lines.stride() as u32),
            );
            #[unroll]
            for j in 0..comptime!(tile.fragments_n()) {
                let sum = sums.index(comptime!(i * tile.fragments_n() + j));
                cmma::execute(&fragment, rights.index(j), sum, sum);
            }
        }
    }
}

/// Writes the fragments to rows `first_row..end_row` and columns from `first_column` of the matrix that begins at `base`.
#[cube]
fn write(
    sums: &Sequence<cmma::Matrix<f32>>,
    out: &mut Array<f32>,
    base: usize,
    first_row: usize,
    end_row: usize,
    first_column: usize,
    columns: usize,
    #[comptime] tile: PlaneTile,
    #[comptime] add: bool,
) {
    let patch_len = comptime!(SIDE * PATCH_LINE);
    let patches_len = comptime!(tile.units() / PLANE * patch_len);
    let mut patches = SharedMemory::<f32>::new_aligned(patches_len, ALIGNMENT);
    let unit = UNIT_POS as usize;
    let (plane, lane) = (unit / PLANE, unit % PLANE);
    let patch = plane * patch_len;
    let row_of_plane = first_row + plane / tile.planes_n * comptime!(tile.m / tile.planes_m);
    let column_of_plane = first_column + plane % tile.planes_n * comptime!(tile.n / tile.planes_n);
    #[unroll]
    for i in 0..comptime!(tile.fragments_m()) {
        #[unroll]
        for j in 0..comptime!(tile.fragments_n()) {
            cmma::store(
                &mut patches.slice_mut(patch, patches_len),
                sums.index(comptime!(i * tile.fragments_n() + j)),
                comptime!(PATCH_LINE as u32),
                MatrixLayout::RowMajor,
            );
            sync_plane();
            for part in 0..comptime!(SIDE * SIDE / PLANE) {
                let at = part * PLANE + lane;
                let row = row_of_plane + comptime!(i * SIDE) + at / SIDE;
                let column = column_of_plane + comptime!(j * SIDE) + at % SIDE;
                if row < end_row && column < columns {
                    let place = base + row * columns + column;
                    let mut value = patches[patch + at / SIDE * PATCH_LINE + at % SIDE];
                    if add {
                        value += out[place];
                    }
                    out[place] = value;
                }
            }
            sync_plane();
        }
    }
}
