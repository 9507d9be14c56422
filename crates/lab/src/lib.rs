//! Experiments on expert upcycling: sweeps as graphs of content-addressed stages, a store that survives kills, and the
//! rows of the report.
//!
//! ```text
//! SweepConfig -> cells -> StageGraph -> runner -> Store -> Results
//! ```

mod calibrate;
mod claim;
mod collect;
mod devices;
mod disk;
mod environment;
mod error;
mod estimate;
mod exchange;
mod fewest;
mod frontier;
mod graph;
mod growth;
mod memory;
mod meter;
mod plan;
pub mod presets;
mod runner;
mod scale;
mod shared;
mod slurm;
mod stage;
mod stage_estimate;
mod stage_memory;
mod store;
mod sweep;
mod sweep_stages;
mod trained;
mod usage;

pub use calibrate::{Calibration, Speed, training_seconds};
pub use claim::{ClaimFile, Patience};
pub use collect::collect;
pub use devices::Devices;
pub use environment::{available_memory, environment, host_name};
pub use error::LabError;
pub use estimate::{Estimate, Price};
pub use exchange::{Exchange, Link, StepSeconds};
pub use fewest::Fewest;
pub use graph::{Stage, StageGraph};
pub use growth::growth_memory;
pub use memory::{MemoryLimit, on_cpu, peak_memory, processor, step_memory};
pub use meter::{Meter, StepTimes, Workload};
pub use plan::{CellPlan, Needs, SweepPlan};
pub use runner::{Observer, RunEvent, Runner};
pub use scale::{Scale, TrainingScale};
pub use slurm::{Jobs, Queue, Slurm};
pub use stage::{Origin, StageKey, StageSpec};
pub use stage_estimate::StageEstimate;
pub use store::{StageResult, Store};
pub use sweep::{Growth, Protocol, SweepConfig};
pub use sweep_stages::{SweepStage, SweepStages};
pub use trained::{RunState, TrainedRun};
pub use usage::{Cleaning, Freeable, StageState, StageUsage, SweepUsage, Usage};
