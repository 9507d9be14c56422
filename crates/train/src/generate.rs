//! Text from a checkpoint.

use std::ops::ControlFlow;

use burn::{module::AutodiffModule, tensor::DType};
use upcycle_kernels::{MoeAutodiffBackend, Precision};
use upcycle_lm::{Finish, GeneratedToken, Lm};

use crate::{
    checkpoint::Checkpoint,
    error::TrainError,
    job::{GenerateJob, Start},
};

/// Loads the model of a job and continues its text.
pub fn generate<B: MoeAutodiffBackend>(
    job: &GenerateJob,
    device: &B::Device,
    on_token: &mut dyn FnMut(GeneratedToken) -> ControlFlow<()>,
) -> Result<Vec<Finish>, TrainError> {
    if job.config.precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(TrainError::NoBf16);
    }
    let model: Lm<B::InnerBackend> = match job.model {
        Start::Initial { model, seed } => model.init::<B::InnerBackend>(*seed, device)?,
        Start::Checkpoint(path) => Checkpoint::<B>::load_model(path, device)?.valid(),
        Start::Weights(source) => {
            let model = Lm::<B::InnerBackend>::from_weights(source.as_ref(), device);
            model.map_err(TrainError::Weights)?
        }
    };
    Ok(model.generate(job.prompt, job.config, on_token)?)
}
