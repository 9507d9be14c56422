//! CPU bodies of the operations, forward and backward, as plain functions over `f32` slices.
//!
//! Nothing here knows of Burn. All slices are row-major and contiguous; sizes are arbitrary unless said otherwise,
//! and slices of another length than their documented shape panic. Matrix products are single-thread calls ([`linear`]),
//! spread over the current rayon pool by [`parallel`]: on x86-64 they fetch from memory what they read next,
//! elsewhere they run on the [`gemm`] crate. Element-wise loops are compiled for several instruction sets and picked at
//! run time ([`math`]).
//!
//! Work is split by shapes and constants only, never by the number of threads, and every sum has a fixed order:
//! results are the same bits for any number of threads on one machine.

#![deny(unsafe_op_in_unsafe_fn)]

#[macro_use]
pub mod math;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dense;
pub mod elementwise;
pub mod embedding;
pub mod expert_ffn;
mod groups;
pub mod linear;
pub mod memory;
#[cfg(target_arch = "x86_64")]
mod panels;
pub mod parallel;
pub mod rms_norm;
pub mod rotary;
mod swiglu;
pub mod top_k;
mod transpose;
pub mod view;

#[cfg(test)]
mod tests;
