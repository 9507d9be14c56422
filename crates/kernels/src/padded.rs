//! Experts in padded batches with their own backward pass, in tensor operations of any backend: for operations that cannot leave
//! it to autodiff, since Burn cannot run one backward pass inside another.

use std::sync::Arc;

use burn::tensor::{
    IndexingUpdateOp, Int, Tensor, TensorPrimitive,
    activation::{sigmoid, silu},
    backend::Backend,
    ops::FloatTensor,
};

use crate::{ExpertWeights, Precision, Traced, slots::Slots, traced::primitive};

/// [`MoeBackend::expert_ffn`](crate::MoeBackend::expert_ffn) with the gradients of `x`, gate, up and down weights, and gates. Slots
/// are filled without atomics, so results repeat.
pub fn expert_ffn<B: Backend>(
    x_td: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_tk: Tensor<B, 2, Int>,
    gates_tk: Tensor<B, 2>,
    precision: Precision,
) -> Traced<B, 5> {
    let device = x_td.device();
    let [t, d] = x_td.dims();
    let [_, k] = gates_tk.dims();
    let [e, _, _] = weights.gate_edf.dims();
    let Slots {
        capacity,
        slot_of_row,
        token_of_slot,
    } = Slots::assign(experts_tk, e);
    let gates_r1 = gates_tk.reshape([t * k, 1]);
    let sum_of_tokens =
        move |rows_rd: Tensor<B, 2>| rows_rd.reshape([t, k, d]).sum_dim(1).reshape([t, d]);

    let x_ecd = x_td.select(0, token_of_slot).reshape([e, capacity, d]);
    let gate_ecf = precision.matmul(x_ecd.clone(), weights.gate_edf.clone());
    let up_ecf = precision.matmul(x_ecd.clone(), weights.up_edf.clone());
    let hidden_ecf = silu(gate_ecf.clone()) * up_ecf.clone();
    let y_ecd = precision.matmul(hidden_ecf, weights.down_efd.clone());
    let y_rd = y_ecd
        .reshape([e * capacity, d])
        .select(0, slot_of_row.clone());
    let output = sum_of_tokens(y_rd.clone() * gates_r1.clone());

    let backward = move |dy_td: FloatTensor<B>, [x, gate, up, down, gates]: [bool; 5]| {
        let dy_td = Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(dy_td));
        let dy_rd = dy_td
            .reshape([t, 1, d])
            .repeat_dim(1, k)
            .reshape([t * k, d]);
        let dgates_tk = gates.then(|| {
            let products_rd = dy_rd.clone() * y_rd.clone();
            products_rd.sum_dim(1).reshape([t, k])
        });
        let dy_ecd = Tensor::<B, 2>::zeros([e * capacity, d], &device)
            .select_assign(
                0,
                slot_of_row.clone(),
                dy_rd * gates_r1.clone(),
                IndexingUpdateOp::Add,
            )
            .reshape([e, capacity, d]);

        let share_ecf = sigmoid(gate_ecf.clone());
        let silu_ecf = gate_ecf.clone() * share_ecf.clone();
        let ddown_efd = down.then(|| {
            let hidden_ecf = silu_ecf.clone() * up_ecf.clone();
            precision.matmul(hidden_ecf.transpose(), dy_ecd.clone())
        });
        let dhidden_ecf = precision.matmul(dy_ecd, weights.down_efd.clone().transpose());
        let dup_ecf = dhidden_ecf.clone() * silu_ecf.clone();
        let slope_ecf = share_ecf.clone() + silu_ecf * share_ecf.neg().add_scalar(1.0);
        let dgate_ecf = dhidden_ecf * up_ecf.clone() * slope_ecf;

        let x_edc = x_ecd.clone().transpose();
        let dgate_edf = gate.then(|| precision.matmul(x_edc.clone(), dgate_ecf.clone()));
        let dup_edf = up.then(|| precision.matmul(x_edc, dup_ecf.clone()));
        let dx_td = x.then(|| {
            let dx_ecd = precision.matmul(dgate_ecf, weights.gate_edf.clone().transpose())
                + precision.matmul(dup_ecf, weights.up_edf.clone().transpose());
            let dx_rd = dx_ecd.reshape([e * capacity, d]);
            sum_of_tokens(dx_rd.select(0, slot_of_row.clone()))
        });
        [
            dx_td.map(primitive),
            dgate_edf.map(primitive),
            dup_edf.map(primitive),
            ddown_efd.map(primitive),
            dgates_tk.map(primitive),
        ]
    };
    Traced {
        output: primitive(output),
        backward: Arc::new(backward),
    }
}
