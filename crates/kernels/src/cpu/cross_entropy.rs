//! Output head and cross-entropy in one, forward and backward.
//!
//! Logits are computed in tiles of tokens and vocabulary, and used while they are in cache. They are kept for the
//! backward as they are (probabilities follow from them and the log-sum-exp) unless they are too many; then the
//! backward computes them again, some tokens at a time.

use std::ops::Range;

use super::{
    linear::{View, ViewMut, matmul, matmul_add, matmul_parallel},
    math::{self, LANES, dot, exp, sum_exp},
    memory::{Recycled, Unwritten, zeros},
    parallel::{Disjoint, for_each, for_each_range, range},
    transpose::transpose,
};

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Tokens, `T`.
    pub tokens: usize,
    /// Model width, `D`.
    pub model: usize,
    /// Vocabulary, `V`.
    pub vocabulary: usize,
    /// Targets of a token, `J`.
    pub targets: usize,
}

/// What the operation reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Sizes of everything below.
    pub shape: Shape,
    /// Tokens, `[T, D]`.
    pub x: &'a [f32],
    /// Output head, `[V, D]`.
    pub head: &'a [f32],
    /// Token ids of the targets, `[T, J]`, in `0..V`.
    pub ids: &'a [i32],
    /// Weights of the targets, `[T, J]`.
    pub weights: &'a [f32],
}

/// What [`forward`] keeps for [`backward`].
#[derive(Debug, Clone)]
pub struct Saved {
    /// Logits, `[T, V]`, if they are not too many.
    logits: Option<Recycled>,
    /// Logarithm of the sum of exponentials of every token's logits, `[T]`.
    log_sum_exp: Vec<f32>,
}

/// Most bytes of logits to keep.
const KEEP_BYTES: usize = 64 << 20;
/// Logits at once where they are not kept.
const CHUNK: usize = 1 << 22;
/// Tokens of a tile.
const TILE_TOKENS: usize = 256;
/// Tokens of one task of the forward, where the vocabulary alone makes enough tasks.
const TASK_TOKENS: usize = 1024;
/// Vocabulary of a tile at most.
const TILE_IDS: usize = 512;
/// Tiles that few tokens or a small vocabulary are cut into, so that all threads have work.
const TILES: usize = 8;

/// `loss_t = sum_j weight_tj * -log softmax(x_t head^T)[id_tj]`, `[T]`, and what the backward needs if `keep`.
pub fn forward(inputs: &Inputs, keep: bool) -> (Vec<f32>, Option<Saved>) {
    inputs.check();
    let Shape {
        tokens: t,
        model: d,
        vocabulary: v,
        targets: j,
    } = inputs.shape;
    let keep_logits = keep && t * v * size_of::<f32>() <= KEEP_BYTES;
    let kept = if keep_logits { t * v } else { 0 };
    let mut logits = Unwritten::new(kept);
    let mut partial = vec![Partial::default(); v.div_ceil(TILE_IDS) * t];
    {
        let logits = Disjoint::new(logits.memory(kept));
        let partial = Disjoint::new(&mut partial);
        let id_tiles = v.div_ceil(TILE_IDS);
        let tokens_of_task = if id_tiles < TILES {
            TILE_TOKENS
        } else {
            TASK_TOKENS
        };
        let token_tasks = t.div_ceil(tokens_of_task);
        let tile = if keep_logits {
            0
        } else {
            TILE_TOKENS * TILE_IDS
        };
        let head_stride = TILE_IDS + LANES;
        let scratch = || (Recycled(zeros(tile)), Recycled(zeros(d * head_stride)));
        for_each(id_tiles * token_tasks, scratch, |(tile, head_t), task| {
            let (id_tile, token_task) = (task / token_tasks, task % token_tasks);
            let ids = range(id_tile, TILE_IDS, v);
            let tokens_of_task = range(token_task, tokens_of_task, t);
            let m = ids.len();
            // A transposed copy for all of the task's tokens, as the product reads it fastest.
            transpose(
                View::of_rows(inputs.head, d).rows(ids.clone()),
                head_t,
                head_stride,
            );
            let head_t = View::new(head_t, [d, m], head_stride);
            for index in 0..tokens_of_task.len().div_ceil(TILE_TOKENS) {
                let tokens = range(index, TILE_TOKENS, tokens_of_task.len());
                let tokens = tokens_of_task.start + tokens.start..tokens_of_task.start + tokens.end;
                let n = tokens.len();
                let x = View::of_rows(inputs.x, d).rows(tokens.clone());
                // SAFETY: tiles do not overlap.
                let partial =
                    unsafe { partial.part(id_tile * t + tokens.start..id_tile * t + tokens.end) };
                if keep_logits {
                    let at = tokens.start * v + ids.start;
                    // SAFETY: tiles do not overlap.
                    matmul(x, head_t, unsafe { logits.view(at, [n, m], v) });
                    for (row, partial) in partial.iter_mut().enumerate() {
                        let at = at + row * v;
                        // SAFETY: the product has written the rows of its tile.
                        *partial = reduce(unsafe { logits.written(at..at + m) });
                    }
                } else {
                    let tile = &mut tile[..n * m];
                    matmul(x, head_t, ViewMut::of_rows(tile, m));
                    for (row, partial) in tile.chunks_exact(m).zip(partial) {
                        *partial = reduce(row);
                    }
                }
            }
        });
    }
    let log_sum_exp: Vec<f32> = (0..t)
        .map(|token| Partial::log_sum(partial[token..].iter().step_by(t)))
        .collect();
    let mut loss = vec![0.0; t];
    let parts = Disjoint::new(&mut loss);
    for_each_range(t, TILE_TOKENS, |tokens| {
        // SAFETY: ranges do not overlap.
        let loss = unsafe { parts.part(tokens.clone()) };
        for (loss, token) in loss.iter_mut().zip(tokens) {
            let x = &inputs.x[token * d..(token + 1) * d];
            let targets = token * j..(token + 1) * j;
            for (&id, &weight) in inputs.ids[targets.clone()]
                .iter()
                .zip(&inputs.weights[targets])
            {
                if weight != 0.0 {
                    let id = id as usize;
                    *loss += weight
                        * (log_sum_exp[token] - dot_product(x, &inputs.head[id * d..(id + 1) * d]));
                }
            }
        }
    });
    let saved = keep.then(|| Saved {
        // SAFETY: tiles cover all logits.
        logits: keep_logits.then(|| Recycled(unsafe { logits.written(kept) })),
        log_sum_exp,
    });
    (loss, saved)
}

