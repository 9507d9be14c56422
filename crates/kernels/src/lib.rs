//! The few fused operations that Mixture-of-Experts language models need, behind one trait.
//!
//! [`MoeBackend`] extends Burn's [`Backend`] by a handful of operations. Each has a default body in plain Burn
//! tensor operations ([`mod@reference`]), so a model written against `MoeBackend` runs on every backend; a backend
//! overrides an operation where a specialised body pays.
//!
//! Tensor names carry their shape: `T` tokens, `B` batch, `S` sequence, `D` model, `F` expert hidden, `E` experts,
//! `K` top-K, `R` routed rows (`T * K`), `V` vocabulary, `H` heads, `G` key-value heads, `C` head width,
//! `J` targets of one position.

pub mod adamw;
mod autodiff;
pub mod blocks;
mod bodies;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cubecl")]
mod cubecl;
mod expert_parallel;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "cpu")]
mod host;
#[cfg(feature = "ndarray")]
mod ndarray;
pub mod padded;
mod precision;
mod proof;
pub mod reference;
mod slots;
mod traced;

use burn::tensor::{
    Int, Tensor, TensorPrimitive,
    backend::{AutodiffBackend, Backend},
};
use upcycle_team::Team;

pub use adamw::{AdamW, AdamWRecord};
pub use bodies::{Bodies, Kernels};
pub use precision::Precision;
pub use proof::{Proof, TensorCores};
pub use traced::{BackwardFn, Traced};

/// Weights of all experts of one layer, stacked: one parameter a matrix.
#[derive(Debug, Clone)]
pub struct ExpertWeights<B: Backend> {
    /// Gate projection, `[E, D, F]`.
    pub gate_edf: Tensor<B, 3>,
    /// Up projection, `[E, D, F]`.
    pub up_edf: Tensor<B, 3>,
    /// Down projection, `[E, F, D]`.
    pub down_efd: Tensor<B, 3>,
}

/// Cosines and sines of the rotary position embedding, `[S, C / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryAngles<B: Backend> {
    /// Cosines, `[S, C / 2]`.
    pub cos_sc: Tensor<B, 2>,
    /// Sines, `[S, C / 2]`.
    pub sin_sc: Tensor<B, 2>,
}

/// Targets of every position as a sparse distribution: `J` token ids and their weights.
///
/// An ordinary next-token target has `J = 1` and weight 1; a position that is not scored has weight 0.
#[derive(Debug, Clone)]
pub struct SoftTargets<B: Backend> {
    /// Token ids, `[T, J]`.
    pub ids_tj: Tensor<B, 2, Int>,
    /// Weights, `[T, J]`.
    pub weights_tj: Tensor<B, 2>,
}

/// Bytes of a device's memory that a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Taken by tensors.
    pub in_use: u64,
    /// Taken from the device: what tensors took at most, and what is lost between them.
    pub reserved: u64,
}

