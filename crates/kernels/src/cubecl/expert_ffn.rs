//! SwiGLU experts on the tokens routed to them, forward and backward.

use std::sync::Arc;

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};

use super::{
    buffer::contiguous_as,
    combine::combine,
    grouped::{Core, Groups, Rows, Weights},
    swiglu,
};

/// Arguments of the operation, contiguous, with the operands of its products in their precision.
pub struct Inputs<R: CubeRuntime> {
    /// Tokens, `[T, D]`.
    x_td: CubeTensor<R>,
    /// Gate projections, `[E, D, F]`.
    gate_edf: CubeTensor<R>,
    /// Up projections, `[E, D, F]`.
    up_edf: CubeTensor<R>,
    /// Down projections, `[E, F, D]`.
    down_efd: CubeTensor<R>,
    /// Gates in f32, `[T, K]`.
    gates_tk: CubeTensor<R>,
    /// Routed rows by expert.
    groups: Groups<R>,
    /// Element type of the operands.
    operand: DType,
}

/// Activations that the backward pass needs, in the order of the sorted rows.
pub struct Saved<R: CubeRuntime> {
    /// Gate pre-activations, `[R, F]`.
    gate_rf: CubeTensor<R>,
    /// Up activations, `[R, F]`.
    up_rf: CubeTensor<R>,
}

impl<R: CubeRuntime> Inputs<R> {
    /// Prepares the arguments: tokens, gate, up and down weights; experts (any integer type); gates.
    pub fn new(
        [x_td, gate_edf, up_edf, down_efd]: [CubeTensor<R>; 4],
        experts_tk: CubeTensor<R>,
        gates_tk: CubeTensor<R>,
        operand: DType,
        core: Core,
    ) -> Self {
        let [experts, model, hidden] = [0, 1, 2].map(|axis| gate_edf.meta.shape()[axis]);
        let top_k = gates_tk.meta.shape()[1];
        let dtype = experts_tk.dtype;
        let experts_tk = contiguous_as(experts_tk, dtype);
        Self {
            x_td: contiguous_as(x_td, operand),
            gate_edf: contiguous_as(gate_edf, operand),
            up_edf: contiguous_as(up_edf, operand),
            down_efd: contiguous_as(down_efd, operand),
            gates_tk: contiguous_as(gates_tk, DType::F32),
            groups: Groups::new(&experts_tk, top_k, experts, model.min(hidden), core),
            operand,
        }
    }

    fn tokens_and_top_k(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.gates_tk.meta.shape()[axis])
    }
}

/// `y_t = sum_k gate_tk * down_e(silu(x_t gate_e) * (x_t up_e))`, `[T, D]`.
pub fn forward<R: CubeRuntime>(inputs: &Inputs<R>) -> (CubeTensor<R>, Saved<R>) {
    let Inputs { groups, .. } = inputs;
    let x = (&inputs.x_td, Rows::OfTokens);
    let gate_rf = groups.product(x, (&inputs.gate_edf, Weights::Plain));
    let up_rf = groups.product(x, (&inputs.up_edf, Weights::Plain));
    let h_rf = swiglu::forward(&gate_rf, &up_rf, inputs.operand);
    let down = (&inputs.down_efd, Weights::Plain);
    let y_rd = groups.product((&h_rf, Rows::Sorted), down);
    let y_td = combine(
        &y_rd,
        &groups.routing.inverse,
        Some(&inputs.gates_tk),
        inputs.tokens_and_top_k(),
    );
    (y_td, Saved { gate_rf, up_rf })
}

/// Gradients of `x`, gate, up and down weights, and gates; none where it is not asked for.
pub fn backward<R: CubeRuntime>(
    inputs: &Inputs<R>,
    saved: &Saved<R>,
    dy_td: CubeTensor<R>,
    [x, gate, up, down, gates]: [bool; 5],
) -> [Option<CubeTensor<R>>; 5] {
    let Inputs {
        groups, operand, ..
    } = inputs;
    let routing = &groups.routing;
    let dy_td = contiguous_as(dy_td, *operand);
    let dy = (&dy_td, Rows::OfTokens);
    let dh_rf = groups.product(dy, (&inputs.down_efd, Weights::Transposed));
    let middle = swiglu::backward(
        [&saved.gate_rf, &saved.up_rf, &dh_rf],
        &inputs.gates_tk,
        &routing.order,
        *operand,
    );
    drop(dh_rf);

    let dx_td = x.then(|| {
        let d_gate = (&middle.gate, Rows::Sorted);
        let dx_rd = groups.product(d_gate, (&inputs.gate_edf, Weights::Transposed));
        let d_up = (&middle.up, Rows::Sorted);
        groups.add_product(d_up, (&inputs.up_edf, Weights::Transposed), &dx_rd);
        combine(&dx_rd, &routing.inverse, None, inputs.tokens_and_top_k())
    });
    let of_input = |wanted: bool, gradient: &CubeTensor<R>| {
        let x = (&inputs.x_td, Rows::OfTokens);
        wanted.then(|| groups.weight_gradient(x, (gradient, Rows::Sorted)))
    };
    let d_gate_edf = of_input(gate, &middle.gate);
    let d_up_edf = of_input(up, &middle.up);
    let weighted = (&middle.weighted, Rows::Sorted);
    let d_down_efd = down.then(|| groups.weight_gradient(weighted, dy));
    let d_gates_tk = gates.then_some(middle.gates);
    [dx_td, d_gate_edf, d_up_edf, d_down_efd, d_gates_tk]
}

/// [`forward`] with its [`backward`], as autodiff records them.
pub fn traced<R: CubeRuntime>(inputs: Inputs<R>) -> (CubeTensor<R>, Arc<super::Backward<R, 5>>) {
    let (output, saved) = forward(&inputs);
    let backward = move |dy, needed| backward(&inputs, &saved, dy, needed);
    (output, Arc::new(backward))
}
