//! Tensors by way of the host's memory.

use burn::tensor::{Tensor, TensorData, backend::Backend};

use crate::error::TeamError;

/// What a tensor holds. Devices are not asked for tensors without elements, which some cannot read.
pub(crate) fn read<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> Result<TensorData, TeamError> {
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    if !dtype.is_float() {
        let problem = format!("tensors of {dtype:?} do not go to other devices");
        return Err(TeamError::Send(problem));
    }
    if shape.num_elements() == 0 {
        return Ok(TensorData::from_bytes_vec(Vec::new(), shape, dtype));
    }
    let data = tensor.try_into_data();
    data.map_err(|error| TeamError::Send(error.to_string()))
}

/// The tensor on a device that has its type.
pub(crate) fn upload<B: Backend, const D: usize>(
    data: TensorData,
    device: &B::Device,
) -> Tensor<B, D> {
    let options = (device, data.dtype);
    match data.shape.num_elements() {
        0 => Tensor::empty(data.shape, options),
        _ => Tensor::from_data(data, options),
    }
}

/// The tensor on this device.
///
/// Burn's `to_device` is not used between devices: on CUDA it needs NCCL and does not keep the source's memory until it is
/// read, and on WGPU it panics.
pub(crate) fn moved<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
    device: &B::Device,
) -> Result<Tensor<B, D>, TeamError> {
    if tensor.device() == *device {
        return Ok(tensor);
    }
    Ok(upload(read(tensor)?, device))
}
