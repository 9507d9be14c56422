//! Mixture-of-Experts checkpoints in the layout of Hugging Face's transformers.
//!
//! A [`Layout`] says, as data, which tensors of a family are experts and routers. [`HfCheckpoint`] opens a checkpoint,
//! [`Growth`] decides how its experts are copied and streams the grown checkpoint to disk.

mod checkpoint;
mod config;
mod dense;
mod end_of_text;
mod error;
mod experts;
mod export;
mod find;
mod floats;
mod folder;
mod grow;
mod header;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_files;
#[cfg(feature = "hub")]
mod hub_listing;
#[cfg(feature = "hub")]
mod hub_name;
#[cfg(feature = "hub")]
mod hub_text;
mod import;
mod inspect;
mod layout;
mod moe;
mod names;
mod one_or_many;
mod pattern;
mod predict;
mod quantisation;
mod ranges;
mod replica;
mod router_stats;
mod scores;
mod shards;
mod synthetic;
mod tensors;
mod write;

pub use checkpoint::HfCheckpoint;
pub use config::ConfigFile;
pub use error::HfError;
pub use export::{Export, ExportType, Fit};
pub use folder::check_free;
pub use grow::{Growth, GrowthRequest};
#[cfg(feature = "hub")]
pub use hub::{HubModel, download};
#[cfg(feature = "hub")]
pub use hub_text::HubText;
pub use import::Import;
pub use inspect::Inspection;
pub use layout::Layout;
pub use moe::{Moe, MoeLayer};
pub use router_stats::RouterStats;
pub use scores::GivenScores;
pub use synthetic::{Synthetic, Weights};
pub use write::{Progress, WriteOptions, Written};
