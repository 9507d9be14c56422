//! What can be wrong with a task.

use std::path::PathBuf;

use thiserror::Error;
use upcycle_data::DataError;
use upcycle_files::FileError;

use crate::sequence::SequenceError;

/// A task that cannot be read, or a model that cannot be evaluated on it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The rows of a task cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No task has this name.
    #[error("there is no task `{name}`; known are {known}; or give the path of a TOML file")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names of the tasks.
        known: String,
    },
    /// A task that is not computed here.
    #[error(
        "{name} is scored by what a model writes, which stays with lm-evaluation-harness: export the model (`train --export DIR`) and run `lm_eval --model hf --model_args pretrained=DIR --tasks {name}`"
    )]
    Generates {
        /// The task.
        name: String,
    },
    /// A task's file has an error.
    #[error("task {place}: {problem}")]
    Parse {
        /// The file, or the name of the task.
        place: String,
        /// What is wrong, with line and field where these are known.
        problem: String,
    },
    /// Rows that are nowhere.
    #[error(
        "it is not said where the rows of task {task} are; give a file, as in {task}=FILE, or `data` or `[hub]` in its own"
    )]
    NoRows {
        /// The task.
        task: String,
    },
    /// Examples that are nowhere.
    #[error(
        "it is not said where the examples of task {task} are; name a file in `fewshot_data` or a split in `hub.fewshot_split`, or ask for none"
    )]
    NoExampleRows {
        /// The task.
        task: String,
    },
    /// Examples of a task that has none.
    #[error("task {task} has no examples before its items; leave the number of examples out")]
    NoExamples {
        /// The task.
        task: String,
    },
    /// A row does not give an item.
    #[error("{path}, row {row}: {problem}")]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 1; in a file of lines the line.
        row: u64,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Fewer examples than asked for.
    #[error(
        "task {task} is to have {wanted} example(s) before each item, and an item has {found}; lower `fewshot`, or give more rows of examples"
    )]
    Examples {
        /// The task.
        task: String,
        /// Examples of an item.
        wanted: usize,
        /// Examples there are.
        found: usize,
    },
    /// An item cannot be scored.
    #[error("task {task}, item {item}: {reason}")]
    Item {
        /// The task.
        task: String,
        /// The item, from 1.
        item: usize,
        /// Why not.
        reason: Box<SequenceError>,
    },
    /// A task of nothing.
    #[error("task {task} has no item; its data are empty")]
    NoItems {
        /// The task.
        task: String,
    },
    /// A tokenizer of another model.
    #[error(
        "the tokenizer gives token {token}, and the model knows {vocab}; give the model's own tokenizer with --tokenizer"
    )]
    Vocabulary {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab: usize,
    },
    /// The model's device fails.
    #[error("the model cannot be run: {0}")]
    Model(String),
    /// A model that is broken.
    #[error(
        "a score is not finite; the model is broken: its training diverged, or its weights are damaged"
    )]
    NotFinite,
}
