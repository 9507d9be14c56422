//! Stages: specifications and their content addresses.

use std::fmt;

use serde::{Deserialize, Serialize};
use upcycle_lm::LmConfig;
use upcycle_train::{FORMAT_VERSION, TrainSpec, UpcycleSpec};

/// Content address of a stage: a hash of everything that determines its result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(String);

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a line of training begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A new model.
    Initial {
        /// Its shape.
        model: Box<LmConfig>,
        /// Seed of its parameters.
        seed: u64,
    },
    /// The checkpoint of another stage.
    Stage(StageKey),
}

/// Everything that determines a stage's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageSpec {
    /// Training from an origin to the end of a schedule.
    Train {
        /// What the training began with; not the trunk checkpoint that it goes on from, which only saves time.
        origin: Origin,
        /// How.
        spec: Box<TrainSpec>,
    },
    /// The operator on a checkpoint.
    Upcycle {
        /// The stage that left the checkpoint.
        parent: StageKey,
        /// How.
        spec: Box<UpcycleSpec>,
    },
}

impl StageSpec {
    /// The content address of this stage on a backend and a dataset.
    pub fn key(&self, backend: &str, data_fingerprint: &str) -> StageKey {
        let mut hasher = blake3::Hasher::new();
        // Structs of plain fields always serialise.
        let spec = serde_json::to_vec(self).unwrap_or_default();
        for part in [
            FORMAT_VERSION.to_string().as_bytes(),
            backend.as_bytes(),
            data_fingerprint.as_bytes(),
            &spec,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        StageKey(hasher.finalize().to_hex()[..20].to_owned())
    }
}
