//! Models that are to be asked, and not trained.

use burn::module::AutodiffModule;
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::Lm;

use crate::{checkpoint::Checkpoint, error::TrainError, job::Start};

/// The model that a start names, without an optimizer.
pub fn load<B: MoeAutodiffBackend>(
    start: &Start,
    device: &B::Device,
) -> Result<Lm<B::InnerBackend>, TrainError> {
    Ok(match start {
        Start::Initial { model, seed } => model.init(*seed, device)?,
        Start::Checkpoint(dir) => Checkpoint::<B>::load_model(dir, device)?.valid(),
        Start::Weights(source) => {
            Lm::from_weights(source.as_ref(), device).map_err(TrainError::Weights)?
        }
    })
}
