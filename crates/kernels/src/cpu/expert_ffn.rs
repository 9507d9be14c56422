//! SwiGLU experts on the tokens routed to them, forward and backward.
//!
//! Routed rows (`R = T * K`) are sorted by expert, so that an expert's rows are one segment and each projection of a
//! segment is one matrix product. Rows are gathered into scratch of one segment, never all at once.

use std::{cmp::Reverse, mem::MaybeUninit, ops::Range};

use super::{
    groups::Groups,
    linear::{Fetch, Product, matmul, matmul_add, matmul_parallel, multiply},
    math::fma,
    memory::{Scratch, Unwritten, filled},
    parallel::{Disjoint, for_each, for_each_range, for_each_sorted, range},
    swiglu,
    view::{View, ViewMut},
};

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Tokens, `T`.
    pub tokens: usize,
    /// Experts a token, `K`.
    pub top_k: usize,
    /// Model width, `D`.
    pub model: usize,
    /// Hidden width of an expert, `F`.
    pub hidden: usize,
    /// Experts, `E`.
    pub experts: usize,
}

/// What the operation reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Sizes of everything below.
    pub shape: Shape,
    /// Tokens, `[T, D]`.
    pub x: &'a [f32],
    /// Gate projections, `[E, D, F]`.
    pub gate_w: &'a [f32],
    /// Up projections, `[E, D, F]`.
    pub up_w: &'a [f32],
    /// Down projections, `[E, F, D]`.
    pub down_w: &'a [f32],
    /// Experts of every token, `[T, K]`, values in `0..E`.
    pub experts: &'a [i32],
    /// Weights of these experts, `[T, K]`.
    pub gates: &'a [f32],
}

/// What [`forward`] keeps for [`backward`].
#[derive(Debug, Clone)]
pub struct Saved {
    /// Routed rows by expert.
    groups: Groups,
    /// Gate pre-activations of the sorted rows, `[R, F]`.
    gate: Vec<f32>,
    /// Up activations of the sorted rows, `[R, F]`.
    up: Vec<f32>,
}

/// Which gradients [`backward`] computes.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Of the tokens.
    pub x: bool,
    /// Of the three expert weights.
    pub weights: bool,
    /// Of the gates.
    pub gates: bool,
}

/// Gradients of the inputs; those not asked for are `None`.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// Of the tokens, `[T, D]`.
    pub x: Option<Vec<f32>>,
    /// Of the expert weights.
    pub weights: Option<WeightGradients>,
    /// Of the gates, `[T, K]`.
    pub gates: Option<Vec<f32>>,
}

/// Gradients of the expert weights; zero for an expert without rows.
#[derive(Debug, Clone)]
pub struct WeightGradients {
    /// `[E, D, F]`.
    pub gate: Vec<f32>,
    /// `[E, D, F]`.
    pub up: Vec<f32>,
    /// `[E, F, D]`.
    pub down: Vec<f32>,
}

/// Rows of one task at most; longer segments are cut.
const BLOCK_ROWS: usize = 512;
/// Elements of the gradients of a projection from which on they are written past the caches: the three of them would leave those
/// before they are read.
const STREAM: usize = 1 << 24;
/// Tokens of one task that sums the rows of tokens.
const COMBINE_TOKENS: usize = 64;

