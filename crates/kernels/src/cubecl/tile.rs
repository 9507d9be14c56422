//! Tiles of matrix products: operands in shared memory, a register tile of the result a unit.

use cubecl::prelude::*;

/// Sizes of the tile of one cube: an `m` by `n` result, in steps of `k` of the inner axis.
///
/// `m` and `n` are multiples of `side`, `m * k` and `n * k` of `side * side`. A unit with an 8 by 8 register tile reads
/// 16 values of shared memory for 64 products; with fewer registers, shared memory is the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Step along the inner axis.
    pub k: usize,
    /// Units along each axis of the result.
    pub side: usize,
}

impl Tile {
    /// For few rows an expert.
    pub const ROWS_16: Self = Self::new(16, 64, 16, 8);
    /// Between [`ROWS_16`](Self::ROWS_16) and [`ROWS_64`](Self::ROWS_64).
    pub const ROWS_32: Self = Self::new(32, 64, 16, 8);
    /// The common case.
    pub const ROWS_64: Self = Self::new(64, 64, 16, 8);
    /// For many rows an expert, or large weights.
    pub const ROWS_128: Self = Self::new(128, 128, 8, 16);

    const fn new(m: usize, n: usize, k: usize, side: usize) -> Self {
        Self { m, n, k, side }
    }

    /// The cube of one tile.
    pub fn cube_dim(&self) -> CubeDim {
        CubeDim::new_1d(self.units() as u32)
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        self.side * self.side
    }

    /// The tile for an average of `rows` rows an expert and `columns` columns: few sizes, so that few kernels are
    /// compiled.
    pub fn of_rows(rows: usize, columns: usize) -> Self {
        match rows {
            0..=16 => Self::ROWS_16,
            17..=48 => Self::ROWS_32,
            _ if rows < 256 || columns < 256 => Self::ROWS_64,
            _ => Self::ROWS_128,
        }
    }

    /// The tile for a result of `rows` by `columns`.
    pub fn of_result(rows: usize, columns: usize) -> Self {
        match rows.min(columns) {
            0..256 => Self::ROWS_64,
            _ => Self::ROWS_128,
        }
    }

    /// Elements of the left operand in shared memory, `[k, m]` with one element between rows against bank conflicts.
    pub fn left_len(&self) -> usize {
        self.k * (self.m + 1)
    }

    /// Elements of the right operand in shared memory, `[k, n]`.
    pub fn right_len(&self) -> usize {
        self.k * (self.n + 1)
    }

    /// Elements of the result that one unit holds.
    pub fn register_len(&self) -> usize {
        self.m / self.side * (self.n / self.side)
    }

    /// Elements of the left operand that one unit loads.
    pub fn left_loads(&self) -> usize {
        self.m * self.k / self.units()
    }

    /// Elements of the right operand that one unit loads.
    pub fn right_loads(&self) -> usize {
        self.n * self.k / self.units()
    }
}

/// The register tile of a unit, zeroed. Element `(i, j)` is row `unit / side + i * side` and column
/// `unit % side + j * side` of the result.
#[cube]
pub fn zeroed(#[comptime] tile: Tile) -> Array<f32> {
    let len = comptime!(tile.register_len());
    let mut result = Array::<f32>::new(len);
    #[unroll]
    for i in 0..len {
        result[i] = 0.0f32;
    }
    result
}

/// Adds the product of the two shared tiles to the register tile.
#[cube]
pub fn multiply_add(
    left: &SharedMemory<f32>,
    right: &SharedMemory<f32>,
    result: &mut Array<f32>,
    unit: usize,
    #[comptime] tile: Tile,
) {
    let rows = comptime!(tile.m / tile.side);
    let columns = comptime!(tile.n / tile.side);
    let (row, column) = (unit / tile.side, unit % tile.side);
    let mut left_registers = Array::<f32>::new(rows);
    let mut right_registers = Array::<f32>::new(columns);
    for k in 0..tile.k {
        #[unroll]
        for i in 0..rows {
            left_registers[i] = left[k * comptime!(tile.m + 1) + row + i * tile.side];
        }
        #[unroll]
        for j in 0..columns {
            right_registers[j] = right[k * comptime!(tile.n + 1) + column + j * tile.side];
        }
        #[unroll]
        for i in 0..rows {
            #[unroll]
            for j in 0..columns {
                result[i * columns + j] += left_registers[i] * right_registers[j];
            }
        }
    }
}
