//! Sweeps from their configurations to their results. One program, since each would compile the models anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod presets;
mod scales;
mod scaling;
mod sweep;