/// The operations of Mixture-of-Experts language models, with default bodies in plain tensor operations.
///
/// On an [`Autodiff`](burn::backend::Autodiff) backend all of them but [`top_k`](Self::top_k) and those
/// of the optimizer step are differentiable in their float arguments. There are two ways to that: a backend that
/// computes an operation together with its backward pass says so by a `*_traced` method, and autodiff records the two
/// as one node; without one, autodiff differentiates the reference body.
pub trait MoeBackend: Backend {
    /// Does `work`, many operations, on the thread from which they are cheapest to begin: on the CPU one of a pool's
    /// own, since a pool is woken up and waited for again and again from any other.
    fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
        Self::run_one_of(1, work)
    }

    /// [`run`](Self::run) for one of `workers` that compute at the same time: on the CPU each gets an even share of the threads.
    fn run_one_of<R: Send>(_workers: usize, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Tries the kernels that only this device can run, and [chooses](TensorCores) by what it finds; none if there are no such
    /// kernels. Takes some seconds.
    fn prove(_device: &Self::Device) -> Option<Proof> {
        None
    }

    /// What this process has of a device's memory, by its allocator; none where that keeps no account.
    fn memory(_device: &Self::Device) -> Option<DeviceMemory> {
        None
    }

    /// What computes the products of experts on a device in a precision.
    fn kernels(_device: &Self::Device, _precision: Precision) -> Kernels {
        Kernels::Reference
    }

    /// Indices of the `k` largest values of each row, best first.
    ///
    /// # Shapes
    /// `[T, E] -> [T, K]`, `1 <= K <= E`. Not differentiable.
    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        reference::top_k(scores_te, k)
    }

    /// SwiGLU experts on the tokens routed to them, weighted by their gates and summed:
    /// `y_t = sum_k gate_tk * down_e(silu(x_t gate_e) * (x_t up_e))` with `e = experts_tk[t, k]`.
    ///
    /// Dropless: every token reaches all of its experts, whatever the load.
    ///
    /// # Shapes
    /// `x_td: [T, D]`, `experts_tk: [T, K]` with values in `0..E`, `gates_tk: [T, K]`; returns `[T, D]`.
    fn expert_ffn(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        reference::expert_ffn(x_td, weights, experts_tk, gates_tk, precision)
    }

    /// [`expert_ffn`](Self::expert_ffn) with the gradients of `x`, gate, up and down weights, and gates.
    fn expert_ffn_traced(
        _x_td: Tensor<Self, 2>,
        _weights: ExpertWeights<Self>,
        _experts_tk: Tensor<Self, 2, Int>,
        _gates_tk: Tensor<Self, 2>,
        _precision: Precision,
    ) -> Option<Traced<Self, 5>> {
        None
    }

    /// [`expert_ffn`](Self::expert_ffn) with experts that are spread over a team: each member holds `E / M` of them, in the order of
    /// ranks, and has tokens of its own. All members have to call it, and to run its backward pass, equally often in the same
    /// order. Their tensors must not come from the same autodiff graph, such as clones of one model: Burn locks a graph while it
    /// runs a backward pass, in which members wait for each other.
    ///
    /// Gradients of the weights are sums over the tokens of all members. After a fault of the team, which
    /// [`Team::fault`] tells, outputs and gradients are zeros.
    ///
    /// # Shapes
    /// `x_td: [T, D]` with T at least 1, weights of `E / M` experts, `experts_tk: [T, K]` with values in `0..E`,
    /// `gates_tk: [T, K]`; returns `[T, D]`.
    fn expert_ffn_of_team(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
        team: &Team,
    ) -> Tensor<Self, 2> {
        match team.size() {
            1 => Self::expert_ffn(x_td, weights, experts_tk, gates_tk, precision),
            _ => expert_parallel::expert_ffn(x_td, weights, experts_tk, gates_tk, precision, team),
        }
    }

    /// Causal grouped-query attention, scores scaled by `1 / sqrt(C)`.
    ///
    /// # Shapes
    /// `q_bshc: [B, S, H, C]`, `k_bsgc` and `v_bsgc: [B, S, G, C]` with `H` a multiple of `G`; returns `[B, S, H, C]`.
    fn causal_attention(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        let inputs = (q_bshc, k_bsgc, v_bsgc);
        match Self::causal_attention_traced(
            inputs.0.clone(),
            inputs.1.clone(),
            inputs.2.clone(),
            precision,
        ) {
            Some(traced) => Tensor::from_primitive(TensorPrimitive::Float(traced.output)),
            None => reference::causal_attention(inputs.0, inputs.1, inputs.2, precision),
        }
    }

    /// [`causal_attention`](Self::causal_attention) with the gradients of queries, keys and values.
    fn causal_attention_traced(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Option<Traced<Self, 3>> {
        Bodies::are_specialised()
            .then(|| blocks::causal_attention(q_bshc, k_bsgc, v_bsgc, precision, blocks::BLOCK))
    }

    /// [`causal_attention`](Self::causal_attention) of the last `N` of `S` positions, whose keys and values were kept.
    ///
    /// # Shapes
    /// `q_bnhc: [B, N, H, C]`, `k_bsgc` and `v_bsgc: [B, S, G, C]` with `N <= S` and `H` a multiple of `G`; returns
    /// `[B, N, H, C]`.
    fn cached_attention(
        q_bnhc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        reference::causal_attention(q_bnhc, k_bsgc, v_bsgc, precision)
    }

    /// Root mean square normalisation over the last axis, with a learned scale
    /// ([Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467)).
    ///
    /// # Shapes
    /// `x_td: [T, D]`, `scale_d: [D]`; returns `[T, D]`.
    fn rms_norm(x_td: Tensor<Self, 2>, scale_d: Tensor<Self, 1>, eps: f32) -> Tensor<Self, 2> {
        reference::rms_norm(x_td, scale_d, eps)
    }

    /// [`rms_norm`](Self::rms_norm) with the gradients of `x` and the scale.
    fn rms_norm_traced(
        _x_td: Tensor<Self, 2>,
        _scale_d: Tensor<Self, 1>,
        _eps: f32,
    ) -> Option<Traced<Self, 2>> {
        None
    }

    /// Rotary position embedding ([Su et al., 2021](https://arxiv.org/abs/2104.09864)), halves rotated
    /// (channel `c` pairs with `c + C / 2`), as Hugging Face's Llama family has it.
    ///
    /// # Shapes
    /// `x_bshc: [B, S, H, C]` and angles for `S` positions; returns `[B, S, H, C]`.
    fn rotary(x_bshc: Tensor<Self, 4>, angles: RotaryAngles<Self>) -> Tensor<Self, 4> {
        reference::rotary(x_bshc, angles)
    }

    /// [`rotary`](Self::rotary) with the gradient of `x`.
    fn rotary_traced(
        _x_bshc: Tensor<Self, 4>,
        _angles: RotaryAngles<Self>,
    ) -> Option<Traced<Self, 1>> {
        None
    }

    /// `y = x w`.
    ///
    /// # Shapes
    /// `x_td: [T, D]`, `weight_do: [D, O]`; returns `[T, O]`.
    fn project(
        x_td: Tensor<Self, 2>,
        weight_do: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        reference::project(x_td, weight_do, precision)
    }

    /// [`project`](Self::project) with the gradients of `x` and the weight.
    fn project_traced(
        _x_td: Tensor<Self, 2>,
        _weight_do: Tensor<Self, 2>,
        _precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        None
    }

    /// `x + y`, tensors of one shape; in place where a backend can and nobody else holds one of them.
    fn add<const D: usize>(x: Tensor<Self, D>, y: Tensor<Self, D>) -> Tensor<Self, D> {
        reference::add(x, y)
    }

    /// `1 / (1 + exp(-x))` of every element.
    fn logistic<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        reference::logistic(x)
    }

    /// [`logistic`](Self::logistic) with the gradient of `x`.
    fn logistic_traced<const D: usize>(_x: Tensor<Self, D>) -> Option<Traced<Self, 1>> {
        None
    }

    /// Rows of an embedding table.
    ///
    /// # Shapes
    /// `table_vd: [V, D]`, `ids_t: [T]` with values in `0..V`; returns `[T, D]`.
    fn embed(table_vd: Tensor<Self, 2>, ids_t: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
        reference::embed(table_vd, ids_t)
    }

    /// [`embed`](Self::embed) with the gradient of the table.
    fn embed_traced(
        _table_vd: Tensor<Self, 2>,
        _ids_t: Tensor<Self, 1, Int>,
    ) -> Option<Traced<Self, 1>> {
        None
    }

    /// Output head and cross-entropy in one: `loss_t = sum_j weight_tj * -log softmax(x_t head^T)[id_tj]`, in nats.
    ///
    /// Works in chunks of tokens, so that without gradients `[T, V]` logits never exist at once.
    ///
    /// # Shapes
    /// `x_td: [T, D]`, `head_vd: [V, D]`, targets `[T, J]`; returns `[T]`.
    fn linear_cross_entropy(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Tensor<Self, 1> {
        let inputs = (x_td, head_vd, targets);
        match Self::linear_cross_entropy_traced(
            inputs.0.clone(),
            inputs.1.clone(),
            inputs.2.clone(),
            precision,
        ) {
            Some(traced) => Tensor::from_primitive(TensorPrimitive::Float(traced.output)),
            None => reference::linear_cross_entropy(inputs.0, inputs.1, inputs.2, precision),
        }
    }

    /// [`linear_cross_entropy`](Self::linear_cross_entropy) with the gradients of `x` and the head.
    fn linear_cross_entropy_traced(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        Bodies::are_specialised()
            .then(|| blocks::linear_cross_entropy(x_td, head_vd, targets, precision, blocks::BLOCK))
    }

    /// Sum of the squares of all elements, `[1]`. Not differentiable.
    fn squared_norm<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        reference::squared_norm(x)
    }

    /// One AdamW update of one parameter: `(parameter, first moment, second moment)` after the step.
    fn adamw<const D: usize>(
        parameter: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        moments: (Tensor<Self, D>, Tensor<Self, D>),
        update: adamw::Update,
    ) -> (Tensor<Self, D>, Tensor<Self, D>, Tensor<Self, D>) {
        reference::adamw(parameter, gradient, moments, update)
    }
}

/// A [`MoeBackend`] with gradients, whose inner backend is one as well.
pub trait MoeAutodiffBackend: MoeBackend + AutodiffBackend<InnerBackend: MoeBackend> {}

impl<B: MoeBackend + AutodiffBackend<InnerBackend: MoeBackend>> MoeAutodiffBackend for B {}
