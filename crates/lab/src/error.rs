//! What can be wrong with a sweep.

use std::path::PathBuf;

use thiserror::Error;
use upcycle_data::DataError;
use upcycle_files::FileError;
use upcycle_lm::ConfigError;
use upcycle_operator::OperatorError;
use upcycle_team::TeamError;
use upcycle_train::TrainError;

/// A sweep that cannot be planned or did not finish.
#[derive(Debug, Error)]
pub enum LabError {
    /// Neither a preset nor a file.
    #[error("there is no {kind} `{name}`; known are {known}; or give the path of a TOML file")]
    UnknownPreset {
        /// Scale, sweep or recipe.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Names of the presets.
        known: String,
    },
    /// What only a plan of budgets can tell was asked for as a recipe.
    #[error(
        "`auto` depends on the budget and exists in sweeps only; give `short-release` for 1000 further steps and more, `exact` for fewer"
    )]
    Auto,
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A configuration file has an error.
    #[error("{place}: {problem}")]
    Parse {
        /// The file or preset.
        place: String,
        /// What is wrong, with line and field.
        problem: String,
    },
    /// A field of the sweep has an impossible value.
    #[error("sweep field `{field}`: {problem}")]
    Sweep {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Devices cannot share a model or its batches.
    #[error("`{field}`: {problem}")]
    Devices {
        /// Which number of them.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A stage failed.
    #[error("stage {stage} ({dir}): {source}")]
    Stage {
        /// Its label.
        stage: String,
        /// Its folder.
        dir: PathBuf,
        /// Why.
        source: Box<TrainError>,
    },
    /// A stage's files are damaged.
    #[error("stage {dir}: {problem}; remove the folder and start again")]
    Store {
        /// The stage's folder.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A stage that other stages need was not computed.
    #[error(
        "the sweep is not finished: {missing} of {total} stages are missing; run it again to go on"
    )]
    Unfinished {
        /// Stages without a result.
        missing: usize,
        /// All stages.
        total: usize,
    },
    /// The run was told to end.
    #[error(
        "stopped; stages that were trained have checkpoints, and the same command goes on from there"
    )]
    Interrupted,
    /// A command of the cluster failed.
    #[error("{command}: {problem}")]
    Cluster {
        /// The command.
        command: String,
        /// What it said.
        problem: String,
    },
    /// The model cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A recipe cannot be used.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A process of the same stage is gone.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// Training or its files.
    #[error(transparent)]
    Train(#[from] TrainError),
}
