//! Causal grouped-query attention, forward and backward.
//!
//! Works in strips: a block of consecutive queries of one head against all keys up to the last of them, so that
//! scores never exist for more than one strip a thread. The backward computes them again from the log-sum-exp.

use std::mem::MaybeUninit;

use super::{
    linear::{matmul, matmul_add},
    math::{LANES, NARROW, exp, fma, larger, ln, max_lanes, sum_lanes},
    memory::{Scratch, Unwritten, filled},
    parallel::{Disjoint, for_each, range},
    transpose::transpose,
    view::{View, ViewMut},
};

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Sequences, `B`.
    pub batch: usize,
    /// Positions of a sequence, `S`.
    pub positions: usize,
    /// Query heads, `H`, a multiple of `G`.
    pub heads: usize,
    /// Key-value heads, `G`.
    pub groups: usize,
    /// Head width, `C`.
    pub width: usize,
}

/// What the operation reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Sizes of everything below.
    pub shape: Shape,
    /// Queries, `[B, S, H, C]`.
    pub q: &'a [f32],
    /// Keys, `[B, S, G, C]`.
    pub k: &'a [f32],
    /// Values, `[B, S, G, C]`.
    pub v: &'a [f32],
}

/// What [`forward`] computes.
#[derive(Debug, Clone)]
pub struct Output {
    /// Result, `[B, S, H, C]`.
    pub out: Vec<f32>,
    /// Logarithm of the sum of exponentials of the scaled scores, `[B, H, S]`; [`backward`] needs it.
    pub log_sum_exp: Vec<f32>,
}

/// Gradients of the inputs, in their shapes.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// Of the queries.
    pub q: Vec<f32>,
    /// Of the keys.
    pub k: Vec<f32>,
    /// Of the values.
    pub v: Vec<f32>,
}

/// Queries of one strip.
const STRIP: usize = 48;

/// Causal attention of every query to the keys up to its own position, scores scaled by `1 / sqrt(C)`.
pub fn forward(inputs: &Inputs) -> Output {
    inputs.check();
    let shape = inputs.shape;
    let Shape {
        batch,
        positions: s,
        heads,
        width: c,
        ..
    } = shape;
    let keys_t = transposed(inputs.k, shape);
    let mut log_sum_exp = vec![0.0; batch * heads * s];
    let attend = |out: Disjoint<MaybeUninit<f32>>| {
        let log_sum_exp = Disjoint::new(&mut log_sum_exp);
        let strips = s.div_ceil(STRIP);
        let scratch = || Scratch::new([STRIP * padded(s), STRIP * c, STRIP]);
        for_each(strips * batch * heads, scratch, |scratch, task| {
            // The last strips of a head have the most keys and come first.
            let (strip, b, h) = (
                strips - 1 - task % strips,
                task / strips / heads,
                task / strips % heads,
            );
            let queries = range(strip, STRIP, s);
            let (n, keys) = (queries.len(), queries.end);
            let ld = padded(keys);
            let [scores, values, sums] = scratch.parts([n * ld, n * c, n]);
            let q = inputs.queries(inputs.q, b, h).rows(queries.clone());
            let at = (b * heads + h) * s;
            // SAFETY: the queries of a strip are its own.
            let log_sum_exp = unsafe { log_sum_exp.part(at + queries.start..at + queries.end) };

            matmul(
                q,
                shape.keys_t(&keys_t, b, h).cols(0..keys),
                strip_view(scores, keys, ld),
            );
            softmax(scores, ld, queries.start, shape.scale(), sums, log_sum_exp);
            let weights = View::new(scores, [n, keys], ld);
            matmul(
                weights,
                inputs.keys(inputs.v, b, h).rows(0..keys),
                ViewMut::of_rows(values, c),
            );
            let at = shape.at(b, queries.start, h);
            // SAFETY: the queries of a strip are its own.
            let out = unsafe { out.view(at, [n, c], heads * c) };
            normalised(values, sums, out);
        });
    };
    // SAFETY: strips cover all queries of all heads.
    let out = unsafe { filled(inputs.q.len(), attend) };
    Output { out, log_sum_exp }
}

