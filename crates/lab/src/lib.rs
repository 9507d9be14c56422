//! Experiments on expert upcycling: sweeps as graphs of content-addressed stages, a store that survives kills,
//! statistics and reports.
//!
//! ```text
//! SweepConfig -> cells -> StageGraph -> runner -> Store -> Results -> report
//! ```

mod calibrate;
mod claim;
mod collect;
mod environment;
mod error;
mod estimate;
mod frontier;
mod graph;
mod group;
mod number;
mod plan;
pub mod plot;
pub mod presets;
pub mod report;
pub mod results;
mod runner;
#[cfg(test)]
mod sample;
mod scale;
mod slurm;
mod stage;
pub mod statistics;
mod store;
mod sweep;

pub use calibrate::{Calibration, training_seconds};
pub use claim::{ClaimFile, Patience};
pub use collect::collect;
pub use environment::{available_memory, environment};
pub use error::LabError;
pub use estimate::{Estimate, Price, StageEstimate, intermediates, on_cpu, peak_memory};
pub use graph::{Stage, StageGraph};
pub use plan::{CellPlan, SweepPlan};
pub use runner::{Observer, RunEvent, Runner};
pub use scale::{Scale, TrainingScale};
pub use slurm::{Jobs, Queue, Slurm};
pub use stage::{Origin, StageKey, StageSpec};
pub use store::{StageResult, Store};
pub use sweep::{Growth, Protocol, SweepConfig};
