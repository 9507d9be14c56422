//! Language models. One program, since each would compile the models anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod decode;
mod expert_parallel;
mod generate;
mod model;
