//! Adam's moments of grown parameters.

use burn::{
    module::ParamId,
    optim::{AdamWState, record::AdaptorRecord},
    tensor::{Int, Tensor},
};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, adamw::state_of_rank};

use crate::error::OperatorError;

/// Selects the moments of parameter `id` along its first axis.
///
/// Checks presence and shape, because Burn drops or broadcasts what does not fit without a word.
pub fn grow<B: MoeAutodiffBackend, const D: usize>(
    record: &mut AdamWRecord<B>,
    id: ParamId,
    dims: [usize; D],
    source_of: Tensor<B::InnerBackend, 1, Int>,
) -> Result<(), OperatorError> {
    let state = record.remove(&id).ok_or_else(|| {
        OperatorError::OptimizerMismatch(format!(
            "there is no state for a parameter of shape {dims:?}"
        ))
    })?;
    let mut momentum = state_of_rank::<B, D>(state)
        .filter(|state| {
            state.momentum.moment_1.dims() == dims && state.momentum.moment_2.dims() == dims
        })
        .ok_or_else(|| {
            OperatorError::OptimizerMismatch(format!(
                "the moments of a parameter of shape {dims:?} have another shape"
            ))
        })?
        .momentum;
    momentum.moment_1 = momentum.moment_1.select(0, source_of.clone());
    momentum.moment_2 = momentum.moment_2.select(0, source_of);
    record.insert(id, AdaptorRecord::from_state(AdamWState::new(momentum)));
    Ok(())
}
