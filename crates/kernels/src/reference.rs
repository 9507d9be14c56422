//! Every operation of [`MoeBackend`](crate::MoeBackend) in plain Burn tensor operations.
//!
//! These bodies define what the specialised ones must compute, run on any backend, and are differentiated by
//! Burn's autodiff.

use burn::tensor::{
    Int, Tensor,
    activation::{self, silu, softmax},
    backend::Backend,
};

use crate::{ExpertWeights, Precision, RotaryAngles, SoftTargets, adamw::Update, slots::Slots};

/// Reference of [`MoeBackend::top_k`](crate::MoeBackend::top_k).
pub fn top_k<B: Backend>(scores_te: Tensor<B, 2>, k: usize) -> Tensor<B, 2, Int> {
    scores_te.topk_with_indices(k, 1).1
}

/// Reference of [`MoeBackend::expert_ffn`](crate::MoeBackend::expert_ffn): rows are gathered into equal slots for
/// every expert, so that each projection is one batched product.
pub fn expert_ffn<B: Backend>(
    x_td: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_tk: Tensor<B, 2, Int>,
    gates_tk: Tensor<B, 2>,
    precision: Precision,
) -> Tensor<B, 2> {
    let [t, d] = x_td.dims();
    let [_, k] = gates_tk.dims();
    let [e, _, _] = weights.gate_edf.dims();
    let slots = Slots::assign(experts_tk, e);

    let x_ecd = x_td
        .select(0, slots.token_of_slot.clone())
        .reshape([e, slots.capacity, d]);
    let gate_ecf = precision.matmul(x_ecd.clone(), weights.gate_edf);
    let up_ecf = precision.matmul(x_ecd, weights.up_edf);
    let y_ecd = precision.matmul(silu(gate_ecf) * up_ecf, weights.down_efd);

    let y_rd = y_ecd
        .reshape([e * slots.capacity, d])
        .select(0, slots.slot_of_row);
    let weighted_rd = y_rd * gates_tk.reshape([t * k, 1]);
    weighted_rd.reshape([t, k, d]).sum_dim(1).reshape([t, d])
}

/// Reference of [`MoeBackend::causal_attention`](crate::MoeBackend::causal_attention), and of
/// [`MoeBackend::cached_attention`](crate::MoeBackend::cached_attention): `N` queries, at the last of `S` positions.
pub fn causal_attention<B: Backend>(
    q_bnhc: Tensor<B, 4>,
    k_bsgc: Tensor<B, 4>,
    v_bsgc: Tensor<B, 4>,
    precision: Precision,
) -> Tensor<B, 4> {
    let device = q_bnhc.device();
    let [b, n, h, c] = q_bnhc.dims();
    let [_, s, g, _] = k_bsgc.dims();
    let r = h / g;
    // The heads of a group share their keys: they are folded into the query axis, nothing is repeated.
    let q_bgqc = (q_bnhc * (c as f32).powf(-0.5))
        .reshape([b, n, g, r, c])
        .permute([0, 2, 3, 1, 4])
        .reshape([b, g, r * n, c]);
    let k_bgcs = k_bsgc.permute([0, 2, 3, 1]);
    let v_bgsc = v_bsgc.permute([0, 2, 1, 3]);

    let scores_bgqs = precision.matmul(q_bgqc, k_bgcs);
    // The last position sees all of them.
    let scores_bgqs = if n == 1 {
        scores_bgqs
    } else {
        let positions =
            |from: usize| Tensor::<B, 1, Int>::arange(from as i64..s as i64, &device).float();
        let future_ns = positions(0)
            .reshape([1, s])
            .repeat_dim(0, n)
            .greater(positions(s - n).reshape([n, 1]).repeat_dim(1, s));
        let mask = Tensor::<B, 2>::zeros([n, s], &device)
            .mask_fill(future_ns, f32::NEG_INFINITY)
            .reshape([1, n * s])
            .repeat_dim(1, r);
        // One row of additive mask over flat scores is the broadcast that CPU backends have a fast path for.
        let masked = scores_bgqs.reshape([b * g, r * n * s]) + mask;
        masked.reshape([b, g, r * n, s])
    };
    precision
        .matmul(softmax(scores_bgqs, 3), v_bgsc)
        .reshape([b, g, r, n, c])
        .permute([0, 3, 1, 2, 4])
        .reshape([b, n, h, c])
}

/// Reference of [`MoeBackend::rms_norm`](crate::MoeBackend::rms_norm).
pub fn rms_norm<B: Backend>(x_td: Tensor<B, 2>, scale_d: Tensor<B, 1>, eps: f32) -> Tensor<B, 2> {
    let rms_t1 = x_td.clone().square().mean_dim(1).add_scalar(eps).sqrt();
    x_td / rms_t1 * scale_d.unsqueeze()
}

