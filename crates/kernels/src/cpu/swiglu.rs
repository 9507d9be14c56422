//! SwiGLU of a block of rows, forward and backward.

use super::math::{LANES, fma, sigmoid, sum_lanes};

vectorised! {
    /// `out = silu(gate) * up`.
    pub(crate) fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid::<FMA>(*gate) * up;
        }
    }

    /// Backward of `h = silu(gate) * up` in rows of `weights.len()` weighted rows, all buffers `[rows, F]`.
    ///
    /// `dh_dup` holds the gradient of `weight * h` before the weight is applied, and receives the gradient of `up`;
    /// `h` receives `weight * h`, `dgate` the gradient of `gate`, and `dweights` that of the weights.
    pub(crate) fn backward(gate: &[f32], up: &[f32], weights: &[f32], dh_dup: &mut [f32], h: &mut [f32], dgate: &mut [f32], dweights: &mut [f32]) {
        let rows = weights.len();
        if rows == 0 {
            return;
        }
        let f = gate.len() / rows;
        for row in 0..rows {
            let at = row * f..(row + 1) * f;
            dweights[row] = backward_row::<FMA>(
                (&gate[at.clone()], &up[at.clone()], weights[row]),
                &mut dh_dup[at.clone()],
                &mut h[at.clone()],
                &mut dgate[at],
            );
        }
    }
}

/// One row of [`backward`]; returns the gradient of the weight.
#[inline(always)]
fn backward_row<const FMA: bool>(
    (gate, up, weight): (&[f32], &[f32], f32),
    dh_dup: &mut [f32],
    h: &mut [f32],
    dgate: &mut [f32],
) -> f32 {
    let mut lanes = [0.0; LANES];
    let (gate_chunks, gate_rest) = gate.as_chunks::<LANES>();
    let (up_chunks, up_rest) = up.as_chunks::<LANES>();
    let (d_chunks, d_rest) = dh_dup.as_chunks_mut::<LANES>();
    let (h_chunks, h_rest) = h.as_chunks_mut::<LANES>();
    let (dg_chunks, dg_rest) = dgate.as_chunks_mut::<LANES>();
    let chunks = gate_chunks
        .iter()
        .zip(up_chunks)
        .zip(d_chunks)
        .zip(h_chunks)
        .zip(dg_chunks);
    for ((((gate, up), d), h), dg) in chunks {
        for l in 0..LANES {
            let dh = d[l];
            let one = backward_one::<FMA>(gate[l], up[l], weight, dh);
            lanes[l] = fma::<FMA>(one.h, dh, lanes[l]);
            (h[l], dg[l], d[l]) = (weight * one.h, one.dgate, one.dup);
        }
    }
    for (l, (gate, up)) in gate_rest.iter().zip(up_rest).enumerate() {
        let dh = d_rest[l];
        let one = backward_one::<FMA>(*gate, *up, weight, dh);
        lanes[l] = fma::<FMA>(one.h, dh, lanes[l]);
        (h_rest[l], dg_rest[l], d_rest[l]) = (weight * one.h, one.dgate, one.dup);
    }
    sum_lanes(lanes)
}

struct One {
    h: f32,
    dgate: f32,
    dup: f32,
}

#[inline(always)]
fn backward_one<const FMA: bool>(gate: f32, up: f32, weight: f32, dh: f32) -> One {
    let s = sigmoid::<FMA>(gate);
    let silu = gate * s;
    let weighted = weight * dh;
    One {
        h: silu * up,
        dgate: weighted * up * fma::<FMA>(silu, 1.0 - s, s),
        dup: weighted * silu,
    }
}