/// Gradients of `x`, `[T, D]`, and of the head, `[V, D]`, given what [`forward`] kept of the same `inputs` and the
/// gradient of its losses, `dloss: [T]`.
pub fn backward(inputs: &Inputs, saved: &Saved, dloss: &[f32]) -> (Vec<f32>, Vec<f32>) {
    inputs.check();
    let Shape {
        tokens: t,
        model: d,
        vocabulary: v,
        ..
    } = inputs.shape;
    assert_eq!(dloss.len(), t, "dloss: [T]");
    assert_eq!(
        saved.log_sum_exp.len(),
        t,
        "saved by a forward of these shapes"
    );
    let (mut dx, mut dhead) = (zeros(t * d), zeros(v * d));
    let pass = |tokens: Range<usize>, logits: &[f32], dx: &mut [f32], dhead: &mut [f32]| {
        let chunk = Chunk {
            inputs,
            log_sum_exp: &saved.log_sum_exp,
            dloss,
            tokens,
            logits,
        };
        chunk.backward_x(dx);
        chunk.backward_head(dhead);
    };
    if let Some(logits) = &saved.logits {
        assert_eq!(logits.len(), t * v, "saved by a forward of these shapes");
        pass(0..t, logits, &mut dx, &mut dhead);
        return (dx, dhead);
    }
    let size = (CHUNK / v).clamp(1, t.max(1));
    let mut logits = Recycled(zeros(size * v));
    for index in 0..t.div_ceil(size) {
        let tokens = range(index, size, t);
        let logits = &mut logits[..tokens.len() * v];
        let x = View::of_rows(inputs.x, d).rows(tokens.clone());
        matmul_parallel(
            x,
            View::of_rows(inputs.head, d).t(),
            ViewMut::of_rows(logits, v),
        );
        pass(
            tokens.clone(),
            logits,
            &mut dx[tokens.start * d..tokens.end * d],
            &mut dhead,
        );
    }
    (dx, dhead)
}

/// Some tokens in the backward, with their logits.
struct Chunk<'a> {
    inputs: &'a Inputs<'a>,
    log_sum_exp: &'a [f32],
    dloss: &'a [f32],
    tokens: Range<usize>,
    logits: &'a [f32],
}

