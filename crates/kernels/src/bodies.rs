//! Which bodies the operations have.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};

/// The bodies of the operations of [`MoeBackend`](crate::MoeBackend), for the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bodies {
    /// A backend's own where it has one.
    #[default]
    Specialised,
    /// Plain tensor operations ([`mod@crate::reference`]): to measure against, and to find out whose fault it is.
    Reference,
}

static REFERENCE: AtomicBool = AtomicBool::new(false);

impl Bodies {
    /// Operations that begin from now on have these bodies.
    pub fn select(self) {
        REFERENCE.store(self == Self::Reference, Ordering::Relaxed);
    }

    /// Whether operations have bodies of their own.
    pub(crate) fn are_specialised() -> bool {
        Self::selected() == Self::Specialised
    }

    /// The bodies in use.
    pub fn selected() -> Self {
        if REFERENCE.load(Ordering::Relaxed) {
            Self::Reference
        } else {
            Self::Specialised
        }
    }
}

/// What computes the products of experts, as results tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernels {
    /// Plain tensor operations with Burn's matrix products.
    Reference,
    /// Kernels of this crate.
    Specialised,
    /// Kernels of this crate on tensor cores.
    TensorCores,
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Specialised => "specialised",
            Self::TensorCores => "tensor-cores",
        })
    }
}
