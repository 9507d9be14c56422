//! Training of language models, in memory and as stages of an experiment.
//!
//! [`Learner`] is a model that learns, in memory: batches in, updates, evaluation, growth in the middle. A stage is a
//! learner with a schedule, a folder for its checkpoints and its metrics. [`Engine`] is the seam between experiments and
//! tensors: it takes specifications and paths and returns numbers, so that code above it names no backend; [`BurnEngine`]
//! implements it for any Burn backend.

mod begin;
mod checkpoint;
mod compare;
mod config;
mod crew;
mod curve;
mod devices;
mod engine;
mod error;
mod evaluate;
mod generate;
mod gradients;
mod job;
mod keeper;
mod learner;
mod load;
mod metrics;
mod metrics_log;
mod pace;
mod placement;
mod scalars;
mod schedule;
mod scoring;
mod shape;
mod shared_update;
mod stepper;
mod tensorboard;
mod trainer;
mod upcycler;
mod whole_moments;

pub use checkpoint::{Checkpoint, CheckpointInfo, RESULTS_VERSION, StageCheckpoints};
pub use config::{
    BatchConfig, DataSchedule, EvaluationConfig, LearnerConfig, MeasureConfig, OptimizerConfig,
    PassConfig, TrainSpec, UpcycleSpec,
};
pub use curve::write_curve;
pub use engine::{BurnEngine, Engine};
pub use error::TrainError;
pub use evaluate::{Evaluation, Twins};
pub use job::{
    CompareJob, GenerateJob, Start, TrainEvent, TrainJob, TrainOutcome, UpcycleJob, UpcycleOutcome,
};
pub use learner::{Learner, Update};
pub use metrics::{LayerRouting, MetricsLine, read_metrics};
pub use schedule::Schedule;
pub use shape::{check_growth, grown_shape};
pub use tensorboard::write_events;
pub use upcycle_moe::RoutingStats;
