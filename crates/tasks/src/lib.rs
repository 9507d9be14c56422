//! Downstream tasks: what a language model can do, by the likelihood of answers.
//!
//! A [`TaskSpec`] says what a task's items are made of, and where their rows are; with rows it becomes a [`Task`]. A
//! [`ScoringModel`] tells how likely tokens are, an [`Encoder`] turns texts into tokens, and [`evaluate`] makes numbers of
//! them, as lm-evaluation-harness does.
//!
//! ```
//! use upcycle_tasks::TaskSpec;
//!
//! # fn main() -> Result<(), upcycle_tasks::TaskError> {
//! let spec = &TaskSpec::parse("knowledge:50")?[0];
//! let task = spec.build(&[], &[], Some(100))?;
//! assert_eq!(task.items.len(), 100);
//! # Ok(())
//! # }
//! ```

mod build;
mod error;
mod evaluate;
#[cfg(test)]
mod fake;
mod file;
mod filter;
mod item;
mod model;
mod score;
mod sequence;
mod spec;
mod statistics;
mod template;

pub use error::TaskError;
pub use evaluate::{Metric, Outcome, TOKENS_OF_A_PASS, evaluate};
pub use item::{Candidate, Choice, Continuation, Items, MetricKind, Task};
pub use model::{ScoringModel, TokenBatch, TokenScore};
pub use score::{Score, score};
pub use sequence::{Encoder, Sequence, SequenceError};
pub use spec::{RowSource, TaskSpec, catalogue};