/// `y_t = sum_k gate_tk * down_e(silu(x_t gate_e) * (x_t up_e))`, `[T, D]`, and what the backward needs if `keep`.
pub fn forward(inputs: &Inputs, keep: bool) -> (Vec<f32>, Option<Saved>) {
    inputs.check();
    let Shape {
        model: d,
        hidden: f,
        experts,
        ..
    } = inputs.shape;
    let groups = Groups::new(inputs.experts, experts);
    let r = groups.order.len();
    let blocks = Block::of_groups(&groups);

    let kept = if keep { r * f } else { 0 };
    let (mut gate, mut up) = (Unwritten::new(kept), Unwritten::new(kept));
    let mut y_rows = Unwritten::new(r * d);
    {
        let (gate, up) = (gate.parts(), up.parts());
        let y_rows = y_rows.parts();
        let longest = blocks.first().map_or(0, |block| block.rows.len());
        let sizes = |rows: usize| [rows * d, rows * f, rows * f, rows * f];
        let scratch = || Scratch::new(sizes(longest));
        for_each_sorted(blocks.len(), scratch, |scratch, task| {
            let Block { expert, rows } = blocks[task].clone();
            let n = rows.len();
            let [x, h, gate_rows, up_rows] = scratch.parts(sizes(n));
            gather(
                inputs.x,
                d,
                &groups.order[rows.clone()],
                inputs.shape.top_k,
                x,
            );
            let x = View::of_rows(x, d);
            let (gate_w, up_w, down_w) = inputs.weights(expert);
            let project = |w, out, next| {
                let how = Product {
                    fetch: Fetch::Right(Some(next)),
                    ..Product::default()
                };
                multiply(x, w, out, how);
            };

            let (gate_rows, up_rows): (&[f32], &[f32]) = if keep {
                let at = rows.start * f;
                // SAFETY: rows of a block are its own, and the products write them.
                unsafe {
                    project(gate_w, gate.view(at, [n, f], f), up_w);
                    project(up_w, up.view(at, [n, f], f), down_w);
                    (gate.written(at..at + n * f), up.written(at..at + n * f))
                }
            } else {
                project(gate_w, ViewMut::of_rows(gate_rows, f), up_w);
                project(up_w, ViewMut::of_rows(up_rows, f), down_w);
                (gate_rows, up_rows)
            };
            swiglu::forward(gate_rows, up_rows, h);
            // SAFETY: rows of a block are its own.
            let y = unsafe { y_rows.view(rows.start * d, [n, d], d) };
            matmul(View::of_rows(h, f), down_w, y);
        });
    }
    // SAFETY: blocks cover all rows.
    let y_rows = unsafe { y_rows.written() };
    let y = combine(&y_rows, d, &groups, inputs.shape, Some(inputs.gates));
    let saved = keep.then(|| {
        // SAFETY: blocks cover all rows, and with `keep` each wrote its part of both.
        let [gate, up] = [gate, up].map(|buffer| unsafe { buffer.written() });
        Saved { groups, gate, up }
    });
    (y, saved)
}

/// Gradients of what [`forward`] computed from the same `inputs`, given that of its result, `dy: [T, D]`.
pub fn backward(inputs: &Inputs, saved: &Saved, dy: &[f32], needs: Needs) -> Gradients {
    inputs.check();
    let Shape {
        tokens,
        top_k,
        model: d,
        hidden: f,
        experts,
    } = inputs.shape;
    assert_eq!(dy.len(), tokens * d, "dy: [T, D]");
    let groups = &saved.groups;
    let r = groups.order.len();
    assert!(
        r == tokens * top_k && saved.gate.len() == r * f,
        "saved by a forward of these shapes"
    );

    let rows_len = if needs.x { r * d } else { 0 };
    let weights_len = if needs.weights { experts * d * f } else { 0 };
    let mut dx_rows = Unwritten::new(rows_len);
    let mut dweights = [(); 3].map(|()| Unwritten::new(weights_len));
    let mut dgates_sorted = vec![0.0; r];
    {
        let [dgate_w, dup_w, ddown_w] = dweights.each_mut().map(Unwritten::parts);
        let pass = Backward {
            inputs,
            saved,
            dy,
            needs,
            stream: weights_len >= STREAM,
            dx_rows: dx_rows.parts(),
            dgates_sorted: Disjoint::new(&mut dgates_sorted),
            dgate_w,
            dup_w,
            ddown_w,
        };
        pass.run();
    }
    Gradients {
        x: needs.x.then(|| {
            // SAFETY: the pass covers all rows.
            let dx_rows = unsafe { dx_rows.written() };
            combine(&dx_rows, d, groups, inputs.shape, None)
        }),
        weights: needs.weights.then(|| {
            // SAFETY: the pass covers all experts.
            let [gate, up, down] = dweights.map(|buffer| unsafe { buffer.written() });
            WeightGradients { gate, up, down }
        }),
        gates: needs.gates.then(|| {
            let mut dgates = vec![0.0; r];
            for (&position, &gradient) in groups.order.iter().zip(&dgates_sorted) {
                dgates[position as usize] = gradient;
            }
            dgates
        }),
    }
}

