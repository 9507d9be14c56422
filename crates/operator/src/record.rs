//! Reading and replacing the parameters of a model's record.

use burn::{
    module::Param,
    tensor::{Tensor, TensorData, backend::Backend},
};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::{BlockRecord, FeedForwardRecord};
use upcycle_moe::MoeLayerRecord;

/// The MoE layers of a model's record, in order.
pub(crate) fn moe_layers<B: MoeAutodiffBackend>(
    blocks: &[BlockRecord<B>],
) -> impl Iterator<Item = &MoeLayerRecord<B>> {
    blocks.iter().filter_map(|block| match &block.ffn {
        FeedForwardRecord::Moe(moe) => Some(moe),
        FeedForwardRecord::Dense(_) => None,
    })
}

/// The same, to be changed.
pub(crate) fn moe_layers_mut<B: MoeAutodiffBackend>(
    blocks: &mut [BlockRecord<B>],
) -> impl Iterator<Item = &mut MoeLayerRecord<B>> {
    blocks.iter_mut().filter_map(|block| match &mut block.ffn {
        FeedForwardRecord::Moe(moe) => Some(moe),
        FeedForwardRecord::Dense(_) => None,
    })
}

/// Replaces a parameter's value, keeping its id and whether it is trained.
///
/// The new value is made on the inner backend and tracked afresh: Burn rejects a parameter that is not a leaf, and
/// silently freezes one that is not tracked.
pub(crate) fn replace<B: MoeAutodiffBackend, const D: usize>(
    parameter: &mut Param<Tensor<B, D>>,
    value: Tensor<B::InnerBackend, D>,
) {
    let trained = parameter.is_require_grad();
    let value = Tensor::from_inner(value);
    let value = if trained { value.require_grad() } else { value };
    *parameter = Param::initialized(parameter.id, value);
}

/// The values of a tensor, row-major.
pub(crate) fn host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    let values = data.into_vec();
    values.unwrap_or_else(|error| unreachable!("the data was converted to f32: {error:?}"))
}

/// A tensor of these values.
pub(crate) fn device<B: Backend, const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
