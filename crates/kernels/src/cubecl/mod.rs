//! WGPU and CUDA, through CubeCL.
//!
//! Kernels take f32 tensors and integers of any type, and read nothing back from the device.

mod adamw;
mod buffer;
mod combine;
mod embedding;
mod expert_ffn;
mod grouped;
mod reduce;
mod rms_norm;
mod rotary;
mod routing;
mod scan;
mod softmax;
mod sort;
mod swiglu;
mod tensor_core;
mod tile;
mod top_k;
mod weight_gradient;

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorPrimitive};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};

use self::{grouped::Core, rotary::Turn, softmax::OnCubes, tensor_core::Instruction};
use crate::{
    Bodies, DeviceMemory, ExpertWeights, Kernels, MoeBackend, Precision, Proof, RotaryAngles,
    SoftTargets, TensorCores, Traced, adamw::Update, blocks, proof, reference, traced::primitive,
};

/// The backward pass of an operation on device tensors.
type Backward<R, const N: usize> =
    dyn Fn(CubeTensor<R>, [bool; N]) -> [Option<CubeTensor<R>>; N] + Send + Sync;

impl<R, F, I, BT> MoeBackend for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    fn prove(device: &Self::Device) -> Option<Proof> {
        let probe = primitive(Tensor::<Self, 1>::zeros([1], device));
        Instruction::find(&probe, DType::BF16).map(|_| proof::prove::<Self>(device))
    }

    fn memory(device: &Self::Device) -> Option<DeviceMemory> {
        let usage = R::client(device).memory_usage().ok()?;
        Some(DeviceMemory {
            in_use: usage.bytes_in_use,
            reserved: usage.bytes_reserved,
        })
    }

    fn kernels(device: &Self::Device, precision: Precision) -> Kernels {
        let probe = Tensor::<Self, 1>::zeros([1], device);
        if !specialised(&probe) {
            return Kernels::Reference;
        }
        match core(&primitive(probe), operand(precision)) {
            Some(Core::Tensor(_)) => Kernels::TensorCores,
            Some(Core::Units) => Kernels::Specialised,
            None => Kernels::Reference,
        }
    }

    /// Stays on the device; the reference would sort on the host.
    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        if !specialised(&scores_te) {
            return reference::top_k(scores_te, k);
        }
        // `argtopk` of Burn 0.21 rejects k == E.
        if k < scores_te.dims()[1] {
            scores_te.argtopk(k, 1)
        } else {
            let order_te = top_k::argsort(&contiguous(scores_te), I::dtype());
            Tensor::from_primitive(order_te)
        }
    }

    fn expert_ffn(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        match expert_inputs(&x_td, &weights, &experts_tk, &gates_tk, precision) {
            Some(inputs) => tensor(expert_ffn::forward(&inputs).0),
            None => reference::expert_ffn(x_td, weights, experts_tk, gates_tk, precision),
        }
    }

    fn expert_ffn_traced(
        x_td: Tensor<Self, 2>,
        weights: ExpertWeights<Self>,
        experts_tk: Tensor<Self, 2, Int>,
        gates_tk: Tensor<Self, 2>,
        precision: Precision,
    ) -> Option<Traced<Self, 5>> {
        let inputs = expert_inputs(&x_td, &weights, &experts_tk, &gates_tk, precision)?;
        let (output, backward) = expert_ffn::traced(inputs);
        Some(Traced { output, backward })
    }

    fn causal_attention_traced(
        q_bshc: Tensor<Self, 4>,
        k_bsgc: Tensor<Self, 4>,
        v_bsgc: Tensor<Self, 4>,
        precision: Precision,
    ) -> Option<Traced<Self, 3>> {
        let applies = specialised(&q_bshc) && specialised(&k_bsgc) && specialised(&v_bsgc);
        let attention = match applies {
            true => blocks::causal_attention_with::<Self, OnCubes>,
            false => blocks::causal_attention::<Self>,
        };
        Bodies::are_specialised()
            .then(|| attention(q_bshc, k_bsgc, v_bsgc, precision, blocks::BLOCK))
    }

    fn linear_cross_entropy_traced(
        x_td: Tensor<Self, 2>,
        head_vd: Tensor<Self, 2>,
        targets: SoftTargets<Self>,
        precision: Precision,
    ) -> Option<Traced<Self, 2>> {
        let applies =
            specialised(&x_td) && specialised(&head_vd) && specialised(&targets.weights_tj);
        let head = match applies {
            true => blocks::linear_cross_entropy_with::<Self, OnCubes>,
            false => blocks::linear_cross_entropy::<Self>,
        };
        Bodies::are_specialised().then(|| head(x_td, head_vd, targets, precision, blocks::BLOCK))
    }

    fn rms_norm(x_td: Tensor<Self, 2>, scale_d: Tensor<Self, 1>, eps: f32) -> Tensor<Self, 2> {
        if !(specialised(&x_td) && specialised(&scale_d)) {
            return reference::rms_norm(x_td, scale_d, eps);
        }
        let (x_td, scale_d) = (contiguous(x_td), contiguous(scale_d));
        tensor(rms_norm::forward(&x_td, &scale_d, eps).0)
    }

    fn rms_norm_traced(
        x_td: Tensor<Self, 2>,
        scale_d: Tensor<Self, 1>,
        eps: f32,
    ) -> Option<Traced<Self, 2>> {
        if !(specialised(&x_td) && specialised(&scale_d)) {
            return None;
        }
        let (x_td, scale_d) = (contiguous(x_td), contiguous(scale_d));
        let (output, inverse_rms_t) = rms_norm::forward(&x_td, &scale_d, eps);
        let backward = move |dy_td: CubeTensor<R>, [x, scale]: [bool; 2]| {
            let dy_td = into_contiguous(dy_td);
            [
                x.then(|| rms_norm::backward_x(&x_td, &scale_d, &inverse_rms_t, &dy_td)),
                scale.then(|| rms_norm::backward_scale(&x_td, &inverse_rms_t, &dy_td)),
            ]
        };
        Some(Traced {
            output,
            backward: Arc::new(backward),
        })
    }

    fn rotary(x_bshc: Tensor<Self, 4>, angles: RotaryAngles<Self>) -> Tensor<Self, 4> {
        if !(specialised(&x_bshc) && specialised(&angles.cos_sc) && specialised(&angles.sin_sc)) {
            return reference::rotary(x_bshc, angles);
        }
        let (cos_sc, sin_sc) = (contiguous(angles.cos_sc), contiguous(angles.sin_sc));
        tensor(rotary::rotate(
            &contiguous(x_bshc),
            &cos_sc,
            &sin_sc,
            Turn::Forward,
        ))
    }

    fn rotary_traced(
        x_bshc: Tensor<Self, 4>,
        angles: RotaryAngles<Self>,
    ) -> Option<Traced<Self, 1>> {
        if !(specialised(&x_bshc) && specialised(&angles.cos_sc) && specialised(&angles.sin_sc)) {
            return None;
        }
        let (cos_sc, sin_sc) = (contiguous(angles.cos_sc), contiguous(angles.sin_sc));
        let output = rotary::rotate(&contiguous(x_bshc), &cos_sc, &sin_sc, Turn::Forward);
        let backward = move |dy_bshc: CubeTensor<R>, _: [bool; 1]| {
            let dy_bshc = into_contiguous(dy_bshc);
            [Some(rotary::rotate(
                &dy_bshc,
                &cos_sc,
                &sin_sc,
                Turn::Backward,
            ))]
        };
        Some(Traced {
            output,
            backward: Arc::new(backward),
        })
    }

    fn embed_traced(
        table_vd: Tensor<Self, 2>,
        ids_t: Tensor<Self, 1, Int>,
    ) -> Option<Traced<Self, 1>> {
        let [vocabulary, _] = table_vd.dims();
        specialised(&table_vd).then(|| {
            let output = primitive(reference::embed(table_vd, ids_t.clone()));
            let ids_t = into_contiguous(ids_t.into_primitive());
            let backward = move |dy_td: CubeTensor<R>, _| {
                let dy_td = into_contiguous(dy_td);
                [Some(embedding::gradient(&dy_td, &ids_t, vocabulary))]
            };
            Traced {
                output,
                backward: Arc::new(backward),
            }
        })
    }

    fn adamw<const D: usize>(
        parameter: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        moments: (Tensor<Self, D>, Tensor<Self, D>),
        update: Update,
    ) -> (Tensor<Self, D>, Tensor<Self, D>, Tensor<Self, D>) {
        let all_specialised = [&parameter, &gradient, &moments.0, &moments.1]
            .into_iter()
            .all(specialised);
        if !all_specialised {
            return reference::adamw(parameter, gradient, moments, update);
        }
        let moments = [contiguous(moments.0), contiguous(moments.1)];
        let [parameter, moment_1, moment_2] = adamw::step(
            contiguous(parameter),
            &contiguous(gradient),
            moments,
            &update,
        );
        (tensor(parameter), tensor(moment_1), tensor(moment_2))
    }
}

