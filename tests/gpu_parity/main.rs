//! GPU backends compute and train like the CPU backend.
//!
//! Run with the name of the backend whose driver is there: `-- wgpu::` or `-- vulkan::` (a software driver will do) or `-- cuda::`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wgpu {
    const KIND: BackendKind = BackendKind::Wgpu;
    type Inner = burn_wgpu::Wgpu;
    include!("parity.rs");

    /// WebGPU guarantees eight storage buffers a kernel; Burn asks a driver for as many as it has.
    #[test]
    fn eight_storage_buffers_are_enough() {
        let device = crate::least::device();
        let limits = upcycle_train::BurnEngine::<Gpu>::new("wgpu", "eight buffers".into(), device);
        assert_losses(&limits);
    }
}

mod least;
mod memory;

#[cfg(feature = "vulkan")]
mod vulkan {
    const KIND: BackendKind = BackendKind::Vulkan;
    type Inner = burn_wgpu::Vulkan;
    include!("parity.rs");
}

#[cfg(feature = "metal")]
mod metal {
    const KIND: BackendKind = BackendKind::Metal;
    type Inner = burn_wgpu::Metal;
    include!("parity.rs");
}

#[cfg(feature = "cuda")]
mod cuda {
    const KIND: BackendKind = BackendKind::Cuda;
    type Inner = burn_cuda::Cuda;
    include!("parity.rs");
}
