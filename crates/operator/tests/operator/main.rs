//! The upcycling operator on models of the tests. One program, since each would compile the models anew.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod experts;
mod golden;
mod growth;
mod recipes;
mod selection;
mod team;
