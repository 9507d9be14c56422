//! Reading and replacing the parameters of a model.

use burn::{
    module::Param,
    tensor::{Tensor, TensorData, backend::Backend},
};
use upcycle_kernels::MoeAutodiffBackend;

/// Replaces a parameter's value, keeping its id and whether it is trained.
///
/// The new value is made on the inner backend and tracked afresh: Burn rejects a parameter that is not a leaf, and
/// silently freezes one that is not tracked.
pub(crate) fn replace<B: MoeAutodiffBackend, const D: usize>(
    parameter: &mut Param<Tensor<B, D>>,
    value: Tensor<B::InnerBackend, D>,
) {
    let trained = parameter.is_require_grad();
    let value = Tensor::from_inner(value).set_require_grad(trained);
    *parameter = Param::initialized(parameter.id, value);
}

/// The values of a tensor, row-major.
pub(crate) fn host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    let values = data.into_vec();
    values.unwrap_or_else(|error| unreachable!("the data was converted to f32: {error:?}"))
}

/// A tensor of these values.
pub(crate) fn on_device<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