/// A running [`backward`]: what it reads and the memory that its tasks write.
struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    saved: &'a Saved,
    dy: &'a [f32],
    needs: Needs,
    /// Whether gradients of weights are written past the caches.
    stream: bool,
    dx_rows: Disjoint<'a, MaybeUninit<f32>>,
    dgates_sorted: Disjoint<'a, f32>,
    dgate_w: Disjoint<'a, MaybeUninit<f32>>,
    dup_w: Disjoint<'a, MaybeUninit<f32>>,
    ddown_w: Disjoint<'a, MaybeUninit<f32>>,
}

/// Scratch of some rows in [`Backward`].
struct RowScratch<'a> {
    /// Tokens, `[n, D]`.
    x: &'a mut [f32],
    /// Gradients of the tokens' results, `[n, D]`.
    dy: &'a mut [f32],
    /// Weighted hidden activations, `[n, F]`.
    h: &'a mut [f32],
    /// Gradients of the gate pre-activations, `[n, F]`.
    dgate: &'a mut [f32],
    /// Gradients of the up activations, `[n, F]`.
    dup: &'a mut [f32],
}

impl<'a> RowScratch<'a> {
    fn sizes(n: usize, shape: Shape) -> [usize; 5] {
        let Shape {
            model: d,
            hidden: f,
            ..
        } = shape;
        [n * d, n * d, n * f, n * f, n * f]
    }

    fn new([x, dy, h, dgate, dup]: [&'a mut [f32]; 5]) -> Self {
        Self {
            x,
            dy,
            h,
            dgate,
            dup,
        }
    }
}

impl Backward<'_> {
    fn run(&self) {
        let groups = &self.saved.groups;
        let r = groups.order.len();
        // An expert that has a large part of the rows is spread over the threads; of the others each is one task.
        let large = BLOCK_ROWS.max(r / 4);
        let mut small = Vec::new();
        for expert in 0..groups.len() {
            let rows = groups.range(expert);
            if rows.len() > large {
                self.large_expert(expert, rows);
            } else {
                small.push(Block { expert, rows });
            }
        }
        small.sort_by_key(|block| Reverse(block.rows.len()));
        let longest = small.first().map_or(0, |block| block.rows.len());
        let shape = self.inputs.shape;
        let sizes = |rows: usize| RowScratch::sizes(rows, shape);
        let scratch = || Scratch::new(sizes(longest));
        for_each_sorted(small.len(), scratch, |scratch, task| {
            let Block { expert, rows } = small[task].clone();
            let mut parts = RowScratch::new(scratch.parts(sizes(rows.len())));
            self.rows(expert, rows, &mut parts);
            if self.needs.weights {
                let how = Product {
                    stream: self.stream,
                    fetch: Fetch::Out,
                    ..Product::default()
                };
                self.weights(expert, &parts, |a, b, out| multiply(a, b, out, how));
            }
        });
    }

    fn large_expert(&self, expert: usize, rows: Range<usize>) {
        let shape = self.inputs.shape;
        let sizes = RowScratch::sizes(rows.len(), shape);
        let mut scratch = Scratch::new(sizes);
        let mut parts = scratch.parts(sizes);
        {
            let parts = parts.each_mut().map(|part| Disjoint::new(part));
            let blocks = rows.len().div_ceil(BLOCK_ROWS);
            for_each(
                blocks,
                || (),
                |(), block| {
                    let block = range(block, BLOCK_ROWS, rows.len());
                    let from = RowScratch::sizes(block.start, shape);
                    let to = RowScratch::sizes(block.end, shape);
                    // SAFETY: blocks of rows do not overlap.
                    let part = |i: usize| unsafe { parts[i].part(from[i]..to[i]) };
                    let mut parts = RowScratch::new(std::array::from_fn(part));
                    let rows = rows.start + block.start..rows.start + block.end;
                    self.rows(expert, rows, &mut parts);
                },
            );
        }
        if self.needs.weights {
            self.weights(expert, &RowScratch::new(parts), matmul_parallel);
        }
    }

