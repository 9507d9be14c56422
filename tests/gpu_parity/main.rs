//! GPU backends compute and train like the CPU backend.
//!
//! Run with the name of the backend whose driver is there: `-- wgpu` (a software driver will do) or `-- cuda`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wgpu {
    const KIND: BackendKind = BackendKind::Wgpu;
    type Inner = burn_wgpu::Wgpu;
    include!("parity.rs");
}

#[cfg(feature = "cuda")]
mod cuda {
    const KIND: BackendKind = BackendKind::Cuda;
    type Inner = burn_cuda::Cuda;
    include!("parity.rs");
}
