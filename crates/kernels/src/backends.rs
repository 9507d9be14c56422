//! Which backends carry the operations. A backend without specialised bodies takes the reference.

use burn::{
    backend::{Autodiff, autodiff::checkpoint::strategy::CheckpointStrategy},
    tensor::{Int, Tensor},
};

use crate::MoeBackend;

impl<B: MoeBackend, C: CheckpointStrategy> MoeBackend for Autodiff<B, C> {
    fn top_k(scores_te: Tensor<Self, 2>, k: usize) -> Tensor<Self, 2, Int> {
        Tensor::from_inner(B::top_k(scores_te.inner(), k))
    }
}

#[cfg(feature = "flex")]
impl MoeBackend for burn_flex::Flex {}

#[cfg(feature = "ndarray")]
impl MoeBackend for burn_ndarray::NdArray {}

#[cfg(feature = "cubecl")]
mod cubecl {
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
}
