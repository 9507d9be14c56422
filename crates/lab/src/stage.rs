//! Stages: specifications and their content addresses.

use std::fmt;

use serde::{Deserialize, Serialize};
use upcycle_digest::Digest;
use upcycle_kernels::Precision;
use upcycle_lm::LmConfig;
use upcycle_train::{RESULTS_VERSION, TrainSpec, UpcycleSpec};

use crate::error::LabError;

/// Content address of a stage: a hash of everything that determines its result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(String);

impl StageKey {
    const LETTERS: usize = 20;

    /// The key that a folder is named by; none if it is not a stage's.
    pub(crate) fn of_folder(name: &str) -> Option<Self> {
        let is_key = name.len() == Self::LETTERS && name.chars().all(|c| c.is_ascii_hexdigit());
        is_key.then(|| Self(name.to_owned()))
    }
}

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
    /// Precision of its matrix products.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Train { spec, .. } => spec.precision,
            Self::Upcycle { spec, .. } => spec.precision,
        }
    }

    /// The content address of this stage on a backend and a dataset.
    ///
    /// # Errors
    /// If the specification has something that cannot be written, such as a path that is not UTF-8.
    pub fn key(&self, backend: &str, data_fingerprint: &str) -> Result<StageKey, LabError> {
        let spec = serde_json::to_vec(self).map_err(|error| LabError::Parse {
            place: "the specification of a stage".into(),
            problem: error.to_string(),
        })?;
        let mut digest = Digest::new("upcycle-lab stage");
        digest
            .number(RESULTS_VERSION.into())
            .bytes(backend.as_bytes())
            .bytes(data_fingerprint.as_bytes())
            .bytes(&spec);
        Ok(StageKey(digest.hex()[..StageKey::LETTERS].to_owned()))
    }
}
