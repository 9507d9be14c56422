//! Operations that know their own backward pass, and how autodiff records them.

use std::{fmt, sync::Arc};

use burn::{
    backend::{
        Autodiff,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
    },
    tensor::{Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

/// The gradients of `N` arguments from the gradient of the output; none where a gradient is not asked for.
pub type BackwardFn<B, const N: usize> =
    dyn Fn(FloatTensor<B>, [bool; N]) -> [Option<FloatTensor<B>>; N] + Send + Sync;

/// Output of an operation with `N` differentiable arguments, and its backward pass.
pub struct Traced<B: Backend, const N: usize> {
    /// The output.
    pub output: FloatTensor<B>,
    /// The backward pass; owns what it needs of the forward pass.
    pub backward: Arc<BackwardFn<B, N>>,
}

/// Float tensors of any rank, as autodiff sees them.
pub type Parents<B, C, const N: usize> = [FloatTensor<Autodiff<B, C>>; N];

/// Records an operation whose arguments are `parents` in the autodiff graph.
pub(crate) fn record<B, C, const D: usize, const N: usize>(
    parents: &Parents<B, C, N>,
    traced: Traced<B, N>,
) -> Tensor<Autodiff<B, C>, D>
where
    B: Backend,
    C: CheckpointStrategy,
{
    let nodes = parents.each_ref().map(|parent| parent.node.clone());
    let output = match TracedNode.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State::<B, N>(traced.backward), traced.output),
        OpsKind::UnTracked(prep) => prep.finish(traced.output),
    };
    Tensor::from_primitive(TensorPrimitive::Float(output))
}

/// The primitive of a float tensor.
pub(crate) fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// The one autodiff node of all traced operations.
#[derive(Debug)]
struct TracedNode;

struct State<B: Backend, const N: usize>(Arc<BackwardFn<B, N>>);

impl<B: Backend, const N: usize> Clone for State<B, N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend, const N: usize> fmt::Debug for State<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl<B: Backend, const N: usize> Backward<B, N> for TracedNode {
    type State = State<B, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let needed = ops.parents.each_ref().map(Option::is_some);
        let found = (ops.state.0)(gradient, needed);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}
