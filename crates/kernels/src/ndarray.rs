//! Burn's NdArray backend: its tensors are taken apart and put together again.

use std::ops::{Deref, DerefMut};

use burn::tensor::{
    Shape, TensorData, TensorMetadata,
    ops::{FloatTensorOps, IntTensorOps},
};
use burn_ndarray::{NdArray, NdArrayDevice, NdArrayTensor};

use crate::host::Host;

/// The elements of a tensor, row by row.
#[derive(Clone)]
pub struct Floats {
    values: Vec<f32>,
    shape: Shape,
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Host for NdArray {
    type Floats = Floats;

    fn read(tensor: NdArrayTensor) -> Floats {
        let shape = tensor.shape();
        let values = match tensor {
            NdArrayTensor::F32(values) => values.into_shared().iter().copied().collect(),
            other => unreachable!("NdArray's float tensors are f32, not {:?}", other.dtype()),
        };
        Floats { values, shape }
    }

    fn is_sole(_floats: &Floats) -> bool {
        true
    }

    fn write(floats: Floats) -> NdArrayTensor {
        Self::from_vec(floats.values, floats.shape)
    }

    fn from_vec(values: Vec<f32>, shape: Shape) -> NdArrayTensor {
        Self::float_from_data(TensorData::new(values, shape), &NdArrayDevice::Cpu)
    }

    fn read_indices(tensor: NdArrayTensor) -> Vec<i32> {
        match tensor {
            NdArrayTensor::I64(indices) => {
                let indices = indices.into_shared();
                indices.iter().map(|&index| index as i32).collect()
            }
            NdArrayTensor::I32(indices) => indices.into_shared().iter().copied().collect(),
            other => unreachable!("NdArray's indices are i64 or i32, not {:?}", other.dtype()),
        }
    }

    fn from_indices(indices: Vec<i32>, shape: Shape) -> NdArrayTensor {
        let indices: Vec<i64> = indices.into_iter().map(i64::from).collect();
        Self::int_from_data(TensorData::new(indices, shape), &NdArrayDevice::Cpu)
    }
}
