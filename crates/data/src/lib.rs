//! Corpora, tokenizers, packed token streams and disjoint splits.
//!
//! A [`Dataset`] is opened from a [`DataConfig`] and hands out [`Batch`]es of plain integers:
//!
//! * a **synthetic** corpus of Markov-chain domains, generated on the fly, whose entropy rate is
//!   known in closed form, so that a loss can be read as an excess over the best possible one;
//! * corpora of **skills**, generated in words, each with [questions](Question) that ask for what
//!   it teaches: facts about persons, arithmetic, walks along arrows;
//! * a **text** corpus of files (text, JSON lines, Parquet; compressed or not), also those of a
//!   [data set of the Hugging Face hub](RemoteText), tokenized once and kept in memory-mapped files.
//!
//! Every batch is a pure function of the dataset and the call's arguments. There is no iterator
//! state to save: a run that resumes at step `n` asks for batch `n`.
//!
//! ```
//! use std::path::Path;
//! use upcycle_data::{DataConfig, Dataset, Split};
//!
//! # fn main() -> Result<(), upcycle_data::DataError> {
//! let data = Dataset::open(&DataConfig::default(), Path::new("unused"))?;
//! let batch = data.batch(Split::Pretrain, 7, 0, 8, 64)?;
//! assert_eq!(batch.inputs.len(), 8 * 64);
//! assert_eq!(data.vocab_size(), 128 + 16);
//! # Ok(())
//! # }
//! ```

mod batch;
mod config;
mod dataset;
mod error;
mod permutation;
mod random;
mod remote;
mod report;
mod require;
mod skill;
mod skill_config;
mod split;
mod spread;
mod synthetic;
mod text;
mod watch;

pub use batch::Batch;
pub use config::{DataConfig, SplitDocuments, SyntheticConfig, TextConfig, TokenizerConfig};
pub use dataset::Dataset;
pub use error::DataError;
pub use remote::{FindRemote, RemoteError, RemoteText, remote_name};
pub use report::{Splitting, TextChange, TextReport};
pub use skill::Question;
pub use skill_config::{ArithmeticConfig, KnowledgeConfig, LookupConfig};
pub use split::Split;
pub use text::{TableRow, TextStream, TextTokenizer, read_table};
pub use watch::{TextObserver, TextProgress, TextWork};
