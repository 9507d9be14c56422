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

/// Step along the inner axis.
const STEP: usize = 32;
/// Elements between the lines of an operand in shared memory, against bank conflicts. Fragments stay aligned to 32 bytes.
const PAD: usize = 8;
/// The same between the lines of a fragment of the result.
const PATCH_PAD: usize = 4;
/// Bytes that fragments are aligned to.
const ALIGNMENT: usize = 32;

/// What a device's tensor cores multiply at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Rows, columns and inner length of its fragments: 16, or 8 as on drivers in software.
    side: usize,
    /// Units of a plane.
    plane: usize,
}

impl Instruction {
    /// The one of the device of `tensor` for operands of this type with sums in f32; none where the device has no square one,
    /// or where its compiler chooses the size of planes.
    pub fn find<R: CubeRuntime>(tensor: &CubeTensor<R>, dtype: DType) -> Option<Self> {
        let properties = tensor.client.properties();
        let operand = StorageType::from(dtype);
        let square = |side: u32| MmaConfig {
            a_type: operand,
            b_type: operand,
            cd_type: ElemType::Float(FloatKind::F32).into(),
            m: side,
            n: side,
            k: side,
        };
        let known = &properties.features.matmul.cmma;
        let side = [16, 8]
            .into_iter()
            .find(|side| known.contains(&square(*side)))?;
        let hardware = &properties.hardware;
        let plane = hardware.plane_size_min;
        let usable = plane == hardware.plane_size_max && (side * side).is_multiple_of(plane);
        usable.then_some(Self {
            side: side as usize,
            plane: plane as usize,
        })
    }

    /// Elements of a line of a fragment of the result in shared memory.
    fn patch_line(&self) -> usize {
        self.side + PATCH_PAD
    }
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
    instruction: Instruction,
}

impl PlaneTile {
    /// The planes of a tile of this size, for matrices with lines of these lengths.
    pub fn new([m, n]: [usize; 2], lines: [usize; 2], instruction: Instruction) -> Self {
        let planes = match m {
            16 => (1, 4),
            128 => (2, 4),
            _ => (2, 2),
        };
        // Small planes with small fragments: as many units share the tile if there are more of them.
        let more = match instruction {
            Instruction {
                side: 8,
                plane: ..16,
            } => 2,
            _ => 1,
        };
        let (planes_m, planes_n) = (more * planes.0, more * planes.1);
        let fits = |vector: &usize| lines.iter().all(|line| line.is_multiple_of(*vector));
        let vector = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        Self {
            m,
            n,
            planes_m,
            planes_n,
            vector,
            instruction,
        }
    }

    fn units(&self) -> usize {
        self.planes_m * self.planes_n * self.instruction.plane
    }

    fn fragments_m(&self) -> usize {
        self.m / self.planes_m / self.instruction.side
    }

