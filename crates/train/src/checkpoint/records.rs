//! Checkpoints of format 4: Burn records, which are whole in memory while they are read.

use burn::{
    module::Module,
    record::{FullPrecisionSettings, NamedMpkBytesRecorder, Record, Recorder},
    tensor::backend::Backend,
};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, adamw::moment_shape};
use upcycle_lm::{FeedForwardRecord, Lm, LmConfig, LmRecord, parameter_shapes};
use upcycle_moe::GrowthState;

use super::fresh;
use crate::crew::Crew;

/// The model in a record, after comparing shapes.
pub(super) fn model<B: MoeAutodiffBackend>(
    config: &LmConfig,
    growths: Vec<GrowthState>,
    bytes: Vec<u8>,
    device: &B::Device,
) -> Result<Lm<B>, String> {
    let record: LmRecord<B> = decode(bytes, device)?;
    let fresh = fresh(config, growths, &Crew::alone(), device);
    let fresh = fresh.map_err(|error| error.to_string())?;
    let levels = |model: &Lm<B>| -> usize {
        let layers = model.moe_layers();
        layers.map(|layer| layer.router.tie_breaks.len()).sum()
    };
    let recorded: usize = (record.blocks.iter())
        .map(|block| match &block.ffn {
            FeedForwardRecord::Moe(moe) => moe.router.tie_breaks.len(),
            FeedForwardRecord::Dense(_) => 0,
        })
        .sum();
    // Burn panics on a list of another length.
    if recorded != levels(&fresh) {
        return Err(format!(
            "it has {recorded} tie-breaks, its growths ask for {}",
            levels(&fresh)
        ));
    }
    let expected = parameter_shapes(&fresh);
    let model = fresh.load_record(record);
    let found = parameter_shapes(&model);
    for (expected, found) in expected.iter().zip(&found) {
        if (&expected.path, &expected.dims, expected.trained)
            != (&found.path, &found.dims, found.trained)
        {
            return Err(format!(
                "parameter {} has shape {:?}, the configuration asks for {:?}",
                found.path, found.dims, expected.dims
            ));
        }
    }
    if expected.len() != found.len() {
        return Err(format!(
            "it has {} parameters, the configuration asks for {}",
            found.len(),
            expected.len()
        ));
    }
    Ok(model)
}

/// The optimizer's state in a record. Every state must belong to a parameter of the same shape.
pub(super) fn optimizer<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    bytes: Vec<u8>,
    device: &B::Device,
) -> Result<AdamWRecord<B>, String> {
    let optimizer: AdamWRecord<B> = decode(bytes, device)?;
    let shapes = parameter_shapes(model);
    let known = shapes
        .iter()
        .filter(|shape| {
            optimizer
                .get(&shape.id)
                .is_some_and(|state| moment_shape(state) == shape.dims)
        })
        .count();
    if known == optimizer.len() {
        Ok(optimizer)
    } else {
        Err(format!(
            "{} of {} optimizer states belong to no parameter of their shape",
            optimizer.len() - known,
            optimizer.len()
        ))
    }
}

fn decode<B: Backend, R: Record<B>>(bytes: Vec<u8>, device: &B::Device) -> Result<R, String> {
    NamedMpkBytesRecorder::<FullPrecisionSettings>::default()
        .load(bytes, device)
        .map_err(|error| format!("cannot be read: {error}"))
}
