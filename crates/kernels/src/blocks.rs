//! Head and attention block by block, on any backend: what grows with tokens times vocabulary, or with the
//! square of a sequence, lives no longer than a block of [`BLOCK`] elements.
//!
//! The backward passes compute a block's logits or scores anew in place of keeping them. Sums go block by block in order, without
//! atomics, so results repeat.

use std::{ops::Range, sync::Arc};

use burn::tensor::{
    BasicOps, IndexingUpdateOp, Int, Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor,
};

use crate::{Precision, SoftTargets, Traced, traced::primitive};

/// Elements of a block. Up to four matrices of this size are alive at a time, 256 MB at most, whatever the model.
pub const BLOCK: usize = 1 << 24;

/// What is done to a block between its products. Logits, scores and their gradients are in the type of the operands of products,
/// all else in f32.
pub(crate) trait Softmax<B: Backend> {
    /// Losses of logits `[N, V]` with targets `[N, J]`, `[N]`, and the logarithms of the sums of exponentials, `[N, 1]`.
    fn cross_entropy(
        logits_nv: Tensor<B, 2>,
        ids_nj: Tensor<B, 2, Int>,
        weights_nj: Tensor<B, 2>,
        precision: Precision,
    ) -> (Tensor<B, 1>, Tensor<B, 2>);

    /// Gradient of the logits, where that of the losses is in the weights.
    fn cross_entropy_backward(
        logits_nv: Tensor<B, 2>,
        log_sum_n1: Tensor<B, 2>,
        ids_nj: Tensor<B, 2, Int>,
        weights_nj: Tensor<B, 2>,
        precision: Precision,
    ) -> Tensor<B, 2>;

    /// Shares of keys in scores `[N, G, R * Q, U]`, zero for keys after the position of a query, and the logarithms of the sums
    /// of exponentials, `[N, G, R * Q, 1]`. The `Q` queries are those at `positions`.
    fn causal(
        scores: Tensor<B, 4>,
        positions: Range<usize>,
        precision: Precision,
    ) -> (Tensor<B, 4>, Tensor<B, 4>);

    /// The shares again, and the gradient of the scores, `shares * (dshares - delta)`.
    fn causal_backward(
        scores: Tensor<B, 4>,
        log_sum: Tensor<B, 4>,
        dshares: Tensor<B, 4>,
        delta: Tensor<B, 4>,
        positions: Range<usize>,
        precision: Precision,
    ) -> [Tensor<B, 4>; 2];
}

/// In tensor operations of any backend.
pub(crate) struct InTensors;

impl<B: Backend> Softmax<B> for InTensors {
    fn cross_entropy(
        logits_nv: Tensor<B, 2>,
        ids_nj: Tensor<B, 2, Int>,
        weights_nj: Tensor<B, 2>,
        precision: Precision,
    ) -> (Tensor<B, 1>, Tensor<B, 2>) {
        let logits_nv = precision.result(logits_nv);
        let [n, _] = logits_nv.dims();
        let chosen_nj = logits_nv.clone().gather(1, ids_nj);
        let max_n1 = logits_nv.clone().max_dim(1);
        let log_sum_n1 = (logits_nv - max_n1.clone()).exp().sum_dim(1).log() + max_n1;
        let expected_n1 = (chosen_nj * weights_nj.clone()).sum_dim(1);
        let loss_n1 = log_sum_n1.clone() * weights_nj.sum_dim(1) - expected_n1;
        (loss_n1.reshape([n]), log_sum_n1)
    }

    fn cross_entropy_backward(
        logits_nv: Tensor<B, 2>,
        log_sum_n1: Tensor<B, 2>,
        ids_nj: Tensor<B, 2, Int>,
        weights_nj: Tensor<B, 2>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let share_nv = (precision.result(logits_nv) - log_sum_n1).exp();
        let dlogits_nv = (share_nv * weights_nj.clone().sum_dim(1)).scatter(
            1,
            ids_nj,
            weights_nj.neg(),
            IndexingUpdateOp::Add,
        );
        precision.operand(dlogits_nv)
    }

    fn causal(
        scores: Tensor<B, 4>,
        positions: Range<usize>,
        precision: Precision,
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let scores = without_later(precision.result(scores), positions);
        let max = scores.clone().max_dim(3);
        let shares = (scores - max.clone()).exp();
        let sum = shares.clone().sum_dim(3);
        let log_sum = sum.clone().log() + max;
        (precision.operand(shares / sum), log_sum)
    }

