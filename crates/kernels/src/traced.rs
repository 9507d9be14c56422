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
    tensor::{Shape, Tensor, TensorMetadata, TensorPrimitive, backend::Backend, ops::FloatTensor},
};

use crate::MoeBackend;

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
    B: MoeBackend,
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

/// Elements from which on tensors are added by this crate's kernels in place of Burn's.
pub(crate) const LARGE: usize = 1 << 15;

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

impl<B: MoeBackend, const N: usize> Backward<B, N> for TracedNode {
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
            let (Some(parent), Some(gradient)) = (parent, gradient) else {
                continue;
            };
            if gradient.shape().num_elements() < LARGE {
                gradients.register::<B>(parent.id, gradient);
                continue;
            }
            // Where the parent has a gradient already, the two are added here: Burn would add them on one thread. Gradients are
            // found by tensors alone, of which nothing but the node counts.
            let gradient = Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(gradient));
            let mut tensor = primitive(Tensor::<Autodiff<B>, 1>::from_inner(gradient));
            let id = parent.id;
            tensor.node = parent;
            let before = gradients.remove::<B>(&tensor);
            let gradient = match before {
                Some(before) => sum::<B>(tensor.primitive, before),
                None => tensor.primitive,
            };
            gradients.register::<B>(id, gradient);
        }
    }
}

/// Sum of two tensors of the same shape.
fn sum<B: MoeBackend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    let shape = a.shape();
    let flat = |x| {
        let x = B::float_reshape(x, Shape::from([shape.num_elements()]));
        Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(x))
    };
    let sum = primitive(B::add(flat(a), flat(b)));
    B::float_reshape(sum, shape)
}
