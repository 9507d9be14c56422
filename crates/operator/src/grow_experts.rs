//! Growing the experts of one layer, and their moments.

use burn::{
    module::Param,
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::Experts;
use upcycle_team::TeamError;

use crate::{
    block::Block,
    deviation::Deviation,
    error::OperatorError,
    experts::ExpertMatrices,
    layer::LayerGrowth,
    optimizer::{AdamState, OptimizerPolicy, widen_moments},
    parameter::{host, on_device, replace},
};

/// More experts. Of several members that hold the layer's experts, each makes its block of the grown layer, and gets the rows
/// of others that it needs, one matrix at a time; all tell the same deviation.
pub(crate) fn grow_experts<B: MoeAutodiffBackend, O: AdamState<B>>(
    experts: &mut Experts<B>,
    optimizer: &mut O,
    policy: &OptimizerPolicy,
    growth: &LayerGrowth,
    block: &Block,
) -> Result<Option<Deviation>, OperatorError> {
    let (made, copied) = match growth.copies_experts() {
        true => ([None, None, None], Vec::new()),
        false => {
            let (made, copied) = replicas(experts, growth, block)?;
            (made.map(Some), block.gather(copied)?)
        }
    };
    for (weight, made) in matrices(experts).into_iter().zip(made) {
        let before = weight.val().inner();
        let after = match made {
            Some(made) => made,
            None => block.copies(before.clone())?,
        };
        if weight.is_require_grad() {
            policy.grow(optimizer, weight.id, &before, &after, block)?;
        }
        replace(weight, after);
    }
    Ok(growth.copied(copied))
}

/// Gate, up and down projections of a block, and the replicas that are plain copies.
type Replicas<B> = ([Tensor<B, 3>; 3], Vec<usize>);

/// A block that is made on the host.
fn replicas<B: MoeAutodiffBackend>(
    experts: &Experts<B>,
    growth: &LayerGrowth,
    block: &Block,
) -> Result<Replicas<B::InnerBackend>, TeamError> {
    let [_, d, f] = experts.gate_edf.dims();
    let device = experts.gate_edf.device();
    let read = |weight: &Param<Tensor<B, 3>>| {
        let rows = block.rows(weight.val().inner(), |block| growth.reads(block))?;
        Ok::<_, TeamError>(host(rows))
    };
    let source = ExpertMatrices {
        gate: &read(&experts.gate_edf)?,
        up: &read(&experts.up_edf)?,
        down: &read(&experts.down_efd)?,
        d,
        f,
    };
    let ([gate, up, down], copied) = growth.block(source, block.after());
    let e = block.after().len();
    let made = [
        on_device(gate, [e, d, f], &device),
        on_device(up, [e, d, f], &device),
        on_device(down, [e, f, d], &device),
    ];
    Ok((made, copied))
}

/// Wider experts: copies of all neurons up to a multiple of their width.
pub(crate) fn widen_experts<B: MoeAutodiffBackend, O: AdamState<B>>(
    experts: &mut Experts<B>,
    optimizer: &mut O,
    width: usize,
) -> Result<(), OperatorError> {
    let [_, _, f] = experts.gate_edf.dims();
    let copies = width / f;
    // Every copy of a neuron adds its share of what the neuron added.
    let axes_and_shares = [(2, 1.0), (2, 1.0), (1, 1.0 / copies as f32)];
    for (weight, (axis, share)) in matrices(experts).into_iter().zip(axes_and_shares) {
        let before = weight.val().inner();
        if weight.is_require_grad() {
            widen_moments::<B, O>(optimizer, weight.id, before.dims(), axis, copies)?;
        }
        replace(weight, Tensor::cat(vec![before * share; copies], axis));
    }
    Ok(())
}

fn matrices<B: Backend>(experts: &mut Experts<B>) -> [&mut Param<Tensor<B, 3>>; 3] {
    [
        &mut experts.gate_edf,
        &mut experts.up_edf,
        &mut experts.down_efd,
    ]
}
