//! All values of every row in descending order, without a sort on the host.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{array, elements, empty};

/// Indices of the values of each row from the largest to the smallest, ties by index, as integers of type `dtype`.
///
/// `scores_te` is contiguous and in f32.
pub fn argsort<R: CubeRuntime>(scores_te: &CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    let client = &scores_te.client;
    let width = scores_te.meta.shape()[1];
    let len = scores_te.meta.num_elements();
    let out = empty(scores_te, scores_te.meta.shape().clone(), dtype);
    let (count, dim) = elements(client, len);
    argsort_kernel::launch::<R>(
        client,
        count,
        dim,
        array(scores_te),
        array(&out),
        len,
        width,
        dtype.into(),
    );
    out
}

/// A number that is larger for a larger value. NaN has its place as well: with it, ranks are still a permutation.
#[cube]
fn order_key(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    if bits >> 31u32 == 0u32 {
        bits | 0x8000_0000u32
    } else {
        !bits
    }
}

/// One unit a value; its rank is the number of values before it.
#[cube(launch)]
fn argsort_kernel<I: Int>(
    scores: &Array<f32>,
    out: &mut Array<I>,
    len: usize,
    width: usize,
    #[define(I)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let index = at % width;
    let first = at - index;
    let key = order_key(scores[at]);
    let mut rank = 0usize;
    for other in 0..width {
        let value = order_key(scores[first + other]);
        if value > key || (value == key && other < index) {
            rank += 1;
        }
    }
    out[first + rank] = I::cast_from(index as u32);
}
