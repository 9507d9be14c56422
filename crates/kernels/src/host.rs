//! Backends whose tensors lie in host memory: they share the CPU kernels.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use burn::tensor::{
    Int, Shape, Tensor, TensorPrimitive,
    backend::Backend,
    ops::{FloatTensor, IntTensor},
};

use crate::{
    Bodies, ExpertWeights, Kernels, MoeBackend, Precision, RotaryAngles, SoftTargets,
    adamw::Update,
    cpu::{self, attention, cross_entropy, dense, elementwise, expert_ffn, rotary::Turn},
    reference,
    traced::{BackwardFn, Traced, primitive},
};

/// A backend whose f32 tensors can be had as slices; [`MoeBackend`] follows.
pub trait Host: Backend {
    /// A contiguous f32 tensor; changes do not reach other holders of it.
    type Floats: Deref<Target = [f32]> + DerefMut + Clone + Send + Sync + 'static;

    /// The elements of a tensor.
    fn read(tensor: FloatTensor<Self>) -> Self::Floats;

    /// Whether nobody else holds these elements.
    fn is_sole(floats: &Self::Floats) -> bool;

    /// The tensor of these elements.
    fn write(floats: Self::Floats) -> FloatTensor<Self>;

    /// A tensor that owns `values`.
    fn from_vec(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;

    /// Indices.
    fn read_indices(tensor: IntTensor<Self>) -> Vec<i32>;

    /// A tensor that owns `indices`.
    fn from_indices(indices: Vec<i32>, shape: Shape) -> IntTensor<Self>;
}

/// The elements of a tensor.
fn read<B: Host, const D: usize>(tensor: Tensor<B, D>) -> B::Floats {
    B::read(primitive(tensor))
}

/// A tensor that owns `values`.
fn floats<B: Host>(values: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<B> {
    B::from_vec(values, shape.into())
}

/// A float tensor of a primitive.
fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// Indices on the host.
fn indices<B: Host, const D: usize>(tensor: Tensor<B, D, Int>) -> Vec<i32> {
    B::read_indices(tensor.into_primitive())
}

/// Whether the kernels are to be used, which compute in f32.
fn specialised(precision: Precision) -> bool {
    precision == Precision::F32 && Bodies::selected() == Bodies::Specialised
}

/// Stack of a pool's threads, as a main thread has it.
const STACK: usize = 8 << 20;

impl<B: Host> MoeBackend for B {
    fn kernels(_device: &Self::Device, precision: Precision) -> Kernels {
        match specialised(precision) {
            true => Kernels::Specialised,
            false => Kernels::Reference,
        }
    }

    /// In a pool of its own: in a shared one, a worker that waits for others might begin somebody else's work.
    fn run_one_of<R: Send>(workers: usize, work: impl FnOnce() -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK);
        // Of as many threads as were asked for in this process.
        let threads = (rayon::current_num_threads() / workers.max(1)).max(1);
        match pool.num_threads(threads).build() {
            Ok(pool) => pool.install(|| cpu::parallel::awake(work)),
            // Slower, but all the same.
            Err(_) => work(),
        }
    }

    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        if !specialised(Precision::F32) {
            return reference::top_k(scores_te, k);
        }
        let [t, e] = scores_te.dims();
        let chosen = cpu::top_k::select(&read(scores_te), e, k);
        Tensor::from_primitive(B::from_indices(chosen, Shape::from([t, k])))
    }

    fn expert_ffn(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        if !specialised(precision) {
            return reference::expert_ffn(x_td, weights, experts_tk, gates_tk, precision);
        }
        let shape = x_td.dims();
        let inputs = ExpertInputs::new(x_td, weights, experts_tk, gates_tk);
        let (y, _) = expert_ffn::forward(&inputs.get(), false);
        tensor(floats::<B>(y, shape))
    }

