//! Softmax over the logits of the head and over the scores of attention, each with what is done before and after it, so that a
//! block is read once or twice and written once.
//!
//! Logits and scores are in the type of the operands of products; whatever is summed is in f32.

use std::ops::Range;

use burn::tensor::{self, DType, Tensor};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use cubecl::prelude::*;

use super::{
    buffer::{UNITS, array, cubes, elements, empty, units},
    contiguous,
    reduce::{cube_max, cube_sum},
    tensor,
};
use crate::{Precision, blocks::Softmax};

/// Token ids, `[N, J]`.
type Ids<B> = Tensor<B, 2, tensor::Int>;

/// Logits of a row that one cube reads: rows of large vocabularies are few, and have to keep a whole device busy.
const CHUNK: usize = 4096;
/// Units of a cube that has a row of scores.
const ROW_UNITS: usize = 128;
/// Lower than any logit that counts.
const LOWEST: f32 = f32::MIN;

/// The kernels of this file.
pub struct OnCubes;

impl<R, F, I, BT> Softmax<CubeBackend<R, F, I, BT>> for OnCubes
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    fn cross_entropy(
        logits_nv: Tensor<CubeBackend<R, F, I, BT>, 2>,
        ids_nj: Ids<CubeBackend<R, F, I, BT>>,
        weights_nj: Tensor<CubeBackend<R, F, I, BT>, 2>,
        _precision: Precision,
    ) -> (
        Tensor<CubeBackend<R, F, I, BT>, 1>,
        Tensor<CubeBackend<R, F, I, BT>, 2>,
    ) {
        let targets = Targets::new(ids_nj, weights_nj);
        let (loss_n, log_sum_n1) = cross_entropy(&contiguous(logits_nv), &targets);
        (tensor(loss_n), tensor(log_sum_n1))
    }

    fn cross_entropy_backward(
        logits_nv: Tensor<CubeBackend<R, F, I, BT>, 2>,
        log_sum_n1: Tensor<CubeBackend<R, F, I, BT>, 2>,
        ids_nj: Ids<CubeBackend<R, F, I, BT>>,
        weights_nj: Tensor<CubeBackend<R, F, I, BT>, 2>,
        _precision: Precision,
    ) -> Tensor<CubeBackend<R, F, I, BT>, 2> {
        let targets = Targets::new(ids_nj, weights_nj);
        let log_sum_n1 = contiguous(log_sum_n1);
        let logits_nv = contiguous(logits_nv);
        tensor(cross_entropy_backward(&logits_nv, &log_sum_n1, &targets))
    }

    fn causal(
        scores: Tensor<CubeBackend<R, F, I, BT>, 4>,
        positions: Range<usize>,
        _precision: Precision,
    ) -> (
        Tensor<CubeBackend<R, F, I, BT>, 4>,
        Tensor<CubeBackend<R, F, I, BT>, 4>,
    ) {
        let (shares, log_sum) = causal(&contiguous(scores), positions);
        (tensor(shares), tensor(log_sum))
    }

    fn causal_backward(
        scores: Tensor<CubeBackend<R, F, I, BT>, 4>,
        log_sum: Tensor<CubeBackend<R, F, I, BT>, 4>,
        dshares: Tensor<CubeBackend<R, F, I, BT>, 4>,
        delta: Tensor<CubeBackend<R, F, I, BT>, 4>,
        positions: Range<usize>,
        _precision: Precision,
    ) -> [Tensor<CubeBackend<R, F, I, BT>, 4>; 2] {
        let inputs = [scores, log_sum, dshares, delta].map(contiguous);
        causal_backward(inputs.each_ref(), positions).map(tensor)
    }
}

/// Contiguous token ids of any integer type, and their weights in f32, `[N, J]`.
struct Targets<R: CubeRuntime> {
    ids: CubeTensor<R>,
    weights: CubeTensor<R>,
}

impl<R: CubeRuntime> Targets<R> {
    fn new<F: FloatElement, I: IntElement, BT: BoolElement>(
        ids_nj: Ids<CubeBackend<R, F, I, BT>>,
        weights_nj: Tensor<CubeBackend<R, F, I, BT>, 2>,
    ) -> Self {
        Self {
            ids: into_contiguous(ids_nj.into_primitive()),
            weights: contiguous(weights_nj),
        }
    }

    fn count(&self) -> usize {
        self.weights.meta.shape()[1]
    }
}

