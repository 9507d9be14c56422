//! Models that have taken no step yet, of which each device of a crew has its share.

use std::{fs, path::Path};

use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::{Lm, LmConfig, WeightSource};
use upcycle_moe::{GrowthState, MoeModel};

use super::{Checkpoint, INFO, broken};
use crate::{crew::Crew, error::TrainError};

impl<B: MoeAutodiffBackend> Checkpoint<B> {
    /// This device's share of a new model from a seed.
    pub(crate) fn initial_by(
        config: &LmConfig,
        seed: u64,
        crew: &Crew,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        crew.check_experts(config)?;
        let model = config.init_sharded::<B>(seed, &crew.group, device)?;
        Ok(Self::of_model(model))
    }

    /// This device's share of a model that was trained elsewhere.
    pub(crate) fn of_weights_by(
        source: &dyn WeightSource,
        crew: &Crew,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        crew.check_experts(source.config())?;
        let model = Lm::<B>::from_weights_sharded(source, &crew.group, device);
        Ok(Self::of_model(model.map_err(TrainError::Weights)?))
    }
}

/// This device's share of a new model of `config`, grown as its layers say.
pub(super) fn fresh<B: MoeAutodiffBackend>(
    config: &LmConfig,
    growths: Vec<GrowthState>,
    crew: &Crew,
    device: &B::Device,
) -> Result<Lm<B>, TrainError> {
    let mut fresh = Checkpoint::<B>::initial_by(config, 0, crew, device)?.model;
    let restored = fresh.restore(growths, device);
    restored.map_err(|error| TrainError::Weights(error.to_string()))?;
    Ok(fresh)
}

/// All devices have to find the checkpoint that the first one finds.
pub(super) fn check_same(dir: &Path, crew: &Crew) -> Result<(), TrainError> {
    let own = fs::read_to_string(dir.join(INFO)).ok();
    if own == crew.told(own.clone())? {
        return Ok(());
    }
    let problem = format!(
        "device {} of {} does not find it as the first one does; give all machines one file system",
        crew.all.rank(),
        crew.all.size()
    );
    Err(broken(dir, problem))
}
