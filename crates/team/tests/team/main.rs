//! Teams of threads, and of processes, whose place threads take here: whatever works with one works with the other.

#![allow(clippy::unwrap_used)]

mod calls;
mod common;
mod ends;
mod meeting;