    fn expert_ffn_traced(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Option<Traced<Self, 5>> {
        if !specialised(precision) {
            return None;
        }
        let (x_shape, gates_shape) = (x_td.dims(), gates_tk.dims());
        let (in_shape, out_shape) = (weights.gate_edf.dims(), weights.down_efd.dims());
        let inputs = ExpertInputs::new(x_td, weights, experts_tk, gates_tk);
        let (y, saved) = expert_ffn::forward(&inputs.get(), true);
        let saved = saved?;
        let backward: Arc<BackwardFn<B, 5>> = Arc::new(move |dy, [x, gate, up, down, gates]| {
            let needs = expert_ffn::Needs {
                x,
                weights: gate || up || down,
                gates,
            };
            let dy = B::read(dy);
            let found = expert_ffn::backward(&inputs.get(), &saved, &dy, needs);
            let [gate, up, down] = match found.weights {
                Some(w) => [
                    Some(floats::<B>(w.gate, in_shape)),
                    Some(floats::<B>(w.up, in_shape)),
                    Some(floats::<B>(w.down, out_shape)),
                ],
                None => [None, None, None],
            };
            [
                found.x.map(|x| floats::<B>(x, x_shape)),
                gate,
                up,
                down,
                found.gates.map(|gates| floats::<B>(gates, gates_shape)),
            ]
        });
        Some(Traced {
            output: floats::<B>(y, x_shape),
            backward,
        })
    }

    fn causal_attention(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        if !specialised(precision) {
            return reference::causal_attention(q_bshc, k_bsgc, v_bsgc, precision);
        }
        let shape = q_bshc.dims();
        let inputs = AttentionInputs::new(q_bshc, k_bsgc, v_bsgc);
        tensor(floats::<B>(attention::forward(&inputs.get()).out, shape))
    }

    fn causal_attention_traced(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Option<Traced<Self, 3>> {
        if !specialised(precision) {
            return None;
        }
        let (q_shape, k_shape) = (q_bshc.dims(), k_bsgc.dims());
        let inputs = AttentionInputs::new(q_bshc, k_bsgc, v_bsgc);
        let attention::Output { out, log_sum_exp } = attention::forward(&inputs.get());
        let output = floats::<B>(out, q_shape);
        let out = B::read(output.clone());
        let backward: Arc<BackwardFn<B, 3>> = Arc::new(move |dout, _| {
            let dout = B::read(dout);
            let found = attention::backward(&inputs.get(), &out, &log_sum_exp, &dout);
            [
                Some(floats::<B>(found.q, q_shape)),
                Some(floats::<B>(found.k, k_shape)),
                Some(floats::<B>(found.v, k_shape)),
            ]
        });
        Some(Traced { output, backward })
    }

    fn rms_norm(x_td: Tensor<Self, 2>, scale_d: Tensor<Self, 1>, eps: f32) -> Tensor<Self, 2> {
        if !specialised(Precision::F32) {
            return reference::rms_norm(x_td, scale_d, eps);
        }
        let shape = x_td.dims();
        let (x, scale) = (read(x_td), read(scale_d));
        let (y, _) = cpu::rms_norm::forward(&x, &scale, eps);
        tensor(floats::<B>(y, shape))
    }

    fn rms_norm_traced(
        x_td: Tensor<Self, 2>,
        scale_d: Tensor<Self, 1>,
        eps: f32,
    ) -> Option<Traced<Self, 2>> {
        if !specialised(Precision::F32) {
            return None;
        }
        let (shape, scale_shape) = (x_td.dims(), scale_d.dims());
        let (x, scale) = (read(x_td), read(scale_d));
        let (y, inverse_rms) = cpu::rms_norm::forward(&x, &scale, eps);
        let backward: Arc<BackwardFn<B, 2>> = Arc::new(move |dy, _| {
            let dy = B::read(dy);
            let (dx, dscale) = cpu::rms_norm::backward(&x, &scale, &inverse_rms, &dy);
            [
                Some(floats::<B>(dx, shape)),
                Some(floats::<B>(dscale, scale_shape)),
            ]
        });
        Some(Traced {
            output: floats::<B>(y, shape),
            backward,
        })
    }

    fn rotary(x_bshc: Tensor<Self, 4>, angles: RotaryAngles<Self>) -> Tensor<Self, 4> {
        if !specialised(Precision::F32) {
            return reference::rotary(x_bshc, angles);
        }
        let shape = x_bshc.dims();
        let angles = Angles::new(angles);
        let y = angles.turn(&read(x_bshc), shape, Turn::Forward);
        tensor(floats::<B>(y, shape))
    }

    fn rotary_traced(
        x_bshc: Tensor<Self, 4>,
        angles: RotaryAngles<Self>,
    ) -> Option<Traced<Self, 1>> {
        if !specialised(Precision::F32) {
            return None;
        }
        let shape = x_bshc.dims();
        let angles = Angles::new(angles);
        let y = angles.turn(&read(x_bshc), shape, Turn::Forward);
        let backward: Arc<BackwardFn<B, 1>> = Arc::new(move |dy, _| {
            let dx = angles.turn(&B::read(dy), shape, Turn::Backward);
            [Some(floats::<B>(dx, shape))]
        });
        Some(Traced {
            output: floats::<B>(y, shape),
            backward,
        })
    }

    fn project(
        x_td: Tensor<Self, 2>,
        weight_do: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        if !specialised(precision) {
            return reference::project(x_td, weight_do, precision);
        }
        let ([t, d], [_, o]) = (x_td.dims(), weight_do.dims());
        let y = dense::forward(&read(x_td), &read(weight_do), d, o);
        tensor(floats::<B>(y, [t, o]))
    }

    fn project_traced(
        x_td: Tensor<Self, 2>,
        weight_do: Tensor<Self, 2>,
        precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        if !specialised(precision) {
            return None;
        }
        let ([t, d], [_, o]) = (x_td.dims(), weight_do.dims());
        let (x, weight) = (read(x_td), read(weight_do));
        let y = dense::forward(&x, &weight, d, o);
        let backward: Arc<BackwardFn<B, 2>> = Arc::new(move |dy, [needs_x, needs_weight]| {
            let dy = B::read(dy);
            let dx = needs_x.then(|| dense::backward_x(&dy, &weight, d, o));
            let dweight = needs_weight.then(|| dense::backward_w(&x, &dy, d, o));
            [
                dx.map(|dx| floats::<B>(dx, [t, d])),
                dweight.map(|dweight| floats::<B>(dweight, [d, o])),
            ]
        });
        Some(Traced {
            output: floats::<B>(y, [t, o]),
            backward,
        })
    }

    /// In place where nobody else holds one of them.
    fn add<const D: usize>(x: Tensor<Self, D>, y: Tensor<Self, D>) -> Tensor<Self, D> {
        if !specialised(Precision::F32) {
            return reference::add(x, y);
        }
        let shape = x.dims();
        let (mut x, mut y) = (read(x), read(y));
        if !B::is_sole(&x) && B::is_sole(&y) {
            std::mem::swap(&mut x, &mut y);
        }
        match B::is_sole(&x) {
            true => {
                elementwise::add(&mut x, &y);
                tensor(B::write(x))
            }
            false => tensor(floats::<B>(elementwise::sum(&x, &y), shape)),
        }
    }

    fn logistic<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, D> {
        if !specialised(Precision::F32) {
            return reference::logistic(x);
        }
        let shape = x.dims();
        tensor(floats::<B>(elementwise::sigmoid(&read(x)), shape))
    }

    fn logistic_traced<const D: usize>(x: Tensor<Self, D>) -> Option<Traced<Self, 1>> {
        if !specialised(Precision::F32) {
            return None;
        }
        let shape = x.dims();
        let y = primitive(<Self as MoeBackend>::logistic(x));
        let kept = B::read(y.clone());
        let backward: Arc<BackwardFn<B, 1>> = Arc::new(move |dy, _| {
            let dx = elementwise::sigmoid_backward(&kept, &B::read(dy));
            [Some(floats::<B>(dx, shape))]
        });
        Some(Traced {
            output: y,
            backward,
        })
    }

    fn embed_traced(
        table_vd: Tensor<Self, 2>,
        ids_t: Tensor<Self, 1, Int>,
    ) -> Option<Traced<Self, 1>> {
        if !specialised(Precision::F32) {
            return None;
        }
        let [v, d] = table_vd.dims();
        let output = primitive(reference::embed(table_vd, ids_t.clone()));
        let ids = indices(ids_t);
        let backward: Arc<BackwardFn<B, 1>> = Arc::new(move |dy, _| {
            let dy = B::read(dy);
            let dtable = cpu::embedding::backward(&dy, &ids, v, d);
            [Some(floats::<B>(dtable, [v, d]))]
        });
        Some(Traced { output, backward })
    }

    fn linear_cross_entropy(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Tensor<Self, 1> {
        if !specialised(precision) {
            return reference::linear_cross_entropy(x_td, head_vd, targets, precision);
        }
        let [t, _] = x_td.dims();
        let inputs = LossInputs::new(x_td, head_vd, targets);
        let (loss, _) = cross_entropy::forward(&inputs.get(), false);
        tensor(floats::<B>(loss, [t]))
    }

    fn linear_cross_entropy_traced(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        if !specialised(precision) {
            return None;
        }
        let (x_shape, head_shape) = (x_td.dims(), head_vd.dims());
        let inputs = LossInputs::new(x_td, head_vd, targets);
        let (loss, saved) = cross_entropy::forward(&inputs.get(), true);
        let saved = saved?;
        let backward: Arc<BackwardFn<B, 2>> = Arc::new(move |dloss, _| {
            let dloss = B::read(dloss);
            let (dx, dhead) = cross_entropy::backward(&inputs.get(), &saved, &dloss);
            [
                Some(floats::<B>(dx, x_shape)),
                Some(floats::<B>(dhead, head_shape)),
            ]
        });
        Some(Traced {
            output: floats::<B>(loss, [x_shape[0]]),
            backward,
        })
    }

    fn squared_norm<const D: usize>(x: Tensor<Self, D>) -> Tensor<Self, 1> {
        if !specialised(Precision::F32) {
            return reference::squared_norm(x);
        }
        let norm = elementwise::squared_norm(&read(x));
        tensor(floats::<B>(vec![norm], [1]))
    }

    /// In place where nobody else holds the parameter or its moments.
    fn adamw<const D: usize>(
        parameter: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        (moment_1, moment_2): (Tensor<Self, D>, Tensor<Self, D>),
        update: Update,
    ) -> (Tensor<Self, D>, Tensor<Self, D>, Tensor<Self, D>) {
        if !specialised(Precision::F32) {
            return reference::adamw(parameter, gradient, (moment_1, moment_2), update);
        }
        let [mut parameter, mut moment_1, mut moment_2] = [parameter, moment_1, moment_2].map(read);
        cpu::adamw::step(
            &mut parameter,
            &mut moment_1,
            &mut moment_2,
            &read(gradient),
            &update,
        );
        let own = |floats| tensor(B::write(floats));
        (own(parameter), own(moment_1), own(moment_2))
    }
}

/// Arguments of the expert operation, held for its backward pass.
struct ExpertInputs<B: Host> {
    shape: expert_ffn::Shape,
    x: B::Floats,
    gate_w: B::Floats,
    up_w: B::Floats,
    down_w: B::Floats,
    experts: Vec<i32>,
    gates: B::Floats,
}

impl<B: Host> ExpertInputs<B> {
    fn new(
        x_td: Tensor<B, 2>,
        weights: ExpertWeights<B>,
        experts_tk: Tensor<B, 2, Int>,
        gates_tk: Tensor<B, 2>,
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
            x: read(x_td),
            gate_w: read(weights.gate_edf),
            up_w: read(weights.up_edf),
            down_w: read(weights.down_efd),
            experts: indices(experts_tk),
            gates: read(gates_tk),
        }
    }

    fn get(&self) -> expert_ffn::Inputs<'_> {
        expert_ffn::Inputs {
            shape: self.shape,
            x: &self.x,
            gate_w: &self.gate_w,
            up_w: &self.up_w,
            down_w: &self.down_w,
            experts: &self.experts,
            gates: &self.gates,
        }
    }
}

/// Arguments of attention, held for its backward pass.
struct AttentionInputs<B: Host> {
    shape: attention::Shape,
    q: B::Floats,
    k: B::Floats,
    v: B::Floats,
}

impl<B: Host> AttentionInputs<B> {
    fn new(q_bshc: Tensor<B, 4>, k_bsgc: Tensor<B, 4>, v_bsgc: Tensor<B, 4>) -> Self {
        let ([batch, positions, heads, width], [_, _, groups, _]) = (q_bshc.dims(), k_bsgc.dims());
        Self {
            shape: attention::Shape {
                batch,
                positions,
                heads,
                groups,
                width,
            },
            q: read(q_bshc),
            k: read(k_bsgc),
            v: read(v_bsgc),
        }
    }

