//! Files and folders that are whole or absent, locks, headers of safetensors files, and configuration files.
//!
//! What is written stands beside its final name until it is on disk, then gets the name by renaming; the folder that holds
//! the name is synced, too, so that a crash leaves the old state or the new one.

mod config;
mod error;
mod folder;
mod lock;
mod tensors;
mod write;

pub use config::{TomlError, from_toml};
pub use error::FileError;
pub use folder::{
    Staged, available_space, give_name, remove_abandoned, remove_folder, remove_leftovers,
};
pub use lock::{Lock, LockError};
pub use tensors::tensor_header;
pub use write::{write, write_with};