/// Gradients, given what [`forward`] computed from the same `inputs` and the gradient of its `out`.
pub fn backward(inputs: &Inputs, out: &[f32], log_sum_exp: &[f32], dout: &[f32]) -> Gradients {
    inputs.check();
    let shape = inputs.shape;
    let Shape {
        batch,
        positions: s,
        heads,
        groups,
        width: c,
    } = shape;
    assert_eq!(dout.len(), inputs.q.len(), "dout: [B, S, H, C]");
    assert_eq!(out.len(), inputs.q.len(), "out: [B, S, H, C]");
    assert_eq!(
        log_sum_exp.len(),
        batch * heads * s,
        "log_sum_exp: [B, H, S]"
    );
    let (keys_t, values_t) = (transposed(inputs.k, shape), transposed(inputs.v, shape));
    let mut gradients = [inputs.q, inputs.k, inputs.v].map(|input| Unwritten::new(input.len()));
    {
        let [dq, dk, dv] = gradients.each_mut().map(Unwritten::parts);
        let strip = STRIP * padded(s);
        let scratch = || Scratch::new([strip, strip, STRIP]);
        let tasks = if s == 0 { 0 } else { batch * groups };
        for_each(tasks, scratch, |scratch, task| {
            let (b, g) = (task / groups, task % groups);
            let of_group = g * (heads / groups)..(g + 1) * (heads / groups);
            for h in of_group.clone() {
                // The last strip sees all keys: with it their gradients begin.
                let last = s.div_ceil(STRIP) - 1;
                for index in (0..=last).rev() {
                    let begins = h == of_group.start && index == last;
                    let queries = range(index, STRIP, s);
                    let (n, keys) = (queries.len(), queries.end);
                    let ld = padded(keys);
                    let [scores, dscores, delta] = scratch.parts([n * ld, n * ld, n]);
                    let q = inputs.queries(inputs.q, b, h).rows(queries.clone());
                    let dout_view = inputs.queries(dout, b, h).rows(queries.clone());
                    let at = shape.at(b, queries.start, h);
                    dot_rows(&out[at..], &dout[at..], c, heads * c, delta);
                    let at = (b * heads + h) * s;
                    let log_sum_exp = &log_sum_exp[at + queries.start..at + queries.end];

                    matmul(
                        q,
                        shape.keys_t(&keys_t, b, h).cols(0..keys),
                        strip_view(scores, keys, ld),
                    );
                    matmul(
                        dout_view,
                        shape.keys_t(&values_t, b, h).cols(0..keys),
                        strip_view(dscores, keys, ld),
                    );
                    softmax_backward(
                        scores,
                        dscores,
                        ld,
                        queries.start,
                        shape.scale(),
                        delta,
                        log_sum_exp,
                    );
                    let weights = View::new(scores, [n, keys], ld);
                    let dscores = View::new(dscores, [n, keys], ld);
                    // SAFETY: a task owns the keys and values of its group, all of which its first strip writes, and the queries
                    // of its heads.
                    unsafe {
                        let (row, at) = (groups * c, shape.key_at(b, 0, g));
                        let [dv, dk] = [&dv, &dk].map(|to| to.view(at, [keys, c], row));
                        if begins {
                            matmul(weights.t(), dout_view, dv);
                            matmul(dscores.t(), q, dk);
                        } else {
                            matmul_add(weights.t(), dout_view, dv.assume_written());
                            matmul_add(dscores.t(), q, dk.assume_written());
                        }
                        let at = shape.at(b, queries.start, h);
                        let k = inputs.keys(inputs.k, b, h).rows(0..keys);
                        matmul(dscores, k, dq.view(at, [n, c], heads * c));
                    }
                }
            }
        });
    }
    // SAFETY: every group has its keys and values written, and the queries of its heads; without positions there are none.
    let [q, k, v] = gradients.map(|gradient| unsafe { gradient.written() });
    Gradients { q, k, v }
}

/// By the number of the last visible lane: zero up to it, negative infinity behind.
static HIDDEN: [[f32; LANES]; LANES] = {
    let mut hidden = [[0.0; LANES]; LANES];
    let mut index = 0;
    while index < LANES * LANES {
        let (last, lane) = (index / LANES, index % LANES);
        if lane > last {
            hidden[last][lane] = f32::NEG_INFINITY;
        }
        index += 1;
    }
    hidden
};

