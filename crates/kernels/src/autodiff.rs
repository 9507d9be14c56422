//! The operations on `Autodiff`: traced where the inner backend can, else the differentiated reference.

use std::sync::Arc;

use burn::{
    backend::{Autodiff, autodiff::checkpoint::strategy::CheckpointStrategy},
    tensor::{Int, Tensor, TensorPrimitive, ops::FloatTensor},
};
use upcycle_team::Team;

use crate::{
    DeviceMemory, ExpertWeights, Kernels, MoeBackend, Precision, RotaryAngles, SoftTargets,
    expert_parallel, reference,
    traced::{LARGE, Parents, Traced, primitive, record},
};

impl<B: MoeBackend, C: CheckpointStrategy> MoeBackend for Autodiff<B, C> {
    fn kernels(device: &Self::Device, precision: Precision) -> Kernels {
        B::kernels(device, precision)
    }

    fn memory(device: &Self::Device) -> Option<DeviceMemory> {
        B::memory(device)
    }

    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        Tensor::from_inner(B::top_k(scores_te.inner(), k))
    }

    fn expert_ffn(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        match B::expert_ffn_traced(
            x_td.clone().inner(),
            inner(&weights),
            experts_tk.clone().inner(),
            gates_tk.clone().inner(),
            precision,
        ) {
            Some(traced) => record(&expert_parents(x_td, weights, gates_tk), traced),
            None => reference::expert_ffn(x_td, weights, experts_tk, gates_tk, precision),
        }
    }

    fn expert_ffn_of_team(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
        team: &Team,
    ) -> Tensor<Self, 2> {
        if team.size() == 1 {
            return Self::expert_ffn(x_td, weights, experts_tk, gates_tk, precision);
        }
        let traced = expert_parallel::expert_ffn_traced(
            x_td.clone().inner(),
            inner(&weights),
            experts_tk.inner(),
            gates_tk.clone().inner(),
            precision,
            team,
        );
        record(&expert_parents(x_td, weights, gates_tk), traced)
    }

    fn causal_attention(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        match B::causal_attention_traced(
            q_bshc.clone().inner(),
            k_bsgc.clone().inner(),
            v_bsgc.clone().inner(),
            precision,
        ) {
            Some(traced) => record(
                &[primitive(q_bshc), primitive(k_bsgc), primitive(v_bsgc)],
                traced,
            ),
            None => reference::causal_attention(q_bshc, k_bsgc, v_bsgc, precision),
        }
    }

    fn rms_norm(x_td: Tensor<Self, 2>, scale_d: Tensor<Self, 1>, eps: f32) -> Tensor<Self, 2> {
        match B::rms_norm_traced(x_td.clone().inner(), scale_d.clone().inner(), eps) {
            Some(traced) => record(&[primitive(x_td), primitive(scale_d)], traced),
            None => reference::rms_norm(x_td, scale_d, eps),
        }
    }

    fn rotary(x_bshc: Tensor<Self, 4>, angles: RotaryAngles<Self>) -> Tensor<Self, 4> {
        let inner = RotaryAngles {
            cos_sc: angles.cos_sc.clone().inner(),
            sin_sc: angles.sin_sc.clone().inner(),
        };
        match B::rotary_traced(x_bshc.clone().inner(), inner) {
            Some(traced) => record(&[primitive(x_bshc)], traced),
            None => reference::rotary(x_bshc, angles),
        }
    }

    fn project(
        x_td: Tensor<Self, 2>,
        weight_do: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        let inner = (x_td.clone().inner(), weight_do.clone().inner());
        match B::project_traced(inner.0, inner.1, precision) {
            Some(traced) => record(&[primitive(x_td), primitive(weight_do)], traced),
            None => reference::project(x_td, weight_do, precision),
        }
    }

    fn add<const D: usize>(x: Tensor<Self, D>, y: Tensor<Self, D>) -> Tensor<Self, D> {
        if x.shape().num_elements() < LARGE {
            return reference::add(x, y);
        }
        let device = x.device();
        let mut parents = [primitive(x), primitive(y)];
        // Nobody else is to hold what can be added to in place.
        let [x, y] = parents.each_mut().map(|parent| {
            // Not every backend has tensors without elements.
            let nothing = primitive(Tensor::<B, 1>::empty([1], &device));
            Tensor::<B, D>::from_primitive(TensorPrimitive::Float(std::mem::replace(
                &mut parent.primitive,
                nothing,
            )))
        });
        let traced = Traced {
            output: primitive(B::add(x, y)),
            backward: Arc::new(|dy: FloatTensor<B>, _| [Some(dy.clone()), Some(dy)]),
        };
        record(&parents, traced)
    }

    fn logistic<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        match B::logistic_traced(x.clone().inner()) {
            Some(traced) => record(&[primitive(x)], traced),
            None => reference::logistic(x),
        }
    }

    fn embed(table_vd: Tensor<Self, 2>, ids_t: Tensor<Self, 1, Int>) -> Tensor<Self, 2> {
        match B::embed_traced(table_vd.clone().inner(), ids_t.clone().inner()) {
            Some(traced) => record(&[primitive(table_vd)], traced),
            None => reference::embed(table_vd, ids_t),
        }
    }

    fn linear_cross_entropy(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Tensor<Self, 1> {
        let inner = SoftTargets {
            ids_tj: targets.ids_tj.clone().inner(),
            weights_tj: targets.weights_tj.clone().inner(),
        };
        match B::linear_cross_entropy_traced(
            x_td.clone().inner(),
            head_vd.clone().inner(),
            inner,
            precision,
        ) {
            Some(traced) => record(&[primitive(x_td), primitive(head_vd)], traced),
            None => reference::linear_cross_entropy(x_td, head_vd, targets, precision),
        }
    }
}

/// The same weights without gradients.
fn inner<B: MoeBackend, C: CheckpointStrategy>(
    weights: &ExpertWeights<Autodiff<B, C>>,
) -> ExpertWeights<B> {
    ExpertWeights {
        gate_edf: weights.gate_edf.clone().inner(),
        up_edf: weights.up_edf.clone().inner(),
        down_efd: weights.down_efd.clone().inner(),
    }
}

/// The differentiable arguments of the experts, in the order of their gradients.
fn expert_parents<B: MoeBackend, C: CheckpointStrategy>(
    x_td: Tensor<Autodiff<B, C>, 2>,
    weights: ExpertWeights<Autodiff<B, C>>,
    gates_tk: Tensor<Autodiff<B, C>, 2>,
) -> Parents<B, C, 5> {
    [
        primitive(x_td),
        primitive(weights.gate_edf),
        primitive(weights.up_edf),
        primitive(weights.down_efd),
        primitive(gates_tk),
    ]
}