    fn fragments_n(&self) -> usize {
        self.n / self.planes_n / self.instruction.side
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
    instruction: Instruction,
) {
    let client = &a.client;
    let (inner, columns) = (a.meta.shape()[1], out.meta.shape()[1]);
    let tile = PlaneTile::new(size, [inner, columns], instruction);
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
    instruction: Instruction,
) -> CubeTensor<R> {
    let client = &a.client;
    let (inner, columns) = (a.meta.shape()[1], g.meta.shape()[1]);
    let experts = routing.experts();
    let of_units = Tile::of_result(inner, columns);
    let tile = PlaneTile::new([of_units.m, of_units.n], [inner, columns], instruction);
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
    let side = comptime!(tile.instruction.side);
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.fragments_m() * tile.fragments_n()) {
        sums.push(cmma::Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            side,
            side,
            side,
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
    let side = comptime!(tile.instruction.side);
    let plane = UNIT_POS as usize / tile.instruction.plane;
    let left_first = plane / tile.planes_n * comptime!(tile.m / tile.planes_m);
    let right_first = plane % tile.planes_n * comptime!(tile.n / tile.planes_n);
    let left_step = comptime!(left_lines.start(1, 0));
    let right_step = comptime!(right_lines.start(0, 1));
    #[unroll]
    for k in 0..comptime!(STEP / side) {
        let mut rights = Sequence::<cmma::Matrix<Vector<E, N>>>::new();
        #[unroll]
        for j in 0..comptime!(tile.fragments_n()) {
            let start = right_first * right_step + comptime!(right_lines.start(k * side, j * side));
            rights.push(cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::B,
                side,
                side,
                side,
                right_lines.layout,
                &right.slice(start / vector, comptime!(right_lines.len() / vector)),
                comptime!(right_lines.stride() as u32),
            ));
        }
        #[unroll]
        for i in 0..comptime!(tile.fragments_m()) {
            let start = left_first * left_step + comptime!(left_lines.start(i * side, k * side));
            let fragment = cmma::Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::A,
                side,
                side,
                side,
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
    let instruction = comptime!(tile.instruction);
    let side = comptime!(instruction.side);
    let planes = comptime!(tile.planes_m * tile.planes_n);
    let patch_line = comptime!(instruction.patch_line());
    let patch_len = comptime!(side * patch_line);
    let patches_len = comptime!(planes * patch_len);
    let mut patches = SharedMemory::<f32>::new_aligned(patches_len, ALIGNMENT);
    let unit = UNIT_POS as usize;
    let (plane, lane) = (unit / instruction.plane, unit % instruction.plane);
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
                comptime!(patch_line as u32),
                MatrixLayout::RowMajor,
            );
            sync_plane();
            for part in 0..comptime!(side * side / instruction.plane) {
                let at = part * instruction.plane + lane;
                let row = row_of_plane + comptime!(i * side) + at / side;
                let column = column_of_plane + comptime!(j * side) + at % side;
                if row < end_row && column < columns {
                    let place = base + row * columns + column;
                    let mut value = patches[patch + at / side * patch_line + at % side];
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

/// On a driver in software that has cooperative matrices, which is Vulkan's name for tensor cores: squares of 8 in f16.
#[cfg(all(test, feature = "vulkan"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use burn::{
        backend::Autodiff,
        tensor::{Int, Tensor, TensorData, TensorPrimitive},
    };
    use burn_flex::Flex;
    use burn_wgpu::Vulkan;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        ExpertWeights, Precision,
        cubecl::{expert_ffn, grouped::Core},
        proof::{Proof, largest_error},
        reference,
        traced::primitive,
    };

    type Cpu = Autodiff<Flex>;

    /// Random arguments of experts, and the gradient of their output.
    struct Case {
        x_td: TensorData,
        gate_edf: TensorData,
        up_edf: TensorData,
        down_efd: TensorData,
        experts_tk: TensorData,
        gates_tk: TensorData,
        dy_td: TensorData,
    }

    impl Case {
        /// Two experts a token, of all but the last one.
        fn new([tokens, model, hidden, experts]: [usize; 4]) -> Self {
            let mut random = StdRng::seed_from_u64(3);
            let routes: Vec<i32> = (0..tokens)
                .flat_map(|_| {
                    let first = random.random_range(0..experts - 1);
                    [first, (first + 1) % (experts - 1)].map(|expert| expert as i32)
                })
                .collect();
            let mut floats = |shape: &[usize], scale: f32| {
                let len = shape.iter().product::<usize>();
                let values: Vec<f32> = (0..len)
                    .map(|_| random.random_range(-scale..scale))
                    .collect();
                TensorData::new(values, shape.to_vec())
            };
            let scale = |inner: usize| (inner as f32).powf(-0.5);
            Self {
                x_td: floats(&[tokens, model], 2.0),
                gate_edf: floats(&[experts, model, hidden], scale(model)),
                up_edf: floats(&[experts, model, hidden], scale(model)),
                down_efd: floats(&[experts, hidden, model], scale(hidden)),
                experts_tk: TensorData::new(routes, [tokens, 2]),
                gates_tk: floats(&[tokens, 2], 1.0),
                dy_td: floats(&[tokens, model], 1.0),
            }
        }

        /// Output and gradients in f32.
        fn expected(&self) -> Vec<Vec<f32>> {
            fn leaf<const D: usize>(data: &TensorData) -> Tensor<Cpu, D> {
                Tensor::from_data(data.clone(), &Default::default()).require_grad()
            }
            let x_td = leaf(&self.x_td);
            let weights = ExpertWeights {
                gate_edf: leaf(&self.gate_edf),
                up_edf: leaf(&self.up_edf),
                down_efd: leaf(&self.down_efd),
            };
            let gates_tk = leaf(&self.gates_tk);
            let y_td = reference::expert_ffn(
                x_td.clone(),
                weights.clone(),
                Tensor::from_data(self.experts_tk.clone(), &Default::default()),
                gates_tk.clone(),
                Precision::F32,
            );
            let dy_td = Tensor::from_data(self.dy_td.clone(), &Default::default());
            let gradients = (y_td.clone() * dy_td).sum().backward();
            let [gate, up, down] = [weights.gate_edf, weights.up_edf, weights.down_efd]
                .map(|weight| weight.grad(&gradients).unwrap().into_data());
            [
                y_td.inner().into_data(),
                x_td.grad(&gradients).unwrap().into_data(),
                gate,
                up,
                down,
                gates_tk.grad(&gradients).unwrap().into_data(),
            ]
            .iter()
            .map(|data| data.to_vec().unwrap())
            .collect()
        }

        /// The same from the kernels, with operands in f16.
        fn found(&self) -> Vec<Vec<f32>> {
            fn on_device<const D: usize>(data: &TensorData) -> CubeTensor<burn_wgpu::WgpuRuntime> {
                primitive(Tensor::<Vulkan, D>::from_data(
                    data.clone(),
                    &Default::default(),
                ))
            }
            let floats = [
                on_device::<2>(&self.x_td),
                on_device::<3>(&self.gate_edf),
                on_device::<3>(&self.up_edf),
                on_device::<3>(&self.down_efd),
            ];
            let experts_tk =
                Tensor::<Vulkan, 2, Int>::from_data(self.experts_tk.clone(), &Default::default());
            let instruction = Instruction::find(&floats[0], DType::F16)
                .expect("the Vulkan driver should have cooperative matrices of f16");
            let inputs = expert_ffn::Inputs::new(
                floats,
                experts_tk.into_primitive(),
                on_device::<2>(&self.gates_tk),
                DType::F16,
                Core::Tensor(instruction),
            );
            let (output, backward) = expert_ffn::traced(inputs);
            let gradients = backward(on_device::<2>(&self.dy_td), [true; 5]);
            [Some(output)]
                .into_iter()
                .chain(gradients)
                .map(|found| {
                    let found = TensorPrimitive::Float(found.unwrap());
                    // The data of a primitive do not ask for its rank.
                    let data = Tensor::<Vulkan, 1>::from_primitive(found).into_data();
                    data.to_vec().unwrap()
                })
                .collect()
        }
    }

    #[test]
    #[ignore = "needs a Vulkan driver with square cooperative matrices of f16, as Mesa 26 has in software: scripts/vulkan_check.sh"]
    fn experts_on_tensor_cores_match_the_reference() {
        for (what, sizes) in [
            ("tiles of 16 rows", [24, 64, 48, 9]),
            ("tiles of 32 rows", [64, 64, 48, 5]),
            ("tiles of 64 rows", [300, 64, 96, 5]),
            ("tiles of 128 rows", [600, 264, 520, 3]),
            ("lines of four", [300, 60, 44, 5]),
            ("lines of two", [300, 62, 42, 5]),
            ("odd lines", [37, 21, 33, 6]),
            ("lines shorter than a fragment", [90, 7, 5, 4]),
        ] {
            let case = Case::new(sizes);
            let error = largest_error(&case.expected(), &case.found());
            println!("{what}: {error:.1e}");
            assert!(error <= Proof::BOUND, "{what}: {error}");
        }
    }
}
