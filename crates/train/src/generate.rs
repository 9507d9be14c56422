//! Text from a checkpoint.

use std::ops::ControlFlow;

use burn::tensor::DType;
use upcycle_kernels::{MoeAutodiffBackend, Precision};
use upcycle_lm::{Finish, GeneratedToken};

use crate::{error::TrainError, job::GenerateJob, load::load};

/// Loads the model of a job and continues its text.
pub fn generate<B: MoeAutodiffBackend>(
    job: &GenerateJob,
    device: &B::Device,
    on_token: &mut dyn FnMut(GeneratedToken) -> ControlFlow<()>,
) -> Result<Vec<Finish>, TrainError> {
    if job.config.precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(TrainError::NoBf16);
    }
    let model = load::<B>(job.model, device)?;
    Ok(model.generate(job.prompt, job.config, on_token)?)
}