    /// Gradients that belong to rows: those of the activations (into scratch), of the gates and of the tokens.
    fn rows(&self, expert: usize, rows: Range<usize>, scratch: &mut RowScratch) {
        if rows.is_empty() {
            return;
        }
        let Shape {
            top_k,
            model: d,
            hidden: f,
            ..
        } = self.inputs.shape;
        let n = rows.len();
        let (gate_w, up_w, down_w) = self.inputs.weights(expert);
        let positions = &self.saved.groups.order[rows.clone()];
        gather(self.dy, d, positions, top_k, scratch.dy);
        if self.needs.weights {
            gather(self.inputs.x, d, positions, top_k, scratch.x);
        }
        let dy = View::of_rows(scratch.dy, d);
        let how = Product {
            fetch: Fetch::Right(self.needs.x.then(|| gate_w.t())),
            ..Product::default()
        };
        let dh = ViewMut::of_rows(scratch.dup, f);
        multiply(dy, down_w.t(), dh, how);

        let weights: Vec<f32> = positions
            .iter()
            .map(|&position| self.inputs.gates[position as usize])
            .collect();
        let saved = rows.start * f..rows.end * f;
        swiglu::backward(
            &self.saved.gate[saved.clone()],
            &self.saved.up[saved],
            &weights,
            scratch.dup,
            scratch.h,
            scratch.dgate,
            // SAFETY: rows of a block are its own.
            unsafe { self.dgates_sorted.part(rows.clone()) },
        );
        if self.needs.x {
            // SAFETY: rows of a block are its own.
            let mut dx = unsafe { self.dx_rows.view(rows.start * d, [n, d], d) };
            let (dgate, dup) = (
                View::of_rows(scratch.dgate, f),
                View::of_rows(scratch.dup, f),
            );
            let how = Product {
                fetch: Fetch::Right(Some(up_w.t())),
                ..Product::default()
            };
            multiply(dgate, gate_w.t(), dx.reborrow(), how);
            // SAFETY: written by the product above.
            let dx = unsafe { dx.assume_written() };
            matmul_add(dup, up_w.t(), dx);
        }
    }

    /// Gradients of one expert's weights from the scratch of all of its rows.
    fn weights(&self, expert: usize, scratch: &RowScratch, matmul: impl Fn(View, View, ViewMut)) {
        let Shape {
            model: d,
            hidden: f,
            ..
        } = self.inputs.shape;
        let x = View::of_rows(scratch.x, d).t();
        let at = expert * d * f;
        // SAFETY: the weights of an expert are its own.
        unsafe {
            matmul(
                x,
                View::of_rows(scratch.dgate, f),
                self.dgate_w.view(at, [d, f], f),
            );
            matmul(
                x,
                View::of_rows(scratch.dup, f),
                self.dup_w.view(at, [d, f], f),
            );
            let h = View::of_rows(scratch.h, f).t();
            matmul(
                h,
                View::of_rows(scratch.dy, d),
                self.ddown_w.view(at, [f, d], d),
            );
        }
    }
}

impl<'a> Inputs<'a> {
    fn check(&self) {
        let Shape {
            tokens,
            top_k,
            model,
            hidden,
            experts,
        } = self.shape;
        assert!(model > 0 && hidden > 0, "widths above zero");
        assert!(top_k > 0, "experts of every token");
        assert_eq!(self.x.len(), tokens * model, "x: [T, D]");
        assert_eq!(
            self.gate_w.len(),
            experts * model * hidden,
            "gate_w: [E, D, F]"
        );
        assert_eq!(self.up_w.len(), experts * model * hidden, "up_w: [E, D, F]");
        assert_eq!(
            self.down_w.len(),
            experts * hidden * model,
            "down_w: [E, F, D]"
        );
        assert_eq!(self.experts.len(), tokens * top_k, "experts: [T, K]");
        assert_eq!(self.gates.len(), tokens * top_k, "gates: [T, K]");
    }