/// Losses `[N]` and logarithms of the sums of exponentials, `[N, 1]`.
fn cross_entropy<R: CubeRuntime>(
    logits_nv: &CubeTensor<R>,
    targets: &Targets<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let client = &logits_nv.client;
    let [rows, width] = [0, 1].map(|axis| logits_nv.meta.shape()[axis]);
    let chunks = width.div_ceil(CHUNK);
    let maxima = empty(logits_nv, [rows, chunks], DType::F32);
    let sums = empty(logits_nv, [rows, chunks], DType::F32);
    chunks_kernel::launch::<R>(
        client,
        cubes(client, rows * chunks),
        units(),
        array(logits_nv),
        array(&maxima),
        array(&sums),
        rows,
        width,
        logits_nv.dtype.into(),
    );
    let loss_n = empty(logits_nv, [rows], DType::F32);
    let log_sum_n1 = empty(logits_nv, [rows, 1], DType::F32);
    let (count, dim) = elements(client, rows);
    losses_kernel::launch::<R>(
        client,
        count,
        dim,
        array(logits_nv),
        array(&targets.ids),
        array(&targets.weights),
        array(&maxima),
        array(&sums),
        array(&loss_n),
        array(&log_sum_n1),
        rows,
        width,
        targets.count(),
        logits_nv.dtype.into(),
        targets.ids.dtype.into(),
    );
    (loss_n, log_sum_n1)
}

/// Gradient of the logits where that of the losses is in the weights, `[N, V]`.
fn cross_entropy_backward<R: CubeRuntime>(
    logits_nv: &CubeTensor<R>,
    log_sum_n1: &CubeTensor<R>,
    targets: &Targets<R>,
) -> CubeTensor<R> {
    let client = &logits_nv.client;
    let [rows, width] = [0, 1].map(|axis| logits_nv.meta.shape()[axis]);
    let out = empty(logits_nv, [rows, width], logits_nv.dtype);
    let (count, dim) = elements(client, rows * width);
    logits_gradient_kernel::launch::<R>(
        client,
        count,
        dim,
        array(logits_nv),
        array(log_sum_n1),
        array(&targets.ids),
        array(&targets.weights),
        array(&out),
        rows * width,
        width,
        targets.count(),
        logits_nv.dtype.into(),
        targets.ids.dtype.into(),
    );
    out
}

/// Shares of the keys and logarithms of the sums of exponentials; see [`Softmax::causal`].
fn causal<R: CubeRuntime>(
    scores: &CubeTensor<R>,
    positions: Range<usize>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let client = &scores.client;
    let [n, g, rows, keys] = [0, 1, 2, 3].map(|axis| scores.meta.shape()[axis]);
    let shares = empty(scores, [n, g, rows, keys], scores.dtype);
    let log_sum = empty(scores, [n, g, rows, 1], DType::F32);
    causal_kernel::launch::<R>(
        client,
        cubes(client, n * g * rows),
        CubeDim::new_1d(ROW_UNITS as u32),
        array(scores),
        array(&shares),
        array(&log_sum),
        n * g * rows,
        keys,
        positions.start,
        positions.len(),
        scores.dtype.into(),
    );
    (shares, log_sum)
}

/// Shares of the keys and gradient of the scores; see [`Softmax::causal_backward`].
fn causal_backward<R: CubeRuntime>(
    [scores, log_sum, dshares, delta]: [&CubeTensor<R>; 4],
    positions: Range<usize>,
) -> [CubeTensor<R>; 2] {
    let client = &scores.client;
    let shape = scores.meta.shape();
    let (len, keys) = (scores.meta.num_elements(), shape[3]);
    let [shares, dscores] = [(); 2].map(|()| empty(scores, shape.clone(), scores.dtype));
    let (count, dim) = elements(client, len);
    causal_gradient_kernel::launch::<R>(
        client,
        count,
        dim,
        array(scores),
        array(log_sum),
        array(dshares),
        array(delta),
        array(&shares),
        array(&dscores),
        len,
        keys,
        positions.start,
        positions.len(),
        scores.dtype.into(),
    );
    [shares, dscores]
}

/// Largest logit of a chunk of a row, and the sum of exponentials of all over that; a cube a chunk.
#[cube(launch)]
fn chunks_kernel<E: Float>(
    logits: &Array<E>,
    maxima: &mut Array<f32>,
    sums: &mut Array<f32>,
    rows: usize,
    width: usize,
    #[define(E)] _dtype: StorageType,
) {
    let chunks = width.div_ceil(CHUNK);
    let row = CUBE_POS / chunks;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let from = CUBE_POS % chunks * CHUNK;
    let to = min(from + CHUNK, width);
    let mut largest = f32::new(LOWEST);
    for column in range_stepped(from + unit, to, UNITS) {
        largest = max(largest, f32::cast_from(logits[row * width + column]));
    }
    let largest = cube_max(largest, unit, UNITS);
    let mut sum = 0.0f32;
    for column in range_stepped(from + unit, to, UNITS) {
        sum += f32::exp(f32::cast_from(logits[row * width + column]) - largest);
    }
    let sum = cube_sum(sum, unit, UNITS);
    if unit == 0 {
        maxima[CUBE_POS] = largest;
        sums[CUBE_POS] = sum;
    }
}