    fn causal_backward(
        scores: Tensor<B, 4>,
        log_sum: Tensor<B, 4>,
        dshares: Tensor<B, 4>,
        delta: Tensor<B, 4>,
        positions: Range<usize>,
        precision: Precision,
    ) -> [Tensor<B, 4>; 2] {
        let scores = without_later(precision.result(scores), positions);
        let shares = (scores - log_sum).exp();
        let dscores = shares.clone() * (precision.result(dshares) - delta);
        [shares, dscores].map(|it| precision.operand(it))
    }
}

/// Scores `[N, G, R * Q, U]` of the queries at `positions`, `-inf` for later keys.
fn without_later<B: Backend>(scores: Tensor<B, 4>, positions: Range<usize>) -> Tensor<B, 4> {
    let [_, _, rows, keys] = scores.dims();
    let queries = positions.len();
    if queries == 1 {
        return scores;
    }
    let device = scores.device();
    let range = |positions: Range<usize>| {
        Tensor::<B, 1, Int>::arange(positions.start as i64..positions.end as i64, &device).float()
    };
    let later_qu = range(0..keys)
        .reshape([1, keys])
        .repeat_dim(0, queries)
        .greater(range(positions).reshape([queries, 1]).repeat_dim(1, keys));
    let mask = Tensor::<B, 2>::zeros([queries, keys], &device)
        .mask_fill(later_qu, f32::NEG_INFINITY)
        .repeat_dim(0, rows / queries)
        .reshape([1, 1, rows, keys]);
    scores + mask
}

/// [`MoeBackend::linear_cross_entropy`](crate::MoeBackend::linear_cross_entropy) in blocks of at most `limit` logits, with the gradients of
/// `x` and the head.
///
/// # Shapes
/// `x_td: [T, D]`, `head_vd: [V, D]`, targets `[T, J]`; the output is `[T]`.
pub fn linear_cross_entropy<B: Backend>(
    x_td: Tensor<B, 2>,
    head_vd: Tensor<B, 2>,
    targets: SoftTargets<B>,
    precision: Precision,
    limit: usize,
) -> Traced<B, 2> {
    linear_cross_entropy_with::<B, InTensors>(x_td, head_vd, targets, precision, limit)
}

/// [`linear_cross_entropy`] with a softmax of the backend's own.
pub(crate) fn linear_cross_entropy_with<B: Backend, S: Softmax<B>>(
    x_td: Tensor<B, 2>,
    head_vd: Tensor<B, 2>,
    targets: SoftTargets<B>,
    precision: Precision,
    limit: usize,
) -> Traced<B, 2> {
    let [t, _] = x_td.dims();
    let [v, _] = head_vd.dims();
    let blocks = blocks(t, limit / v.max(1));
    let x_td = precision.operand(x_td);
    let head_vd = precision.operand(head_vd);
    let mut losses = Vec::with_capacity(blocks.len());
    let mut log_sums = Vec::with_capacity(blocks.len());
    for rows in blocks {
        let logits_nv = of(&x_td, &rows).matmul(head_vd.clone().transpose());
        let (ids_nj, weights_nj) = (of(&targets.ids_tj, &rows), of(&targets.weights_tj, &rows));
        let (loss_n, log_sum_n1) = S::cross_entropy(logits_nv, ids_nj, weights_nj, precision);
        losses.push(loss_n);
        log_sums.push((rows, log_sum_n1));
    }

    let backward = move |dloss_t: FloatTensor<B>, [x, head]: [bool; 2]| {
        let dloss_t1 = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(dloss_t));
        let dloss_t1 = dloss_t1.reshape([t, 1]);
        let mut dx = Vec::new();
        let mut dhead_vd: Option<Tensor<B, 2>> = None;
        for (rows, log_sum_n1) in &log_sums {
            let x_nd = of(&x_td, rows);
            let logits_nv = x_nd.clone().matmul(head_vd.clone().transpose());
            let ids_nj = of(&targets.ids_tj, rows);
            let weights_nj = of(&targets.weights_tj, rows) * of(&dloss_t1, rows);
            let dlogits_nv = S::cross_entropy_backward(
                logits_nv,
                log_sum_n1.clone(),
                ids_nj,
                weights_nj,
                precision,
            );
            if head {
                let sum = precision.product(dlogits_nv.clone().transpose(), x_nd);
                dhead_vd = Some(match dhead_vd.take() {
                    Some(before) => before + sum,
                    None => sum,
                });
            }
            if x {
                dx.push(precision.product(dlogits_nv, head_vd.clone()));
            }
        }
        [
            x.then(|| primitive(Tensor::cat(dx, 0))),
            dhead_vd.map(primitive),
        ]
    };
    Traced {
        output: primitive(Tensor::cat(losses, 0)),
        backward: Arc::new(backward),
    }
}