/// Hides the keys behind query number `last` in its row of scores.
///
/// Returns the part of the row with visible keys, hidden ones in it being negative infinity, and the rest.
#[inline(always)]
fn hide(scores: &mut [f32], last: usize) -> (&mut [[f32; LANES]], &mut [[f32; LANES]]) {
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let (visible, hidden) = chunks.split_at_mut((last / LANES + 1).min(chunks.len()));
    if let Some(diagonal) = visible.last_mut() {
        let (scores, hidden) = (*diagonal, HIDDEN[last % LANES]);
        *diagonal = std::array::from_fn(|l| scores[l] + hidden[l]);
    }
    (visible, hidden)
}

vectorised! {
    /// Turns raw scores in rows of `ld`, the first of query number `first`, into exponentials that still have to be
    /// divided by `sums`; zero for keys behind the query.
    fn softmax(scores: &mut [f32], ld: usize, first: usize, scale: f32, sums: &mut [f32], log_sum_exp: &mut [f32]) {
        // Pass by pass: within one pass rows do not wait for one another.
        for (row, (scores, max)) in scores.chunks_exact_mut(ld).zip(log_sum_exp.iter_mut()).enumerate() {
            let (visible, hidden) = hide(scores, first + row);
            hidden.as_flattened_mut().fill(0.0);
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in visible {
                for l in 0..LANES {
                    lanes[l] = larger(chunk[l], lanes[l]);
                }
            }
            *max = max_lanes(lanes) * scale;
        }
        for (row, (scores, sum)) in scores.chunks_exact_mut(ld).zip(sums.iter_mut()).enumerate() {
            let (max, visible) = (log_sum_exp[row], (first + row) / LANES + 1);
            let mut lanes = [0.0; LANES];
            for chunk in scores.as_chunks_mut::<LANES>().0.iter_mut().take(visible) {
                for l in 0..LANES {
                    chunk[l] = exp::<FMA>(fma::<FMA>(chunk[l], scale, -max));
                    lanes[l] += chunk[l];
                }
            }
            *sum = sum_lanes(lanes);
        }
        for (log_sum_exp, sum) in log_sum_exp.iter_mut().zip(sums) {
            *log_sum_exp += ln::<FMA>(*sum);
        }
    }

    /// Turns raw scores into attention weights, and the gradients of weights in `dscores` into those of raw scores.
    fn softmax_backward(scores: &mut [f32], dscores: &mut [f32], ld: usize, first: usize, scale: f32, delta: &[f32], log_sum_exp: &[f32]) {
        let rows = scores.chunks_exact_mut(ld).zip(dscores.chunks_exact_mut(ld));
        for (row, (scores, dscores)) in rows.enumerate() {
            let (delta, log_sum_exp) = (delta[row], log_sum_exp[row]);
            let (visible, hidden) = hide(scores, first + row);
            hidden.as_flattened_mut().fill(0.0);
            let (dvisible, dhidden) = dscores.as_chunks_mut::<LANES>().0.split_at_mut(visible.len());
            dhidden.as_flattened_mut().fill(0.0);
            for (scores, dscores) in visible.iter_mut().zip(dvisible) {
                for l in 0..LANES {
                    let weight = exp::<FMA>(fma::<FMA>(scores[l], scale, -log_sum_exp));
                    scores[l] = weight;
                    dscores[l] = weight * (dscores[l] - delta) * scale;
                }
            }
        }
    }

    /// Rows of values over the sums of their weights.
    fn normalised(values: &[f32], sums: &[f32], out: ViewMut) {
        let mut out = out;
        for (row, (values, sum)) in values.chunks_exact(out.shape[1]).zip(sums).enumerate() {
            let factor = 1.0 / sum;
            for (out, value) in out.row(row).iter_mut().zip(values) {
                out.write(value * factor);
            }
        }
    }

    /// Dot products of rows of `width` that start `stride` apart.
    fn dot_rows(a: &[f32], b: &[f32], width: usize, stride: usize, out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(a.chunks(stride)).zip(b.chunks(stride)) {
            *out = dot_narrow::<FMA>(&a[..width], &b[..width]);
        }
    }
}

