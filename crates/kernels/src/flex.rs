//! The CPU kernels on Burn's Flex backend.

use std::sync::Arc;

use burn::tensor::{Bytes, DType, Int, Shape, Tensor, TensorPrimitive, ops::FloatTensor};
use burn_flex::{Flex, FlexTensor, Layout};

use crate::{
    ExpertWeights, MoeBackend, Precision, RotaryAngles, SoftTargets,
    adamw::Update,
    cpu::{self, attention, cross_entropy, expert_ffn, rotary::Turn},
    reference,
    traced::{BackwardFn, Traced, primitive},
};

/// A contiguous f32 tensor.
#[derive(Clone)]
struct Floats(FlexTensor);

impl Floats {
    fn new<const D: usize>(tensor: Tensor<Flex, D>) -> Self {
        Self::from_primitive(primitive(tensor))
    }

    fn from_primitive(tensor: FlexTensor) -> Self {
        debug_assert_eq!(tensor.dtype(), DType::F32);
        Self(tensor.to_contiguous())
    }

    fn get(&self) -> &[f32] {
        self.0.storage()
    }
}

/// A tensor that owns `values`.
fn floats(values: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Flex> {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

/// A float tensor of a primitive.
fn tensor<const D: usize>(primitive: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// Indices on the host.
fn indices<const D: usize>(tensor: Tensor<Flex, D, Int>) -> Vec<i32> {
    let tensor = tensor.into_primitive().to_contiguous();
    match tensor.as_slice::<i32>() {
        Some(indices) => indices.to_vec(),
        None => tensor.into_data().iter::<i32>().collect(),
    }
}

impl MoeBackend for Flex {
    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        let [t, e] = scores_te.dims();
        let chosen = cpu::top_k::select(Floats::new(scores_te).get(), e, k);
        let layout = Layout::contiguous(Shape::from([t, k]));
        let chosen = FlexTensor::new(Bytes::from_elems(chosen), layout, DType::I32);
        Tensor::from_primitive(chosen)
    }

    fn expert_ffn(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        if precision != Precision::F32 {
            return reference::expert_ffn(x_td, weights, experts_tk, gates_tk, precision);
        }
        let shape = x_td.dims();
        let inputs = ExpertInputs::new(x_td, weights, experts_tk, gates_tk);
        let (y, _) = expert_ffn::forward(&inputs.get(), false);
        tensor(floats(y, shape))
    }

    fn expert_ffn_traced(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Option<Traced<Self, 5>> {
        if precision != Precision::F32 {
            return None;
        }
        let (x_shape, gates_shape) = (x_td.dims(), gates_tk.dims());
        let (in_shape, out_shape) = (weights.gate_edf.dims(), weights.down_efd.dims());
        let inputs = ExpertInputs::new(x_td, weights, experts_tk, gates_tk);
        let (y, saved) = expert_ffn::forward(&inputs.get(), true);
        let saved = saved?;
        let backward: Arc<BackwardFn<Self, 5>> = Arc::new(move |dy, [x, gate, up, down, gates]| {
            let needs = expert_ffn::Needs {
                x,
                weights: gate || up || down,
                gates,
            };
            let dy = Floats::from_primitive(dy);
            let found = expert_ffn::backward(&inputs.get(), &saved, dy.get(), needs);
            let [gate, up, down] = match found.weights {
                Some(w) => [
                    Some(floats(w.gate, in_shape)),
                    Some(floats(w.up, in_shape)),
                    Some(floats(w.down, out_shape)),
                ],
                None => [None, None, None],
            };
            [
                found.x.map(|x| floats(x, x_shape)),
                gate,
                up,
                down,
                found.gates.map(|gates| floats(gates, gates_shape)),
            ]
        });
        Some(Traced {
            output: floats(y, x_shape),
            backward,
        })
    }

    fn causal_attention(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        if precision != Precision::F32 {
            return reference::causal_attention(q_bshc, k_bsgc, v_bsgc, precision);
        }
        let shape = q_bshc.dims();
        let inputs = AttentionInputs::new(q_bshc, k_bsgc, v_bsgc);
        tensor(floats(attention::forward(&inputs.get()).out, shape))
    }

    fn causal_attention_traced(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Option<Traced<Self, 3>> {
        if precision != Precision::F32 {
            return None;
        }
        let (q_shape, k_shape) = (q_bshc.dims(), k_bsgc.dims());
        let inputs = AttentionInputs::new(q_bshc, k_bsgc, v_bsgc);
        let output = attention::forward(&inputs.get());
        let out = floats(output.out.clone(), q_shape);
        let backward: Arc<BackwardFn<Self, 3>> = Arc::new(move |dout, _| {
            let dout = Floats::from_primitive(dout);
            let found = attention::backward(&inputs.get(), &output, dout.get());
            [
                Some(floats(found.q, q_shape)),
                Some(floats(found.k, k_shape)),
                Some(floats(found.v, k_shape)),
            ]
        });
        Some(Traced {
            output: out,
            backward,
        })
    }

    fn rms_norm(x_td: Tensor<Self, 2>, scale_d: Tensor<Self, 1>, eps: f32) -> Tensor<Self, 2> {
        let shape = x_td.dims();
        let (x, scale) = (Floats::new(x_td), Floats::new(scale_d));
        let (y, _) = cpu::rms_norm::forward(x.get(), scale.get(), eps);
        tensor(floats(y, shape))
    }

    fn rms_norm_traced(
        x_td: Tensor<Self, 2>,
        scale_d: Tensor<Self, 1>,
        eps: f32,
    ) -> Option<Traced<Self, 2>> {
        let (shape, scale_shape) = (x_td.dims(), scale_d.dims());
        let (x, scale) = (Floats::new(x_td), Floats::new(scale_d));
        let (y, inverse_rms) = cpu::rms_norm::forward(x.get(), scale.get(), eps);
        let backward: Arc<BackwardFn<Self, 2>> = Arc::new(move |dy, _| {
            let dy = Floats::from_primitive(dy);
            let (dx, dscale) =
                cpu::rms_norm::backward(x.get(), scale.get(), &inverse_rms, dy.get());
            [Some(floats(dx, shape)), Some(floats(dscale, scale_shape))]
        });
        Some(Traced {
            output: floats(y, shape),
            backward,
        })
    }

    fn rotary(x_bshc: Tensor<Self, 4>, angles: RotaryAngles<Self>) -> Tensor<Self, 4> {
        let shape = x_bshc.dims();
        let angles = Angles::new(angles);
        let y = angles.turn(&Floats::new(x_bshc), shape, Turn::Forward);
        tensor(floats(y, shape))
    }

    fn rotary_traced(
        x_bshc: Tensor<Self, 4>,
        angles: RotaryAngles<Self>,
    ) -> Option<Traced<Self, 1>> {
        let shape = x_bshc.dims();
        let angles = Angles::new(angles);
        let y = angles.turn(&Floats::new(x_bshc), shape, Turn::Forward);
        let backward: Arc<BackwardFn<Self, 1>> = Arc::new(move |dy, _| {
            let dx = angles.turn(&Floats::from_primitive(dy), shape, Turn::Backward);
            [Some(floats(dx, shape))]
        });
        Some(Traced {
            output: floats(y, shape),
            backward,
        })
    }

    fn embedding_traced(
        table_vd: Tensor<Self, 2>,
        ids_t: Tensor<Self, 1, Int>,
    ) -> Option<Traced<Self, 1>> {
        let [v, d] = table_vd.dims();
        let output = primitive(table_vd.select(0, ids_t.clone()));
        let ids = indices(ids_t);
        let backward: Arc<BackwardFn<Self, 1>> = Arc::new(move |dy, _| {
            let dy = Floats::from_primitive(dy);
            let dtable = cpu::embedding::backward(dy.get(), &ids, v, d);
            [Some(floats(dtable, [v, d]))]
        });
        Some(Traced { output, backward })
    }

    fn linear_cross_entropy(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Tensor<Self, 1> {
        if precision != Precision::F32 {
            return reference::linear_cross_entropy(x_td, head_vd, targets, precision);
        }
        let [t, _] = x_td.dims();
        let inputs = LossInputs::new(x_td, head_vd, targets);
        let (loss, _) = cross_entropy::forward(&inputs.get(), false);
        tensor(floats(loss, [t]))
    }

    fn linear_cross_entropy_traced(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        if precision != Precision::F32 {
            return None;
        }
        let (x_shape, head_shape) = (x_td.dims(), head_vd.dims());
        let inputs = LossInputs::new(x_td, head_vd, targets);
        let (loss, saved) = cross_entropy::forward(&inputs.get(), true);
        let saved = saved?;
        let backward: Arc<BackwardFn<Self, 2>> = Arc::new(move |dloss, _| {
            let dloss = Floats::from_primitive(dloss);
            let (dx, dhead) = cross_entropy::backward(&inputs.get(), &saved, dloss.get());
            [Some(floats(dx, x_shape)), Some(floats(dhead, head_shape))]
        });
        Some(Traced {
            output: floats(loss, [x_shape[0]]),
            backward,
        })
    }

    /// In place where nobody else holds the parameter or its moments.
    fn adamw<const D: usize>(
        parameter: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        (moment_1, moment_2): (Tensor<Self, D>, Tensor<Self, D>),
        update: Update,
    ) -> (Tensor<Self, D>, Tensor<Self, D>, Tensor<Self, D>) {
        let own = |tensor: Tensor<Self, D>| Floats::new(tensor).0;
        let (mut parameter, mut moment_1, mut moment_2) =
            (own(parameter), own(moment_1), own(moment_2));
        cpu::adamw::step(
            parameter.storage_mut(),
            moment_1.storage_mut(),
            moment_2.storage_mut(),
            Floats::new(gradient).get(),
            &update,
        );
        (tensor(parameter), tensor(moment_1), tensor(moment_2))
    }
}

/// Arguments of the expert operation, held for its backward pass.
struct ExpertInputs {
    shape: expert_ffn::Shape,
    x: Floats,
    gate_w: Floats,
    up_w: Floats,
    down_w: Floats,
    experts: Vec<i32>,
    gates: Floats,
}

impl ExpertInputs {
    fn new(
        x_td: Tensor<Flex, 2>,
        weights: ExpertWeights<Flex>,
        experts_tk: Tensor<Flex, 2, Int>,
        gates_tk: Tensor<Flex, 2>,
    ) -> Self {
        let ([tokens, model], [_, top_k]) = (x_td.dims(), gates_tk.dims());
        let [experts, _, hidden] = weights.gate_edf.dims();
        Self {
            shape: expert_ffn::Shape {
                tokens,
                top_k,
                model,
                hidden,
                experts,
            },
            x: Floats::new(x_td),
            gate_w: Floats::new(weights.gate_edf),
            up_w: Floats::new(weights.up_edf),
            down_w: Floats::new(weights.down_efd),
            experts: indices(experts_tk),
            gates: Floats::new(gates_tk),
        }
    }

    fn get(&self) -> expert_ffn::Inputs<'_> {
        expert_ffn::Inputs {
            shape: self.shape,
            x: self.x.get(),
            gate_w: self.gate_w.get(),
            up_w: self.up_w.get(),
            down_w: self.down_w.get(),
            experts: &self.experts,
            gates: self.gates.get(),
        }
    }
}

/// Arguments of attention, held for its backward pass.
struct AttentionInputs {
    shape: attention::Shape,
    q: Floats,
    k: Floats,
    v: Floats,
}

impl AttentionInputs {
    fn new(q_bshc: Tensor<Flex, 4>, k_bsgc: Tensor<Flex, 4>, v_bsgc: Tensor<Flex, 4>) -> Self {
        let ([batch, positions, heads, width], [_, _, groups, _]) = (q_bshc.dims(), k_bsgc.dims());
        Self {
            shape: attention::Shape {
                batch,
                positions,
                heads,
                groups,
                width,
            },
            q: Floats::new(q_bshc),
            k: Floats::new(k_bsgc),
            v: Floats::new(v_bsgc),
        }
    }

    fn get(&self) -> attention::Inputs<'_> {
        attention::Inputs {
            shape: self.shape,
            q: self.q.get(),
            k: self.k.get(),
            v: self.v.get(),
        }
    }
}

/// Arguments of the loss, held for its backward pass.
struct LossInputs {
    shape: cross_entropy::Shape,
    x: Floats,
    head: Floats,
    ids: Vec<i32>,
    weights: Floats,
}

impl LossInputs {
    fn new(x_td: Tensor<Flex, 2>, head_vd: Tensor<Flex, 2>, targets: SoftTargets<Flex>) -> Self {
        let ([tokens, model], [vocabulary, _]) = (x_td.dims(), head_vd.dims());
        Self {
            shape: cross_entropy::Shape {
                tokens,
                model,
                vocabulary,
                targets: targets.ids_tj.dims()[1],
            },
            x: Floats::new(x_td),
            head: Floats::new(head_vd),
            ids: indices(targets.ids_tj),
            weights: Floats::new(targets.weights_tj),
        }
    }

    fn get(&self) -> cross_entropy::Inputs<'_> {
        cross_entropy::Inputs {
            shape: self.shape,
            x: self.x.get(),
            head: self.head.get(),
            ids: &self.ids,
            weights: self.weights.get(),
        }
    }
}

/// Rotary angles, held for the backward pass.
struct Angles {
    cos: Floats,
    sin: Floats,
}

impl Angles {
    fn new(angles: RotaryAngles<Flex>) -> Self {
        Self {
            cos: Floats::new(angles.cos_sc),
            sin: Floats::new(angles.sin_sc),
        }
    }

    fn turn(
        &self,
        x: &Floats,
        [batch, positions, heads, width]: [usize; 4],
        turn: Turn,
    ) -> Vec<f32> {
        let shape = cpu::rotary::Shape {
            batch,
            positions,
            heads,
            width,
        };
        cpu::rotary::apply(x.get(), self.cos.get(), self.sin.get(), shape, turn)
    }
}