    fn get(&self) -> attention::Inputs<'_> {
        attention::Inputs {
            shape: self.shape,
            q: &self.q,
            k: &self.k,
            v: &self.v,
        }
    }
}

/// Arguments of the loss, held for its backward pass.
struct LossInputs<B: Host> {
    shape: cross_entropy::Shape,
    x: B::Floats,
    head: B::Floats,
    ids: Vec<i32>,
    weights: B::Floats,
}

impl<B: Host> LossInputs<B> {
    fn new(x_td: Tensor<B, 2>, head_vd: Tensor<B, 2>, targets: SoftTargets<B>) -> Self {
        let ([tokens, model], [vocabulary, _]) = (x_td.dims(), head_vd.dims());
        Self {
            shape: cross_entropy::Shape {
                tokens,
                model,
                vocabulary,
                targets: targets.ids_tj.dims()[1],
            },
            x: read(x_td),
            head: read(head_vd),
            ids: indices(targets.ids_tj),
            weights: read(targets.weights_tj),
        }
    }

    fn get(&self) -> cross_entropy::Inputs<'_> {
        cross_entropy::Inputs {
            shape: self.shape,
            x: &self.x,
            head: &self.head,
            ids: &self.ids,
            weights: &self.weights,
        }
    }
}

/// Rotary angles, held for the backward pass.
struct Angles<B: Host> {
    cos: B::Floats,
    sin: B::Floats,
}

impl<B: Host> Angles<B> {
    fn new(angles: RotaryAngles<B>) -> Self {
        Self {
            cos: read(angles.cos_sc),
            sin: read(angles.sin_sc),
        }
    }

    fn turn(
        &self,
        x: &[f32],
        [batch, positions, heads, width]: [usize; 4],
        turn: Turn,
    ) -> Vec<f32> {
        let shape = cpu::rotary::Shape {
            batch,
            positions,
            heads,
            width,
        };
        cpu::rotary::apply(x, &self.cos, &self.sin, shape, turn)
    }
}