/// Prepared arguments of the expert kernels; none where those do not apply: other floats than f32, a device without
/// bf16 when that is asked for, or more elements than 32 bits count. Also none for bf16 on a device with tensor cores, unless
/// the kernels that use them have [proved](Proof) themselves there: Burn's products use them too, and that is worth the one
/// number a layer that the reference reads.
fn expert_inputs<R, F, I, BT>(
    x_td: &Tensor<CubeBackend<R, F, I, BT>, 2>,
    weights: &ExpertWeights<CubeBackend<R, F, I, BT>>,
    experts_tk: &Tensor<CubeBackend<R, F, I, BT>, 2, Int>,
    gates_tk: &Tensor<CubeBackend<R, F, I, BT>, 2>,
    precision: Precision,
) -> Option<expert_ffn::Inputs<R>>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    let ExpertWeights {
        gate_edf,
        up_edf,
        down_efd,
    } = weights;
    let operand = operand(precision);
    let weights_apply = [gate_edf, up_edf, down_efd].into_iter().all(specialised);
    let floats = [
        primitive(x_td.clone()),
        primitive(gate_edf.clone()),
        primitive(up_edf.clone()),
        primitive(down_efd.clone()),
    ];
    let gates = primitive(gates_tk.clone());
    let applies = weights_apply
        && specialised(x_td)
        && specialised(gates_tk)
        && supports(&gates, operand)
        && addressable(weights, gates.meta.num_elements());
    let core = core(&gates, operand).filter(|_| applies)?;
    let experts_tk = experts_tk.clone().into_primitive();
    Some(expert_ffn::Inputs::new(
        floats, experts_tk, gates, operand, core,
    ))
}

