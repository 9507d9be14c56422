//! Checkpoints of Hugging Face: read, grown and written. One program, since each would compile the models anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dense;
mod field;
mod models;
mod streaming;
