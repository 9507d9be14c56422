//! Sorted rows back to tokens: a gather, so that the sum has one order.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{array, elements, empty};

/// `y[t] = sum_k gates[t, k] * rows[place of (t, k)]`, `[T, D]`; without gates all weights are 1.
pub fn combine<R: CubeRuntime>(
    rows_rd: &CubeTensor<R>,
    inverse: &CubeTensor<R>,
    gates: Option<&CubeTensor<R>>,
    [tokens, top_k]: [usize; 2],
) -> CubeTensor<R> {
    let client = &rows_rd.client;
    let width = rows_rd.meta.shape()[1];
    let out = empty(rows_rd, [tokens, width], DType::F32);
    let (count, dim) = elements(client, tokens * width);
    combine_kernel::launch::<R>(
        client,
        count,
        dim,
        array(rows_rd),
        array(inverse),
        // Without gates the argument is never read.
        array(gates.unwrap_or(rows_rd)),
        array(&out),
        tokens * width,
        width,
        top_k,
        gates.is_some(),
    );
    out
}

#[cube(launch)]
fn combine_kernel(
    rows: &Array<f32>,
    inverse: &Array<u32>,
    gates: &Array<f32>,
    out: &mut Array<f32>,
    len: usize,
    width: usize,
    top_k: usize,
    #[comptime] weighted: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let (token, column) = (at / width, at % width);
    let mut sum = 0.0f32;
    for k in 0..top_k {
        let row = token * top_k + k;
        let value = rows[inverse[row] as usize * width + column];
        if weighted {
            sum += gates[row] * value;
        } else {
            sum += value;
        }
    }
    out[at] = sum;
}