impl Chunk<'_> {
    /// Adds to the gradient of the chunk's tokens.
    fn backward_x(&self, dx: &mut [f32]) {
        let Shape {
            model: d,
            vocabulary: v,
            ..
        } = self.inputs.shape;
        let dx = Disjoint::new(dx);
        let block = self
            .tokens
            .len()
            .div_ceil(TILES)
            .next_multiple_of(16)
            .min(TILE_TOKENS);
        let scratch = || Recycled(zeros(block * TILE_IDS.min(v)));
        for_each(self.tokens.len().div_ceil(block), scratch, |tile, task| {
            let tokens = range(task, block, self.tokens.len());
            for index in 0..v.div_ceil(TILE_IDS) {
                let ids = range(index, TILE_IDS, v);
                let tile = &mut tile[..tokens.len() * ids.len()];
                self.dlogits(tokens.clone(), ids.clone(), tile);
                let tile = View::of_rows(tile, ids.len());
                let head = View::of_rows(self.inputs.head, d).rows(ids);
                // SAFETY: blocks of tokens do not overlap.
                matmul_add(tile, head, unsafe {
                    dx.view(tokens.start * d, [tokens.len(), d], d)
                });
            }
        });
    }

    /// Adds to the gradient of the head.
    fn backward_head(&self, dhead: &mut [f32]) {
        let Shape {
            model: d,
            vocabulary: v,
            ..
        } = self.inputs.shape;
        let dhead = Disjoint::new(dhead);
        let size = v.div_ceil(TILES).next_multiple_of(16).min(TILE_IDS);
        let scratch = || Recycled(zeros(TILE_TOKENS * size));
        let x = View::of_rows(self.inputs.x, d).rows(self.tokens.clone());
        for_each(v.div_ceil(size), scratch, |tile, task| {
            let ids = range(task, size, v);
            for index in 0..self.tokens.len().div_ceil(TILE_TOKENS) {
                let tokens = range(index, TILE_TOKENS, self.tokens.len());
                let tile = &mut tile[..tokens.len() * ids.len()];
                self.dlogits(tokens.clone(), ids.clone(), tile);
                let tile = View::of_rows(tile, ids.len());
                // SAFETY: tiles of the vocabulary do not overlap.
                let dhead = unsafe { dhead.view(ids.start * d, [ids.len(), d], d) };
                matmul_add(tile.t(), x.rows(tokens), dhead);
            }
        });
    }

    /// Gradients of the logits of `ids` for `tokens` of the chunk.
    fn dlogits(&self, tokens: Range<usize>, ids: Range<usize>, out: &mut [f32]) {
        let Shape {
            vocabulary: v,
            targets: j,
            ..
        } = self.inputs.shape;
        for (token, out) in tokens.zip(out.chunks_exact_mut(ids.len())) {
            let logits = &self.logits[token * v + ids.start..token * v + ids.end];
            let token = self.tokens.start + token;
            let targets = token * j..(token + 1) * j;
            let weights = &self.inputs.weights[targets.clone()];
            let factor = self.dloss[token] * weights.iter().sum::<f32>();
            scaled_exp(logits, self.log_sum_exp[token], factor, out);
            for (&id, weight) in self.inputs.ids[targets].iter().zip(weights) {
                if ids.contains(&(id as usize)) {
                    out[id as usize - ids.start] -= self.dloss[token] * weight;
                }
            }
        }
    }
}

impl Inputs<'_> {
    fn check(&self) {
        let Shape {
            tokens,
            model,
            vocabulary,
            targets,
        } = self.shape;
        assert!(model > 0 && vocabulary > 0, "widths above zero");
        assert_eq!(self.x.len(), tokens * model, "x: [T, D]");
        assert_eq!(self.head.len(), vocabulary * model, "head: [V, D]");
        assert_eq!(self.ids.len(), tokens * targets, "ids: [T, J]");
        assert_eq!(self.weights.len(), tokens * targets, "weights: [T, J]");
    }
}

/// Sum of exponentials of one token's logits in one tile.
#[derive(Debug, Clone, Copy, Default)]
struct Partial {
    max: f32,
    /// Of `exp(logit - max)`.
    sum: f32,
}

impl Partial {
    /// Logarithm of the sum over tiles.
    fn log_sum<'a>(tiles: impl Iterator<Item = &'a Self> + Clone) -> f32 {
        let max = tiles
            .clone()
            .fold(f32::NEG_INFINITY, |max, tile| max.max(tile.max));
        let sum: f32 = tiles.map(|tile| tile.sum * (tile.max - max).exp()).sum();
        max + sum.ln()
    }
}

vectorised! {
    /// Of one row of a tile.
    fn reduce(row: &[f32]) -> Partial {
        let max = math::max(row);
        Partial { max, sum: sum_exp::<FMA>(row, max) }
    }

    /// `out = factor * exp(x - shift)`.
    fn scaled_exp(x: &[f32], shift: f32, factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor * exp::<FMA>(x - shift);
        }
    }

    fn dot_product(a: &[f32], b: &[f32]) -> f32 {
        dot::<FMA>(a, b)
    }
}
