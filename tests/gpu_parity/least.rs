//! A device that has what every device of WebGPU has, and no more.

use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, init_device};

/// A device with the limits that WebGPU guarantees, on the first adapter.
pub fn device() -> WgpuDevice {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().unwrap();
    let descriptor = wgpu::DeviceDescriptor::default();
    assert_eq!(
        descriptor
            .required_limits
            .max_storage_buffers_per_shader_stage,
        8
    );
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup {
        instance,
        adapter,
        device,
        queue,
        backend,
    };
    init_device(setup, RuntimeOptions::default())
}
