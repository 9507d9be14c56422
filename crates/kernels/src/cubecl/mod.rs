//! WGPU and CUDA, through CubeCL.

use burn::tensor::{Int, Tensor};
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};

use crate::{MoeBackend, reference};

impl<R, F, I, BT> MoeBackend for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    /// Stays on the device; the reference would sort on the host.
    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        // `argtopk` of Burn 0.21 rejects k == E.
        if k < scores_te.dims()[1] {
            scores_te.argtopk(k, 1)
        } else {
            reference::top_k(scores_te, k)
        }
    }
}
