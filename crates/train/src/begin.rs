//! Where a stage begins: at its own last checkpoint, or at what it was given.

use std::{fs, path::PathBuf};

use burn::tensor::DType;
use upcycle_kernels::{MoeAutodiffBackend, Precision};

use crate::{
    checkpoint::{Checkpoint, StageCheckpoints, check_data},
    config::PassConfig,
    crew::Crew,
    error::TrainError,
    job::{Start, TrainEvent, TrainJob},
};

/// This device's share of what a stage begins with, and how its activations share memory.
pub(crate) fn begin<B: MoeAutodiffBackend>(
    job: &TrainJob,
    device: &B::Device,
    crew: &Crew,
    events: &mut dyn FnMut(TrainEvent),
) -> Result<(Checkpoint<B>, PassConfig), TrainError> {
    let spec = job.spec;
    spec.validate()?;
    crew.check_rows(spec.batch.rows)?;
    if spec.precision == Precision::Bf16 && !B::supports_dtype(device, DType::BF16) {
        return Err(TrainError::NoBf16);
    }
    job.data.check_shape(spec.batch.context)?;
    let latest: Option<PathBuf> = crew.told(StageCheckpoints::new(job.dir).latest())?;
    let mut state: Checkpoint<B> = match (&latest, job.start) {
        (Some(path), _) => {
            let state = Checkpoint::load_by(path, crew, device)?;
            events(TrainEvent::Resumed { step: state.step });
            state
        }
        (None, Start::Initial { model, seed }) => {
            Checkpoint::initial_by(model, *seed, crew, device)?
        }
        (None, Start::Checkpoint(path)) => Checkpoint::load_by(path, crew, device)?,
        (None, Start::Weights(source)) => Checkpoint::of_weights_by(source.as_ref(), crew, device)?,
    };
    let passes = match crew.leads() {
        true => kept_passes(job, latest.is_some(), events)?,
        false => job.passes,
    };
    let passes = crew.told(passes)?;
    check_fits(&state, job)?;
    state.data = job.data.fingerprint().to_owned();
    state.tokenizer = job.data.tokenizer_json();
    Ok((state, passes))
}

/// How a stage's activations share memory: a stage that goes on keeps its micro-batches where they are enough, so that sums
/// keep their order.
fn kept_passes(
    job: &TrainJob,
    goes_on: bool,
    events: &mut dyn FnMut(TrainEvent),
) -> Result<PassConfig, TrainError> {
    let path = job.dir.join("passes.json");
    let mut passes = job.passes;
    if goes_on {
        let before = fs::read(&path).ok();
        let before = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let before: PassConfig = before.unwrap_or_default();
        match before.micro_batches >= passes.micro_batches {
            true => passes.micro_batches = before.micro_batches,
            false => events(TrainEvent::Recut {
                micro_batches: passes.micro_batches.get(),
            }),
        }
    }
    if passes.micro_batches.get() > 1 {
        let json = serde_json::to_vec(&passes);
        let json = json.map_err(|error| TrainError::Device(error.to_string()))?;
        upcycle_files::write(&path, &json)?;
    }
    Ok(passes)
}

/// The model must know every token of the data, and be trained on the data that it was trained on.
fn check_fits<B: MoeAutodiffBackend>(
    state: &Checkpoint<B>,
    job: &TrainJob,
) -> Result<(), TrainError> {
    let (config, data, spec) = (state.model.config(), job.data, job.spec);
    if data.vocab_size() > config.vocab {
        return Err(TrainError::Spec {
            field: "model.vocab",
            problem: format!(
                "{} is less than the {} tokens of the data; raise it or leave it out",
                config.vocab,
                data.vocab_size()
            ),
        });
    }
    if spec.batch.context > config.context {
        return Err(TrainError::Spec {
            field: "batch.context",
            problem: format!(
                "{} is longer than the model's context of {}",
                spec.batch.context, config.context
            ),
        });
    }
    if job.other_data {
        return Ok(());
    }
    check_data(&state.data, data)
}