/// [`MoeBackend::causal_attention`](crate::MoeBackend::causal_attention) in blocks of at most `limit` scores, with the gradients of queries, keys
/// and values: every block of queries sees the keys up to its last position
/// ([Dao, 2023](https://arxiv.org/abs/2307.08691), with whole rows of keys at a time).
///
/// # Shapes
/// `q_bshc: [B, S, H, C]`, `k_bsgc` and `v_bsgc: [B, S, G, C]` with `H` a multiple of `G`; the output is `[B, S, H, C]`.
pub fn causal_attention<B: Backend>(
    q_bshc: Tensor<B, 4>,
    k_bsgc: Tensor<B, 4>,
    v_bsgc: Tensor<B, 4>,
    precision: Precision,
    limit: usize,
) -> Traced<B, 3> {
    causal_attention_with::<B, InTensors>(q_bshc, k_bsgc, v_bsgc, precision, limit)
}

/// [`causal_attention`] with a softmax of the backend's own.
pub(crate) fn causal_attention_with<B: Backend, S: Softmax<B>>(
    q_bshc: Tensor<B, 4>,
    k_bsgc: Tensor<B, 4>,
    v_bsgc: Tensor<B, 4>,
    precision: Precision,
    limit: usize,
) -> Traced<B, 3> {
    let heads = Heads::of(&q_bshc, &k_bsgc);
    let Heads { b, s, g, c, .. } = heads;
    let q_bshc = precision.operand(q_bshc * (c as f32).powf(-0.5));
    let [k_bgsc, v_bgsc] = [k_bsgc, v_bsgc].map(|it| precision.operand(it.permute([0, 2, 1, 3])));
    let blocks = heads.blocks(limit);
    let mut outputs = Vec::with_capacity(blocks.len());
    let mut log_sums = Vec::with_capacity(blocks.len());
    for block in blocks {
        let scores = block.scores(&heads, &q_bshc, &k_bgsc);
        let (shares, log_sum) = S::causal(scores, block.positions.clone(), precision);
        let y = precision.product(shares, block.seen(&v_bgsc));
        outputs.push((block.clone(), heads.unfold(y)));
        log_sums.push((block, log_sum));
    }
    let output = gather_blocks(outputs);

    let y_bshc = output.clone();
    let backward = move |dy: FloatTensor<B>, [q, k, v]: [bool; 3]| {
        let dy_bshc = Tensor::<B, 4>::from_primitive(TensorPrimitive::Float(dy));
        let device = dy_bshc.device();
        let delta_bsh1 = (dy_bshc.clone() * y_bshc.clone()).sum_dim(3);
        let dy_bshc = precision.operand(dy_bshc);
        let mut dq = Vec::new();
        let zeros = |wanted: bool| wanted.then(|| Tensor::<B, 4>::zeros([b, g, s, c], &device));
        let (mut dk_bgsc, mut dv_bgsc) = (zeros(k), zeros(v));
        for (block, log_sum) in &log_sums {
            let dy = heads.fold(block.own(&dy_bshc));
            let [shares, dscores] = S::causal_backward(
                block.scores(&heads, &q_bshc, &k_bgsc),
                log_sum.clone(),
                dy.clone().matmul(block.seen(&v_bgsc).transpose()),
                heads.fold(block.own(&delta_bsh1)),
                block.positions.clone(),
                precision,
            );
            if let Some(dv) = dv_bgsc.take() {
                dv_bgsc = Some(block.add(dv, precision.product(shares.transpose(), dy)));
            }
            if let Some(dk) = dk_bgsc.take() {
                let q = heads.fold(block.own(&q_bshc));
                dk_bgsc = Some(block.add(dk, precision.product(dscores.clone().transpose(), q)));
            }
            if q {
                let dq_block = precision.product(dscores, block.seen(&k_bgsc));
                dq.push((
                    block.clone(),
                    heads.unfold(dq_block * (c as f32).powf(-0.5)),
                ));
            }
        }
        let by_position = |it: Tensor<B, 4>| primitive(it.permute([0, 2, 1, 3]));
        [
            q.then(|| primitive(gather_blocks(dq))),
            dk_bgsc.map(by_position),
            dv_bgsc.map(by_position),
        ]
    };
    Traced {
        output: primitive(output),
        backward: Arc::new(backward),
    }
}

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
struct Heads {
    b: usize,
    s: usize,
    h: usize,
    g: usize,
    c: usize,
}

/// Queries at some positions of some sequences.
#[derive(Debug, Clone)]
struct Block {
    sequences: Range<usize>,
    positions: Range<usize>,
}

