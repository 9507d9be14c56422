//! What a recipe may need to know about the model at tau.

use burn::tensor::{ElementConversion, Tensor, backend::Backend};

/// Measurements of the source model. Each is for all MoE layers, in order.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Squared gradient norm of every expert, see [`gradient_squared`].
    pub gradient_squared: Option<Vec<Vec<f64>>>,
    /// Some tokens and the experts they were routed to.
    pub routed_tokens: Option<Vec<RoutedTokens>>,
}

/// Tokens at the input of a MoE layer and where they were routed.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedTokens {
    /// Router inputs, `[T * D]`.
    pub inputs: Vec<f32>,
    /// Their experts, `[T * K]`.
    pub experts: Vec<usize>,
    /// Experts of a token, K.
    pub top_k: usize,
}

/// Squared norm of each expert's gradient over its gate, up and down projections (the paper's `||g||^2`).
///
/// The gradients are means over several batches, averaged before the norm is taken.
///
/// # Shapes
/// Each `[E, .., ..]`; returns `[E]`.
pub fn gradient_squared<B: Backend>(gradients: [Tensor<B, 3>; 3]) -> Vec<f64> {
    let [gate, up, down] = gradients.map(|gradient| {
        let [e, _, _] = gradient.dims();
        gradient.square().sum_dim(2).sum_dim(1).reshape([e])
    });
    (gate + up + down)
        .into_data()
        .iter::<B::FloatElem>()
        .map(|value| value.elem::<f64>())
        .collect()
}
