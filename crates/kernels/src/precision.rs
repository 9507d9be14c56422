//! Precision of matrix products inside the forward pass.

use burn::tensor::{DType, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

/// Precision in which matrix products are computed. Parameters, moments and everything else stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Operands are cast to bfloat16 and the product back to f32; gradients flow through the casts.
    Bf16,
}

impl Precision {
    /// Matrix product of `lhs` and `rhs` over the last two axes in this precision, returned in f32.
    pub fn matmul<B: Backend, const D: usize>(
        self,
        lhs: Tensor<B, D>,
        rhs: Tensor<B, D>,
    ) -> Tensor<B, D> {
        self.product(self.operand(lhs), self.operand(rhs))
    }

    /// An operand of [`product`](Self::product).
    pub fn operand<B: Backend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::BF16),
        }
    }

    /// Matrix product of two [operands](Self::operand) over the last two axes, returned in f32.
    pub fn product<B: Backend, const D: usize>(
        self,
        lhs: Tensor<B, D>,
        rhs: Tensor<B, D>,
    ) -> Tensor<B, D> {
        self.result(lhs.matmul(rhs))
    }

    /// A product of [operands](Self::operand), in f32.
    pub(crate) fn result<B: Backend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::F32),
        }
    }
}