/// Queries that a block has at least, where there are as many: fewer make slim products.
const QUERIES: usize = 128;

impl Heads {
    fn of<B: Backend>(q_bshc: &Tensor<B, 4>, k_bsgc: &Tensor<B, 4>) -> Self {
        let [b, s, h, c] = q_bshc.dims();
        let [_, _, g, _] = k_bsgc.dims();
        Self { b, s, h, g, c }
    }

    /// Blocks of at most `limit` scores, or of a single query; sequence by sequence, first positions first.
    fn blocks(&self, limit: usize) -> Vec<Block> {
        let row = (self.h * self.s).max(1);
        let sequences = limit / (row * QUERIES.min(self.s).max(1));
        let sequences = sequences.clamp(1, self.b.max(1));
        let queries = limit / (row * sequences);
        let of_sequences = blocks(self.b, sequences).into_iter();
        of_sequences
            .flat_map(|sequences| {
                blocks(self.s, queries)
                    .into_iter()
                    .map(move |positions| Block {
                        sequences: sequences.clone(),
                        positions,
                    })
            })
            .collect()
    }

    /// The heads of a group share their keys, and stand one after the other: `[N, Q, H, X] -> [N, G, H / G * Q, X]`.
    fn fold<B: Backend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [n, q, h, width] = x.dims();
        let r = h / self.g;
        x.reshape([n, q, self.g, r, width])
            .permute([0, 2, 3, 1, 4])
            .reshape([n, self.g, r * q, width])
    }

    /// `[N, G, H / G * Q, C] -> [N, Q, H, C]`.
    fn unfold<B: Backend>(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [n, g, rows, c] = x.dims();
        let r = self.h / g;
        let q = rows / r;
        x.reshape([n, g, r, q, c])
            .permute([0, 3, 1, 2, 4])
            .reshape([n, q, self.h, c])
    }
}

impl Block {
    /// What is the block's own, `[B, S, ..] -> [N, Q, ..]`.
    fn own<B: Backend>(&self, x: &Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, h, c] = x.dims();
        let (n, q) = (self.sequences.clone(), self.positions.clone());
        x.clone().slice([n, q, 0..h, 0..c])
    }

    /// What its queries may see, `[B, G, S, C] -> [N, G, U, C]`, U the end of its positions.
    fn seen<B: Backend>(&self, x: &Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, g, _, c] = x.dims();
        x.clone()
            .slice([self.sequences.clone(), 0..g, 0..self.positions.end, 0..c])
    }

    /// Adds to what its queries see.
    fn add<B: Backend>(&self, sum: Tensor<B, 4>, more: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, g, _, c] = sum.dims();
        let place = [self.sequences.clone(), 0..g, 0..self.positions.end, 0..c];
        let before = self.seen(&sum);
        sum.slice_assign(place, before + more)
    }

    /// Scaled scores of its queries and all that one of them sees, `[N, G, H / G * Q, U]`, in the type of the operands.
    fn scores<B: Backend>(
        &self,
        heads: &Heads,
        q_bshc: &Tensor<B, 4>,
        k_bgsc: &Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let q = heads.fold(self.own(q_bshc));
        q.matmul(self.seen(k_bgsc).transpose())
    }
}

/// `0..total` in ranges of at most `size`, at least 1.
fn blocks(total: usize, size: usize) -> Vec<Range<usize>> {
    let size = size.max(1);
    let starts = (0..total).step_by(size);
    starts.map(|start| start..total.min(start + size)).collect()
}

/// Blocks `[N, Q, H, C]` in their order as a whole, `[B, S, H, C]`.
fn gather_blocks<B: Backend>(blocks: Vec<(Block, Tensor<B, 4>)>) -> Tensor<B, 4> {
    let mut sequences: Vec<(Range<usize>, Vec<Tensor<B, 4>>)> = Vec::new();
    for (block, values) in blocks {
        match sequences.last_mut() {
            Some((own, parts)) if *own == block.sequences => parts.push(values),
            _ => sequences.push((block.sequences, vec![values])),
        }
    }
    let whole = |parts: Vec<Tensor<B, 4>>| Tensor::cat(parts, 1);
    Tensor::cat(
        sequences
            .into_iter()
            .map(|(_, parts)| whole(parts))
            .collect(),
        0,
    )
}

/// Some rows.
fn of<B: Backend, K: BasicOps<B>>(x: &Tensor<B, 2, K>, rows: &Range<usize>) -> Tensor<B, 2, K> {
    let [_, columns] = x.dims();
    x.clone().slice([rows.clone(), 0..columns])
}
