//! Routed rows sorted by expert, and the row blocks of the grouped products; all of it stays on the device.

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{array, elements, empty_indices},
    scan::exclusive_scan,
    sort::{Digit, Sorted, sort_by_digit},
};

/// Routed rows (`R = T * K`) sorted by expert.
#[derive(Clone)]
pub struct Routing<R: CubeRuntime> {
    /// First sorted row of every expert, and the end of the last, `[E + 1]`.
    pub offsets: CubeTensor<R>,
    /// Row at each sorted place, `[R]`.
    pub order: CubeTensor<R>,
    /// Token of the row at each sorted place, `[R]`.
    pub tokens: CubeTensor<R>,
    /// Sorted place of each row, `[R]`.
    pub inverse: CubeTensor<R>,
}

impl<R: CubeRuntime> Routing<R> {
    /// Sorts the rows whose experts are `experts_r` (any integers in `0..experts`), `top_k` rows a token.
    pub fn new(experts_r: &CubeTensor<R>, top_k: usize, experts: usize) -> Self {
        let digit = Digit {
            shift: 0,
            buckets: experts,
        };
        let Sorted { order, offsets } = sort_by_digit(experts_r, None, digit);
        let (client, rows) = (&experts_r.client, experts_r.meta.num_elements());
        let tokens = empty_indices(experts_r, rows);
        let inverse = empty_indices(experts_r, rows);
        let (count, dim) = elements(client, rows);
        invert_kernel::launch::<R>(
            client,
            count,
            dim,
            array(&order),
            array(&tokens),
            array(&inverse),
            rows,
            top_k,
        );
        Self {
            offsets,
            order,
            tokens,
            inverse,
        }
    }

    /// Routed rows.
    pub fn rows(&self) -> usize {
        self.order.meta.num_elements()
    }

    /// Experts.
    pub fn experts(&self) -> usize {
        self.offsets.meta.num_elements() - 1
    }
}

/// Tokens of the sorted rows, and the inverse of a permutation.
#[cube(launch)]
fn invert_kernel(
    order: &Array<u32>,
    tokens: &mut Array<u32>,
    inverse: &mut Array<u32>,
    rows: usize,
    top_k: usize,
) {
    let place = ABSOLUTE_POS;
    if place >= rows {
        terminate!();
    }
    let row = order[place] as usize;
    tokens[place] = (row / top_k) as u32;
    inverse[row] = place as u32;
}

/// Blocks of sorted rows, each of one expert.
#[derive(Clone)]
pub struct Blocks<R: CubeRuntime> {
    /// Upper bound of the number of blocks that the host knows; the surplus blocks are empty.
    pub count: usize,
    /// Expert of every block, `[count]`; `E` for an empty block.
    pub experts: CubeTensor<R>,
    /// First sorted row of every block, `[count]`.
    pub rows: CubeTensor<R>,
}

impl<R: CubeRuntime> Blocks<R> {
    /// Cuts the rows of every expert into blocks of at most `size`.
    pub fn new(routing: &Routing<R>, size: usize) -> Self {
        let (rows, experts) = (routing.rows(), routing.experts());
        let count = rows.div_ceil(size) + experts.min(rows);
        let like = &routing.offsets;
        let client = &like.client;

        let first_blocks = empty_indices(like, experts + 1);
        let (grid, dim) = elements(client, experts + 1);
        block_count_kernel::launch::<R>(
            client,
            grid,
            dim,
            array(&routing.offsets),
            array(&first_blocks),
            experts,
            size,
        );
        exclusive_scan(&first_blocks, &empty_indices(like, 1), [1, experts + 1]);

        let block_experts = empty_indices(like, count);
        let block_rows = empty_indices(like, count);
        let (grid, dim) = elements(client, count);
        block_kernel::launch::<R>(
            client,
            grid,
            dim,
            array(&routing.offsets),
            array(&first_blocks),
            array(&block_experts),
            array(&block_rows),
            count,
            experts,
            size,
        );
        Self {
            count,
            experts: block_experts,
            rows: block_rows,
        }
    }
}

/// Number of blocks of every expert, and a zero after the last.
#[cube(launch)]
fn block_count_kernel(offsets: &Array<u32>, counts: &mut Array<u32>, experts: usize, size: usize) {
    let expert = ABSOLUTE_POS;
    if expert > experts {
        terminate!();
    }
    let mut count = 0usize;
    if expert < experts {
        let rows = offsets[expert + 1] - offsets[expert];
        count = (rows as usize).div_ceil(size);
    }
    counts[expert] = count as u32;
}

/// Expert and first row of every block; a block finds its expert by bisection.
#[cube(launch)]
fn block_kernel(
    offsets: &Array<u32>,
    first_blocks: &Array<u32>,
    block_experts: &mut Array<u32>,
    block_rows: &mut Array<u32>,
    count: usize,
    experts: usize,
    size: usize,
) {
    let block = ABSOLUTE_POS;
    if block >= count {
        terminate!();
    }
    // The number of experts whose blocks end at or before this one.
    let mut low = 0usize;
    let mut high = experts;
    while low < high {
        let middle = (low + high) / 2;
        if first_blocks[middle + 1] as usize <= block {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    block_experts[block] = low as u32;
    let mut row = 0usize;
    if low < experts {
        row = offsets[low] as usize + (block - first_blocks[low] as usize) * size;
    }
    block_rows[block] = row as u32;
}
