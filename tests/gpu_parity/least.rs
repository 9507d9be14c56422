//! A device with the least buffers that a device of WebGPU has.

use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, init_device};

/// A device of the first adapter, with its features but with the limits that WebGPU guarantees. CubeCL asks the adapter for
/// features, never the device: one with fewer would be given kernels that it cannot run.
pub fn device() -> WgpuDevice {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().unwrap();
    let experimental = wgpu::Features::all_experimental_mask();
    let descriptor = wgpu::DeviceDescriptor {
        required_features: adapter.features()
            - experimental
            - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS,
        ..Default::default()
    };
    let buffers = descriptor
        .required_limits
        .max_storage_buffers_per_shader_stage;
    assert_eq!(buffers, 8);
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
