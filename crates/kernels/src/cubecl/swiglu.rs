//! The elementwise middle of an expert, `h = silu(gate) * up`, on sorted rows.

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{array, cubes, elements, empty},
    reduce::cube_sum,
};

/// Units of a cube in the backward pass; one cube a row.
const ROW_UNITS: usize = 64;

/// `silu(gate) * up` as `dtype`, `[R, F]`.
pub fn forward<R: CubeRuntime>(
    gate: &CubeTensor<R>,
    up: &CubeTensor<R>,
    dtype: DType,
) -> CubeTensor<R> {
    let client = &gate.client;
    let len = gate.meta.num_elements();
    let out = empty(gate, gate.meta.shape().clone(), dtype);
    let (count, dim) = elements(client, len);
    forward_kernel::launch::<R>(
        client,
        count,
        dim,
        array(gate),
        array(up),
        array(&out),
        len,
        dtype.into(),
    );
    out
}

/// What [`backward`] finds; all but the last in the order of the sorted rows.
pub struct Backward<R: CubeRuntime> {
    /// Gradient of the gate pre-activations, `[R, F]`.
    pub gate: CubeTensor<R>,
    /// Gradient of the up activations, `[R, F]`.
    pub up: CubeTensor<R>,
    /// `h` times the gate weight of its row, `[R, F]`.
    pub weighted: CubeTensor<R>,
    /// Gradient of the gate weights in the order of the rows, `[R]`, in f32.
    pub gates: CubeTensor<R>,
}

/// The backward pass from `dh = dy * down^T`, not yet weighted by the gates; matrices as `dtype`.
///
/// The gradient of a row's gate weight is the product of its output with `dy`, which is that of `h` with `dh`.
pub fn backward<R: CubeRuntime>(
    [gate, up, dh]: [&CubeTensor<R>; 3],
    gates: &CubeTensor<R>,
    order: &CubeTensor<R>,
    dtype: DType,
) -> Backward<R> {
    let client = &gate.client;
    let [rows, hidden] = [gate.meta.shape()[0], gate.meta.shape()[1]];
    let like_h = || empty(gate, [rows, hidden], dtype);
    let found = Backward {
        gate: like_h(),
        up: like_h(),
        weighted: like_h(),
        gates: empty(gate, gates.meta.shape().clone(), DType::F32),
    };
    // Two kernels: WebGPU promises no more than eight buffers of one, that of the sizes included.
    let (count, dim) = elements(client, rows * hidden);
    inputs_kernel::launch::<R>(
        client,
        count,
        dim,
        array(gate),
        array(up),
        array(dh),
        array(gates),
        array(order),
        array(&found.gate),
        array(&found.up),
        rows * hidden,
        hidden,
        dtype.into(),
    );
    gates_kernel::launch::<R>(
        client,
        cubes(client, rows),
        CubeDim::new_1d(ROW_UNITS as u32),
        array(gate),
        array(up),
        array(dh),
        array(gates),
        array(order),
        array(&found.weighted),
        array(&found.gates),
        rows,
        hidden,
        dtype.into(),
    );
    found
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + f32::exp(-x))
}

#[cube(launch)]
fn forward_kernel<E: Float>(
    gate: &Array<f32>,
    up: &Array<f32>,
    out: &mut Array<E>,
    len: usize,
    #[define(E)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let x = gate[at];
    out[at] = E::cast_from(x * sigmoid(x) * up[at]);
}

/// Gradients of the two factors, an element a unit.
#[cube(launch)]
fn inputs_kernel<E: Float>(
    gate: &Array<f32>,
    up: &Array<f32>,
    dh: &Array<f32>,
    gates: &Array<f32>,
    order: &Array<u32>,
    d_gate: &mut Array<E>,
    d_up: &mut Array<E>,
    len: usize,
    hidden: usize,
    #[define(E)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let x = gate[at];
    let s = sigmoid(x);
    let upstream = gates[order[at / hidden] as usize] * dh[at];
    d_up[at] = E::cast_from(upstream * x * s);
    d_gate[at] = E::cast_from(upstream * up[at] * s * (1.0f32 + x * (1.0f32 - s)));
}

/// `h` times the gate weight of its row, and the gradient of that weight, a cube a row.
#[cube(launch)]
fn gates_kernel<E: Float>(
    gate: &Array<f32>,
    up: &Array<f32>,
    dh: &Array<f32>,
    gates: &Array<f32>,
    order: &Array<u32>,
    weighted: &mut Array<E>,
    d_gates: &mut Array<f32>,
    rows: usize,
    hidden: usize,
    #[define(E)] _dtype: StorageType,
) {
    let place = CUBE_POS;
    if place >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let row = order[place] as usize;
    let weight = gates[row];
    let mut dot = 0.0f32;
    for f in range_stepped(unit, hidden, ROW_UNITS) {
        let at = place * hidden + f;
        let x = gate[at];
        let h = x * sigmoid(x) * up[at];
        dot += h * dh[at];
        weighted[at] = E::cast_from(weight * h);
    }
    let sum = cube_sum(dot, unit, ROW_UNITS);
    if unit == 0 {
        d_gates[row] = sum;
    }
}
