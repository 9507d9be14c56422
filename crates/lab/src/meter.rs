//! How fast a machine trains, as plans have to know.

use serde::{Deserialize, Serialize};
use upcycle_kernels::Precision;
use upcycle_lm::LmConfig;
use upcycle_train::{BatchConfig, TrainError};

/// Measures a machine. Implementations can be shared by threads.
pub trait Meter: Sync {
    /// Measures training steps of a new model on random tokens; writes nothing.
    ///
    /// # Errors
    /// If the model cannot be built, or the device fails.
    fn steps(&self, workload: &Workload) -> Result<StepTimes, TrainError>;

    /// Rate of a large f32 matrix product, in FLOP/s; measured when called, for some tenths of a second.
    fn matmul_rate(&self) -> f64;
}

/// Training steps to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The model.
    pub model: LmConfig,
    /// Tokens of a step.
    pub batch: BatchConfig,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
}

/// Seconds of every measured step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Forward and backward passes.
    pub gradients: Vec<f64>,
    /// Global norm, optimizer and balancing.
    pub update: Vec<f64>,
}
