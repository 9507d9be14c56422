//! One stage of an experiment: train a model for some steps, or upcycle it.
//!
//! [`Engine`] is the seam between experiments and tensors: it takes specifications and paths and returns numbers, so
//! that code above it names no backend. [`BurnEngine`] implements it for any Burn backend.

mod checkpoint;
mod compare;
mod config;
mod engine;
mod error;
mod evaluate;
mod evidence;
mod files;
mod gradients;
mod learner;
mod measure;
mod metrics;
mod schedule;
mod team;
mod trainer;
mod upcycler;

pub use checkpoint::{Checkpoint, CheckpointInfo, FORMAT_VERSION, StageCheckpoints};
pub use config::{
    BatchConfig, DataSchedule, EvaluationConfig, OptimizerConfig, TrainSpec, UpcycleSpec,
};
pub use engine::{BurnEngine, CompareJob, Engine, TrainJob, UpcycleJob};
pub use error::TrainError;
pub use evaluate::{Evaluation, Twins};
pub use files::{unique_suffix, write_atomically};
pub use measure::{OperationTimes, OperatorTimes, StepTimes, Workload};
pub use metrics::{MetricsLine, read_metrics};
pub use schedule::Schedule;
pub use trainer::{Start, TrainEvent, TrainOutcome};
pub use upcycle_kernels::cases::Sizes;
pub use upcycle_moe::RoutingStats;
pub use upcycler::UpcycleOutcome;
