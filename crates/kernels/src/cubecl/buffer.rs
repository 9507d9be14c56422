//! Contiguous device buffers and launch grids.

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, prelude::*, server::CubeCountSelection};

/// Units of a cube in kernels that need no other number; every backend allows that many.
pub const UNITS: usize = 256;

/// An uninitialised contiguous tensor on the device of `like`.
pub fn empty<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor<R> {
    let shape = shape.into();
    let handle = like.client.empty(shape.num_elements() * dtype.size());
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

/// An uninitialised buffer of `len` indices on the device of `like`.
pub fn empty_indices<R: CubeRuntime>(like: &CubeTensor<R>, len: usize) -> CubeTensor<R> {
    empty(like, [len], DType::U32)
}

/// The tensor as a flat kernel argument; it must be contiguous.
pub fn array<R: CubeRuntime>(tensor: &CubeTensor<R>) -> ArrayArg<R> {
    assert!(tensor.is_contiguous());
    tensor.clone().binding().into_array_arg()
}

/// A contiguous tensor with the elements of `tensor` as `dtype`.
pub fn contiguous_as<R: CubeRuntime>(tensor: CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    let tensor = if tensor.dtype == dtype {
        tensor
    } else {
        burn_cubecl::kernel::cast(tensor, dtype)
    };
    into_contiguous(tensor)
}

/// A grid of at least `cubes` cubes, counted by `CUBE_POS`; kernels leave the surplus idle.
pub fn cubes<R: CubeRuntime>(client: &ComputeClient<R>, cubes: usize) -> CubeCount {
    CubeCountSelection::new(client, cubes as u32).cube_count()
}

/// A grid with at least one unit for each of `len` elements, counted by `ABSOLUTE_POS`.
pub fn elements<R: CubeRuntime>(client: &ComputeClient<R>, len: usize) -> (CubeCount, CubeDim) {
    let dim = units();
    (calculate_cube_count_elemwise(client, len, dim), dim)
}

/// A cube of [`UNITS`] units in a row.
pub fn units() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}