    /// Gate, up and down projection of one expert.
    fn weights(&self, expert: usize) -> (View<'a>, View<'a>, View<'a>) {
        let Shape {
            model: d,
            hidden: f,
            ..
        } = self.shape;
        let at = expert * d * f..(expert + 1) * d * f;
        (
            View::of_rows(&self.gate_w[at.clone()], f),
            View::of_rows(&self.up_w[at.clone()], f),
            View::of_rows(&self.down_w[at], d),
        )
    }
}

/// Sorted rows of one expert.
#[derive(Debug, Clone)]
struct Block {
    expert: usize,
    rows: Range<usize>,
}

impl Block {
    /// All rows in blocks of at most [`BLOCK_ROWS`], the largest first.
    fn of_groups(groups: &Groups) -> Vec<Self> {
        let mut blocks = Vec::new();
        for expert in 0..groups.len() {
            let all = groups.range(expert);
            for index in 0..all.len().div_ceil(BLOCK_ROWS) {
                let rows = range(index, BLOCK_ROWS, all.len());
                let rows = all.start + rows.start..all.start + rows.end;
                blocks.push(Self { expert, rows });
            }
        }
        blocks.sort_by_key(|block| Reverse(block.rows.len()));
        blocks
    }
}

/// Copies the rows of the tokens at routed `positions` (token times K plus slot).
fn gather(x: &[f32], d: usize, positions: &[u32], top_k: usize, out: &mut [f32]) {
    for (row, &position) in out.chunks_exact_mut(d).zip(positions) {
        let token = position as usize / top_k;
        row.copy_from_slice(&x[token * d..(token + 1) * d]);
    }
}

/// Sums the sorted `rows: [R, D]` of every token, weighted by `weights: [T, K]` or 1, in the order of its slots.
fn combine(
    rows: &[f32],
    d: usize,
    groups: &Groups,
    shape: Shape,
    weights: Option<&[f32]>,
) -> Vec<f32> {
    let k = shape.top_k;
    let place = groups.inverse();
    let sum_up = |y: Disjoint<MaybeUninit<f32>>| {
        for_each_range(shape.tokens, COMBINE_TOKENS, |tokens| {
            // SAFETY: ranges of tokens do not overlap.
            let sums = unsafe { y.part(tokens.start * d..tokens.end * d) };
            let positions = tokens.start * k..tokens.end * k;
            let weights = weights.map(|weights| &weights[positions.clone()]);
            sum_rows(rows, &place[positions], weights, [d, k], sums);
        });
    };
    // SAFETY: every token has its sum.
    unsafe { filled(shape.tokens * d, sum_up) }
}

vectorised! {
    /// Sums of the `k` rows of `width` of each token that `place` names, weighted by `weights` or 1.
    fn sum_rows(rows: &[f32], place: &[u32], weights: Option<&[f32]>, sizes: [usize; 2], sums: &mut [MaybeUninit<f32>]) {
        let [width, k] = sizes;
        for (token, sum) in sums.chunks_exact_mut(width).enumerate() {
            for slot in 0..k {
                let position = token * k + slot;
                let at = place[position] as usize * width;
                let row = &rows[at..at + width];
                let weight = weights.map_or(1.0, |weights| weights[position]);
                if slot == 0 {
                    for (sum, x) in sum.iter_mut().zip(row) {
                        sum.write(x * weight);
                    }
                } else {
                    for (sum, x) in sum.iter_mut().zip(row) {
                        // SAFETY: the first slot has written it.
                        let before = unsafe { sum.assume_init() };
                        sum.write(fma::<FMA>(*x, weight, before));
                    }
                }
            }
        }
    }
}
