//! Rotary position embedding, forward and backward.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{array, elements, empty};

/// Direction of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// By the angles.
    Forward,
    /// By the negated angles: the backward pass.
    Backward,
}

/// Rotates the halves of `[B, S, H, C]` by angles `[S, C / 2]`; all contiguous and in f32.
pub fn rotate<R: CubeRuntime>(
    x_bshc: &CubeTensor<R>,
    cos_sc: &CubeTensor<R>,
    sin_sc: &CubeTensor<R>,
    turn: Turn,
) -> CubeTensor<R> {
    let client = &x_bshc.client;
    let [positions, heads, width] = [1, 2, 3].map(|axis| x_bshc.meta.shape()[axis]);
    let out = empty(x_bshc, x_bshc.meta.shape().clone(), DType::F32);
    let pairs = x_bshc.meta.num_elements() / 2;
    let (count, dim) = elements(client, pairs);
    rotate_kernel::launch::<R>(
        client,
        count,
        dim,
        array(x_bshc),
        array(cos_sc),
        array(sin_sc),
        array(&out),
        pairs,
        positions,
        heads,
        width / 2,
        turn,
    );
    out
}

/// One unit a pair of channels.
#[cube(launch)]
fn rotate_kernel(
    x: &Array<f32>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    out: &mut Array<f32>,
    pairs: usize,
    positions: usize,
    heads: usize,
    half: usize,
    #[comptime] turn: Turn,
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
    let (row, channel) = (pair / half, pair % half);
    let position = row / heads % positions;
    let c = cos[position * half + channel];
    let mut s = sin[position * half + channel];
    if comptime!(turn == Turn::Backward) {
        s = -s;
    }
    let left_at = row * 2 * half + channel;
    let left = x[left_at];
    let right = x[left_at + half];
    out[left_at] = left * c - right * s;
    out[left_at + half] = right * c + left * s;
}