/// Dot product of slices that are often no longer than a few vectors.
#[inline(always)]
fn dot_narrow<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<NARROW>(), b.as_chunks::<NARROW>());
    let mut lanes = [0.0; NARROW];
    for (a, b) in a.iter().zip(b) {
        for l in 0..NARROW {
            lanes[l] = fma::<FMA>(a[l], b[l], lanes[l]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = fma::<FMA>(*a, *b, *lane);
    }
    let halves: [f32; NARROW / 2] = std::array::from_fn(|l| lanes[l] + lanes[l + NARROW / 2]);
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}

/// Row stride of a strip: whole vectors.
fn padded(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

/// The first `keys` columns of rows of `ld`.
fn strip_view(scores: &mut [f32], keys: usize, ld: usize) -> ViewMut<'_> {
    ViewMut::of_rows(scores, ld).first_cols(keys)
}

/// Keys or values as `[B, G, C, S']` with `S'` [`padded`]: the layout that products with them read fastest.
fn transposed(keys: &[f32], shape: Shape) -> Vec<f32> {
    let Shape {
        batch,
        positions: s,
        groups,
        width: c,
        ..
    } = shape;
    let ld = padded(s);
    let tasks = if s == 0 { 0 } else { batch * groups };
    let transpose_all = |parts: Disjoint<MaybeUninit<f32>>| {
        for_each(
            tasks,
            || (),
            |(), task| {
                let (b, g) = (task / groups, task % groups);
                // SAFETY: one part a task.
                let part = unsafe { parts.cleared(task * c * ld..(task + 1) * c * ld) };
                let keys = View::new(&keys[shape.key_at(b, 0, g)..], [s, c], groups * c);
                transpose(keys, part, ld);
            },
        );
    };
    // SAFETY: tasks cover all of it, which is nothing without positions.
    unsafe { filled(batch * groups * c * ld, transpose_all) }
}

impl Shape {
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Offset of a head at a position in `[B, S, H, C]`.
    fn at(&self, b: usize, position: usize, h: usize) -> usize {
        ((b * self.positions + position) * self.heads + h) * self.width
    }

    /// Offset of a key-value head at a position in `[B, S, G, C]`.
    fn key_at(&self, b: usize, position: usize, g: usize) -> usize {
        ((b * self.positions + position) * self.groups + g) * self.width
    }

    /// Transposed keys or values of head `h`, `[C, S]`.
    fn keys_t<'a>(&self, keys_t: &'a [f32], b: usize, h: usize) -> View<'a> {
        let ld = padded(self.positions);
        let g = h / (self.heads / self.groups);
        let at = (b * self.groups + g) * self.width * ld;
        View::new(&keys_t[at..], [self.width, self.positions], ld)
    }
}

impl Inputs<'_> {
    fn check(&self) {
        let Shape {
            batch,
            positions,
            heads,
            groups,
            width,
        } = self.shape;
        assert!(
            heads > 0 && groups > 0 && heads.is_multiple_of(groups) && width > 0,
            "query heads are a multiple of key-value heads"
        );
        assert_eq!(
            self.q.len(),
            batch * positions * heads * width,
            "q: [B, S, H, C]"
        );
        assert_eq!(
            self.k.len(),
            batch * positions * groups * width,
            "k: [B, S, G, C]"
        );
        assert_eq!(
            self.v.len(),
            batch * positions * groups * width,
            "v: [B, S, G, C]"
        );
    }

    /// One head of a `[B, S, H, C]` slice, as `[S, C]`.
    fn queries<'a>(&self, all: &'a [f32], b: usize, h: usize) -> View<'a> {
        let Shape {
            positions,
            heads,
            width,
            ..
        } = self.shape;
        let at = self.shape.at(b, 0, h).min(all.len());
        View::new(&all[at..], [positions, width], heads * width)
    }

    /// The key-value head of head `h` in a `[B, S, G, C]` slice, as `[S, C]`.
    fn keys<'a>(&self, all: &'a [f32], b: usize, h: usize) -> View<'a> {
        let Shape {
            positions,
            heads,
            groups,
            width,
            ..
        } = self.shape;
        let at = self.shape.key_at(b, 0, h / (heads / groups)).min(all.len());
        View::new(&all[at..], [positions, width], groups * width)
    }
}