/// Reference of [`MoeBackend::rotary`](crate::MoeBackend::rotary).
pub fn rotary<B: Backend>(x_bshc: Tensor<B, 4>, angles: RotaryAngles<B>) -> Tensor<B, 4> {
    let [b, s, h, c] = x_bshc.dims();
    // Cosines and sines of whole rows, `[1, S * H * C]`: a shared row is the fast broadcast on CPU backends.
    let row = |left: Tensor<B, 2>, right: Tensor<B, 2>| {
        Tensor::cat(vec![left, right], 1)
            .reshape([s, 1, c])
            .repeat_dim(1, h)
            .reshape([1, s * h * c])
    };
    let cos = row(angles.cos_sc.clone(), angles.cos_sc);
    let sin = row(angles.sin_sc.clone().neg(), angles.sin_sc);
    let halves = x_bshc.clone().reshape([b * s * h, c]).split(c / 2, 1);
    let swapped = Tensor::cat(halves.into_iter().rev().collect(), 1);
    let rotated = x_bshc.reshape([b, s * h * c]) * cos + swapped.reshape([b, s * h * c]) * sin;
    rotated.reshape([b, s, h, c])
}

/// Elements of logits in one chunk of [`linear_cross_entropy`].
const LOGITS_CHUNK: usize = 1 << 22;

/// Reference of [`MoeBackend::project`](crate::MoeBackend::project).
pub fn project<B: Backend>(
    x_td: Tensor<B, 2>,
    weight_do: Tensor<B, 2>,
    precision: Precision,
) -> Tensor<B, 2> {
    precision.matmul(x_td, weight_do)
}

/// Reference of [`MoeBackend::add`](crate::MoeBackend::add).
pub fn add<B: Backend, const D: usize>(x: Tensor<B, D>, y: Tensor<B, D>) -> Tensor<B, D> {
    x + y
}

/// Reference of [`MoeBackend::logistic`](crate::MoeBackend::logistic).
pub fn logistic<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    activation::sigmoid(x)
}

/// Reference of [`MoeBackend::embed`](crate::MoeBackend::embed).
pub fn embed<B: Backend>(table_vd: Tensor<B, 2>, ids_t: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    table_vd.select(0, ids_t)
}

/// Reference of [`MoeBackend::linear_cross_entropy`](crate::MoeBackend::linear_cross_entropy).
pub fn linear_cross_entropy<B: Backend>(
    x_td: Tensor<B, 2>,
    head_vd: Tensor<B, 2>,
    targets: SoftTargets<B>,
    precision: Precision,
) -> Tensor<B, 1> {
    let [t, d] = x_td.dims();
    let [v, _] = head_vd.dims();
    let [_, j] = targets.ids_tj.dims();
    let rows = (LOGITS_CHUNK / v).clamp(1, t);
    let head_dv = head_vd.transpose();
    let losses = (0..t).step_by(rows).map(|from| {
        let to = (from + rows).min(t);
        let logits = precision.matmul(x_td.clone().slice([from..to, 0..d]), head_dv.clone());
        let ids = targets.ids_tj.clone().slice([from..to, 0..j]);
        let weights = targets.weights_tj.clone().slice([from..to, 0..j]);

        let max = logits.clone().detach().max_dim(1);
        let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max;
        let expected = (logits.gather(1, ids) * weights.clone()).sum_dim(1);
        (log_sum * weights.sum_dim(1) - expected).reshape([to - from])
    });
    Tensor::cat(losses.collect(), 0)
}

/// Reference of [`MoeBackend::squared_norm`](crate::MoeBackend::squared_norm).
pub fn squared_norm<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 1> {
    x.square().sum()
}

/// Reference of [`MoeBackend::adamw`](crate::MoeBackend::adamw).
pub fn adamw<B: Backend, const D: usize>(
    parameter: Tensor<B, D>,
    gradient: Tensor<B, D>,
    (moment_1, moment_2): (Tensor<B, D>, Tensor<B, D>),
    update: Update,
) -> (Tensor<B, D>, Tensor<B, D>, Tensor<B, D>) {
    let gradient = gradient * update.gradient_scale;
    let moment_1 = moment_1 * update.beta_1 + gradient.clone() * (1.0 - update.beta_1);
    let moment_2 = moment_2 * update.beta_2 + gradient.square() * (1.0 - update.beta_2);
    let root = (moment_2.clone() / update.correction_2).sqrt() + update.epsilon;
    let delta = moment_1.clone() / root * (update.lr / update.correction_1);
    let parameter = parameter * (1.0 - update.lr * update.weight_decay) - delta;
    (parameter, moment_1, moment_2)
}
