//! Output head and cross-entropy in one, forward and backward.
//!
//! Logits are computed in tiles of tokens and vocabulary, and turned into exponentials while they are in cache, each
//! token's relative to its maximum in the tile. These are kept for the backward (a factor a token and tile makes them
//! probabilities) unless they are too many; then the backward computes them again, some tokens at a time.

use std::{mem::MaybeUninit, ops::Range};

use super::{
    linear::{matmul, matmul_add},
    math::{self, LANES, dot, exp, scaled, sum_lanes},
    memory::{Scratch, Unwritten, filled},
    parallel::{Disjoint, for_each, for_each_range, range},
    transpose::transpose,
    view::{View, ViewMut},
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
    /// Exponentials of the logits over the maximum of their tile, `[T, V]`, if they are not too many.
    exponentials: Option<Vec<f32>>,
    /// Maxima and sums, `[V / TILE_IDS, T]`.
    partial: Vec<Partial>,
    /// Logarithm of the sum of exponentials of every token's logits, `[T]`.
    log_sum_exp: Vec<f32>,
}

/// Most bytes of exponentials to keep.
const KEEP_BYTES: usize = 64 << 20;
/// Exponentials at once in a backward where they are not kept.
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
    let saved = reduce(inputs, keep && t * v * size_of::<f32>() <= KEEP_BYTES);
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
                        * (saved.log_sum_exp[token]
                            - dot_product(x, &inputs.head[id * d..(id + 1) * d]));
                }
            }
        }
    });
    (loss, keep.then_some(saved))
}

/// Sums of exponentials of the logits, and these themselves if `keep`.
fn reduce(inputs: &Inputs, keep: bool) -> Saved {
    let Shape {
        tokens: t,
        model: d,
        vocabulary: v,
        ..
    } = inputs.shape;
    let kept = if keep { t * v } else { 0 };
    let mut all = Unwritten::new(kept);
    let mut partial = vec![Partial::default(); v.div_ceil(TILE_IDS) * t];
    {
        let all = all.parts();
        let partial = Disjoint::new(&mut partial);
        let id_tiles = v.div_ceil(TILE_IDS);
        let tokens_of_task = if id_tiles < TILES {
            TILE_TOKENS
        } else {
            TASK_TOKENS
        };
        let token_tasks = t.div_ceil(tokens_of_task);
        let tile = if keep { 0 } else { TILE_TOKENS * TILE_IDS };
        let head_stride = TILE_IDS + LANES;
        let sizes = [tile, d * head_stride];
        let scratch = || Scratch::new(sizes);
        for_each(id_tiles * token_tasks, scratch, |scratch, task| {
            let [tile, head_t] = scratch.parts(sizes);
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
                if keep {
                    let at = tokens.start * v + ids.start;
                    // SAFETY: tiles do not overlap.
                    matmul(x, head_t, unsafe { all.view(at, [n, m], v) });
                    for (row, partial) in partial.iter_mut().enumerate() {
                        let at = at + row * v;
                        // SAFETY: the product has written the rows of its tile.
                        *partial = exponentials(unsafe { all.written(at..at + m) });
                    }
                } else {
                    let tile = &mut tile[..n * m];
                    matmul(x, head_t, ViewMut::of_rows(tile, m));
                    for (row, partial) in tile.chunks_exact_mut(m).zip(partial) {
                        *partial = exponentials(row);
                    }
                }
            }
        });
    }
    let log_sums = |sums: Disjoint<MaybeUninit<f32>>| {
        for_each_range(t, TILE_TOKENS, |tokens| {
            // SAFETY: ranges do not overlap.
            let sums = unsafe { sums.part(tokens.clone()) };
            for (sum, token) in sums.iter_mut().zip(tokens) {
                sum.write(Partial::log_sum(partial[token..].iter().step_by(t)));
            }
        });
    };
    // SAFETY: every token has its sum.
    let log_sum_exp = unsafe { filled(t, log_sums) };
    // SAFETY: tiles cover all of them.
    let exponentials = keep.then(|| unsafe { all.written() });
    Saved {
        exponentials,
        partial,
        log_sum_exp,
    }
}

/// Gradients of `x`, `[T, D]`, and of the head, `[V, D]`, given what [`forward`] kept of the same `inputs` and the
/// gradient of its losses, `dloss: [T]`.
pub fn backward(inputs: &Inputs, saved: &Saved, dloss: &[f32]) -> (Vec<f32>, Vec<f32>) {
    inputs.check();
    let Shape {
        tokens: t,
        model: d,
        vocabulary: v,
        targets: j,
    } = inputs.shape;
    assert_eq!(dloss.len(), t, "dloss: [T]");
    assert_eq!(
        saved.log_sum_exp.len(),
        t,
        "saved by a forward of these shapes"
    );
    if t == 0 {
        return (Vec::new(), vec![0.0; v * d]);
    }
    let (mut dx, mut dhead) = (Unwritten::new(t * d), Unwritten::new(v * d));
    {
        let (dx, dhead) = (dx.parts(), dhead.parts());
        let chunk = match saved.exponentials {
            Some(_) => t,
            None => (CHUNK / v).clamp(1, t),
        };
        for index in 0..t.div_ceil(chunk) {
            let tokens = range(index, chunk, t);
            let inputs = Inputs {
                shape: Shape {
                    tokens: tokens.len(),
                    ..inputs.shape
                },
                x: &inputs.x[tokens.start * d..tokens.end * d],
                head: inputs.head,
                ids: &inputs.ids[tokens.start * j..tokens.end * j],
                weights: &inputs.weights[tokens.start * j..tokens.end * j],
            };
            let again = saved.exponentials.is_none().then(|| reduce(&inputs, true));
            let saved = again.as_ref().unwrap_or(saved);
            let exponentials = saved.exponentials.as_deref().unwrap_or(&[]);
            assert_eq!(
                exponentials.len(),
                tokens.len() * v,
                "saved by a forward of these shapes"
            );
            let backward = Backward {
                inputs: &inputs,
                saved,
                exponentials,
                dloss: &dloss[tokens.clone()],
            };
            backward.x(&dx, tokens.start);
            backward.head(&dhead, index > 0);
        }
    }
    // SAFETY: tiles cover all tokens and all of the vocabulary.
    unsafe { (dx.written(), dhead.written()) }
}

