//! Stages, learners and devices, as a program that uses the library sees them. One program, since each would compile the models anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod devices;
mod passes;
mod scoring;
mod stages;
