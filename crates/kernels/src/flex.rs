//! Burn's Flex backend: its tensors are read and updated where they lie.

use std::ops::{Deref, DerefMut};

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{Flex, FlexTensor, Layout};

use crate::host::Host;

/// A contiguous f32 tensor.
#[derive(Clone)]
pub struct Floats(FlexTensor);

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.storage()
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.storage_mut()
    }
}

impl Host for Flex {
    type Floats = Floats;

    fn read(tensor: FlexTensor) -> Floats {
        assert_eq!(tensor.dtype(), DType::F32);
        Floats(tensor.to_contiguous())
    }

    fn is_sole(floats: &Floats) -> bool {
        floats.0.is_unique()
    }

    fn write(floats: Floats) -> FlexTensor {
        floats.0
    }

    fn from_vec(values: Vec<f32>, shape: Shape) -> FlexTensor {
        let layout = Layout::contiguous(shape);
        FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
    }

    fn read_indices(tensor: FlexTensor) -> Vec<i32> {
        let tensor = tensor.to_contiguous();
        match tensor.as_slice::<i32>() {
            Some(indices) => indices.to_vec(),
            None => tensor.into_data().iter::<i32>().collect(),
        }
    }

    fn from_indices(indices: Vec<i32>, shape: Shape) -> FlexTensor {
        let layout = Layout::contiguous(shape);
        FlexTensor::new(Bytes::from_elems(indices), layout, DType::I32)
    }
}