/// Losses and logarithms of sums from the chunks of every row, a row a unit.
#[cube(launch)]
fn losses_kernel<E: Float, I: Int>(
    logits: &Array<E>,
    ids: &Array<I>,
    weights: &Array<f32>,
    maxima: &Array<f32>,
    sums: &Array<f32>,
    losses: &mut Array<f32>,
    log_sums: &mut Array<f32>,
    rows: usize,
    width: usize,
    targets: usize,
    #[define(E)] _dtype: StorageType,
    #[define(I)] _id_type: StorageType,
) {
    let row = ABSOLUTE_POS;
    if row >= rows {
        terminate!();
    }
    let chunks = width.div_ceil(CHUNK);
    let mut largest = f32::new(LOWEST);
    for chunk in 0..chunks {
        largest = max(largest, maxima[row * chunks + chunk]);
    }
    let mut sum = 0.0f32;
    for chunk in 0..chunks {
        let at = row * chunks + chunk;
        sum += sums[at] * f32::exp(maxima[at] - largest);
    }
    let log_sum = f32::ln(sum) + largest;
    let mut loss = 0.0f32;
    for target in 0..targets {
        let at = row * targets + target;
        let id = u32::cast_from(ids[at]) as usize;
        loss += weights[at] * (log_sum - f32::cast_from(logits[row * width + id]));
    }
    losses[row] = loss;
    log_sums[row] = log_sum;
}

/// `softmax * sum of weights`, less the weights of the targets; an element a unit.
#[cube(launch)]
fn logits_gradient_kernel<E: Float, I: Int>(
    logits: &Array<E>,
    log_sums: &Array<f32>,
    ids: &Array<I>,
    weights: &Array<f32>,
    out: &mut Array<E>,
    len: usize,
    width: usize,
    targets: usize,
    #[define(E)] _dtype: StorageType,
    #[define(I)] _id_type: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let (row, column) = (at / width, at % width);
    let share = f32::exp(f32::cast_from(logits[at]) - log_sums[row]);
    let mut gradient = 0.0f32;
    for target in 0..targets {
        let place = row * targets + target;
        let mut part = share;
        if u32::cast_from(ids[place]) as usize == column {
            part -= 1.0f32;
        }
        gradient += weights[place] * part;
    }
    out[at] = E::cast_from(gradient);
}

/// Softmax over the keys up to the position of the row's query, zero after; a cube a row.
#[cube(launch)]
fn causal_kernel<E: Float>(
    scores: &Array<E>,
    shares: &mut Array<E>,
    log_sums: &mut Array<f32>,
    rows: usize,
    keys: usize,
    first: usize,
    queries: usize,
    #[define(E)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let seen = first + row % queries + 1;
    let start = row * keys;
    let mut largest = f32::new(LOWEST);
    for key in range_stepped(unit, seen, ROW_UNITS) {
        largest = max(largest, f32::cast_from(scores[start + key]));
    }
    let largest = cube_max(largest, unit, ROW_UNITS);
    let mut sum = 0.0f32;
    for key in range_stepped(unit, seen, ROW_UNITS) {
        sum += f32::exp(f32::cast_from(scores[start + key]) - largest);
    }
    let log_sum = f32::ln(cube_sum(sum, unit, ROW_UNITS)) + largest;
    for key in range_stepped(unit, keys, ROW_UNITS) {
        let mut share = 0.0f32;
        if key < seen {
            share = f32::exp(f32::cast_from(scores[start + key]) - log_sum);
        }
        shares[start + key] = E::cast_from(share);
    }
    if unit == 0 {
        log_sums[row] = log_sum;
    }
}

/// The shares again, and `shares * (dshares - delta)`; an element a unit.
#[cube(launch)]
fn causal_gradient_kernel<E: Float>(
    scores: &Array<E>,
    log_sums: &Array<f32>,
    dshares: &Array<E>,
    delta: &Array<f32>,
    shares: &mut Array<E>,
    dscores: &mut Array<E>,
    len: usize,
    keys: usize,
    first: usize,
    queries: usize,
    #[define(E)] _dtype: StorageType,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let (row, key) = (at / keys, at % keys);
    let mut share = 0.0f32;
    if key <= first + row % queries {
        share = f32::exp(f32::cast_from(scores[at]) - log_sums[row]);
    }
    shares[at] = E::cast_from(share);
    dscores[at] = E::cast_from(share * (f32::cast_from(dshares[at]) - delta[row]));
}