/// The backward of tokens whose exponentials are there.
struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    saved: &'a Saved,
    exponentials: &'a [f32],
    dloss: &'a [f32],
}

impl Backward<'_> {
    /// Writes the gradient of the tokens, the first of which is number `first` of `dx`.
    fn x(&self, dx: &Disjoint<MaybeUninit<f32>>, first: usize) {
        let Shape {
            tokens: t,
            model: d,
            vocabulary: v,
            ..
        } = self.inputs.shape;
        let block = t
            .div_ceil(TILES)
            .next_multiple_of(16)
            .clamp(16, TILE_TOKENS);
        let scratch = || Scratch::new([block * TILE_IDS.min(v)]);
        for_each(t.div_ceil(block), scratch, |scratch, task| {
            let tokens = range(task, block, t);
            for index in 0..v.div_ceil(TILE_IDS) {
                let ids = range(index, TILE_IDS, v);
                let [tile] = scratch.parts([tokens.len() * ids.len()]);
                self.dlogits(tokens.clone(), ids.clone(), tile);
                let tile = View::of_rows(tile, ids.len());
                let head = View::of_rows(self.inputs.head, d).rows(ids);
                // SAFETY: blocks of tokens do not overlap, and their first tile writes them.
                unsafe {
                    let at = (first + tokens.start) * d;
                    let dx = dx.view(at, [tokens.len(), d], d);
                    match index {
                        0 => matmul(tile, head, dx),
                        _ => matmul_add(tile, head, dx.assume_written()),
                    }
                }
            }
        });
    }

    /// Writes the gradient of the head, or adds to what is `written`.
    fn head(&self, dhead: &Disjoint<MaybeUninit<f32>>, written: bool) {
        let Shape {
            tokens: t,
            model: d,
            vocabulary: v,
            ..
        } = self.inputs.shape;
        // A power of two: divides the tiles of the exponentials.
        let size = v.div_ceil(TILES).next_power_of_two().clamp(16, TILE_IDS);
        let scratch = || Scratch::new([TILE_TOKENS * size]);
        let x = View::of_rows(self.inputs.x, d);
        for_each(v.div_ceil(size), scratch, |scratch, task| {
            let ids = range(task, size, v);
            for index in 0..t.div_ceil(TILE_TOKENS) {
                let tokens = range(index, TILE_TOKENS, t);
                let [tile] = scratch.parts([tokens.len() * ids.len()]);
                self.dlogits(tokens.clone(), ids.clone(), tile);
                let tile = View::of_rows(tile, ids.len());
                // SAFETY: tiles of the vocabulary do not overlap, and their first tokens write them.
                unsafe {
                    let dhead = dhead.view(ids.start * d, [ids.len(), d], d);
                    match written || index > 0 {
                        true => matmul_add(tile.t(), x.rows(tokens), dhead.assume_written()),
                        false => matmul(tile.t(), x.rows(tokens), dhead),
                    }
                }
            }
        });
    }

    /// Gradients of the logits of some tokens for `ids`, which lie in one tile.
    fn dlogits(&self, tokens: Range<usize>, ids: Range<usize>, out: &mut [f32]) {
        let Shape {
            tokens: t,
            vocabulary: v,
            targets: j,
            ..
        } = self.inputs.shape;
        let partial = &self.saved.partial[ids.start / TILE_IDS * t..];
        for (token, out) in tokens.zip(out.chunks_exact_mut(ids.len())) {
            let exponentials = &self.exponentials[token * v + ids.start..token * v + ids.end];
            let targets = token * j..(token + 1) * j;
            let weights = &self.inputs.weights[targets.clone()];
            let probability = (partial[token].max - self.saved.log_sum_exp[token]).exp();
            scaled(
                out,
                exponentials,
                self.dloss[token] * weights.iter().sum::<f32>() * probability,
            );
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
    /// Turns one token's logits in a tile into exponentials over their maximum.
    fn exponentials(row: &mut [f32]) -> Partial {
        let max = math::max(row);
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        let mut lanes = [0.0; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                chunk[l] = exp::<FMA>(chunk[l] - max);
                lanes[l] += chunk[l];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp::<FMA>(*x - max);
            *lane += *x;
        }
        Partial { max, sum: sum_lanes(lanes) }
    }

    fn dot_product(a: &[f32], b: &[f32]) -> f32 {
        dot::<FMA>(a, b)
    }
}
