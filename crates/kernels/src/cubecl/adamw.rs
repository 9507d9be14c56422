//! One AdamW update in one kernel.

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::buffer::{array, elements, empty};
use crate::adamw::Update;

/// Parameter and moments after the update; in place where nobody else holds them.
///
/// All four tensors are contiguous, in f32 and of one shape.
pub fn step<R: CubeRuntime>(
    parameter: CubeTensor<R>,
    gradient: &CubeTensor<R>,
    [moment_1, moment_2]: [CubeTensor<R>; 2],
    update: &Update,
) -> [CubeTensor<R>; 3] {
    let client = gradient.client.clone();
    let len = gradient.meta.num_elements();
    let inputs = [parameter, moment_1, moment_2];
    let outputs = inputs.each_ref().map(output_for);
    let (count, dim) = elements(&client, len);
    let [parameter, moment_1, moment_2] = inputs.each_ref();
    let [to_parameter, to_moment_1, to_moment_2] = [0, 1, 2].map(|i| match &outputs[i] {
        Some(output) => array(output),
        None => inputs[i].as_tensor_alias(i).into_array_arg(),
    });
    adamw_kernel::launch::<R>(
        &client,
        count,
        dim,
        array(parameter),
        array(moment_1),
        array(moment_2),
        array(gradient),
        to_parameter,
        to_moment_1,
        to_moment_2,
        len,
        update.gradient_scale,
        update.beta_1,
        update.beta_2,
        update.epsilon,
        1.0 - update.lr * update.weight_decay,
        update.lr / update.correction_1,
        update.correction_2,
    );
    let [parameter, moment_1, moment_2] = inputs;
    let [to_parameter, to_moment_1, to_moment_2] = outputs;
    [
        to_parameter.unwrap_or(parameter),
        to_moment_1.unwrap_or(moment_1),
        to_moment_2.unwrap_or(moment_2),
    ]
}

/// A new buffer for the updated `tensor`, unless it can be updated in place.
fn output_for<R: CubeRuntime>(tensor: &CubeTensor<R>) -> Option<CubeTensor<R>> {
    (!tensor.can_mut()).then(|| empty(tensor, tensor.meta.shape().clone(), tensor.dtype))
}

#[cube(launch)]
fn adamw_kernel(
    parameter: &Array<f32>,
    moment_1: &Array<f32>,
    moment_2: &Array<f32>,
    gradient: &Array<f32>,
    to_parameter: &mut Array<f32>,
    to_moment_1: &mut Array<f32>,
    to_moment_2: &mut Array<f32>,
    len: usize,
    gradient_scale: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    keep: f32,
    rate: f32,
    correction_2: f32,
) {
    let at = ABSOLUTE_POS;
    if at >= len {
        terminate!();
    }
    let g = gradient[at] * gradient_scale;
    let m = moment_1[at] * beta_1 + g * (1.0f32 - beta_1);
    let v = moment_2[at] * beta_2 + g * g * (1.0f32 - beta_2);
    let root = f32::sqrt(v / correction_2) + epsilon;
    to_parameter[at] = parameter[at] * keep - m / root * rate;
    to_moment_1[at] = m;
    to_moment_2[at] = v;
}