/// Whether 32 bits count the elements of the weights and of the activations of `rows` routed rows.
fn addressable<R, F, I, BT>(weights: &ExpertWeights<CubeBackend<R, F, I, BT>>, rows: usize) -> bool
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    let [experts, model, hidden] = weights.gate_edf.dims();
    let largest = (experts * model * hidden).max(rows * model.max(hidden));
    u32::try_from(largest).is_ok()
}

/// The type of the operands of products in a precision.
fn operand(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

/// Whether the device of `tensor` computes in `dtype`.
fn supports<R: CubeRuntime>(tensor: &CubeTensor<R>, dtype: DType) -> bool {
    let storage = cubecl::ir::StorageType::from(dtype);
    tensor.client.properties().supports_type(storage)
}

/// What multiplies operands of this type on the device of `tensor`; none where Burn's own products are to do it.
fn core<R: CubeRuntime>(tensor: &CubeTensor<R>, operand: DType) -> Option<Core> {
    let matmul = &tensor.client.properties().features.matmul;
    let storage = cubecl::ir::StorageType::from(operand);
    let has_tensor_cores = matmul.cmma.iter().any(|config| config.a_type == storage);
    match TensorCores::chosen() {
        _ if operand == DType::F32 || !has_tensor_cores => Some(Core::Units),
        TensorCores::Own => Instruction::find(tensor, operand).map(Core::Tensor),
        TensorCores::Units => Some(Core::Units),
        TensorCores::Burn => None,
    }
}

/// Whether the kernels are to be used, which compute on f32 tensors.
fn specialised<R, F, I, BT, const D: usize>(tensor: &Tensor<CubeBackend<R, F, I, BT>, D>) -> bool
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    tensor.dtype() == DType::F32 && Bodies::selected() == Bodies::Specialised
}

/// The contiguous primitive of a float tensor.
fn contiguous<R, F, I, BT, const D: usize>(
    tensor: Tensor<CubeBackend<R, F, I, BT>, D>,
) -> CubeTensor<R>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    into_contiguous(primitive(tensor))
}

/// A float tensor of a primitive.
fn tensor<R, F, I, BT, const D: usize>(
    primitive: CubeTensor<R>,
) -> Tensor<CubeBackend<R, F, I, BT>, D>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
