//! Backends by name.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use upcycle_lab::Devices;
use upcycle_train::{BurnEngine, Engine};

use crate::{
    bench::measure::{Bench, BurnBench},
    processes::Member,
};

/// Where tensors are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
pub enum BackendKind {
    /// CUDA if there is a GPU, else a GPU through Metal, Vulkan or WGPU, else the CPU.
    #[default]
    Auto,
    /// Burn's Flex backend.
    Cpu,
    /// Burn's NdArray backend.
    Ndarray,
    /// A GPU through Vulkan, Metal or DirectX.
    Wgpu,
    /// A GPU through Vulkan, with kernels in SPIR-V.
    Vulkan,
    /// A GPU of Apple's, with kernels in Metal's own language.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
}

impl BackendKind {
    /// Name of its engine, and in stage keys; `auto` has none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        }
    }

    /// Whether its devices are GPUs, as a rule.
    pub fn is_of_gpus(self) -> bool {
        matches!(self, Self::Wgpu | Self::Vulkan | Self::Metal | Self::Cuda)
    }

    /// The backend of a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::from_str(name, true).map_err(|_| anyhow::anyhow!("there is no backend `{name}`"))
    }
}

/// A device of a backend, to work with and to measure.
pub struct Machine {
    /// Runs stages.
    pub engine: Box<dyn Engine>,
    /// Measures.
    pub meter: Box<dyn Bench>,
}

impl Machine {
    /// A backend whose devices have numbers on their machine: with all devices of the model, or with the one of a process.
    fn new<B: upcycle_kernels::MoeAutodiffBackend>(
        backend: &'static str,
        description: String,
        devices: Devices,
        member: &Member,
        device: impl Fn(usize) -> B::Device,
    ) -> Self {
        let first = member.local();
        let engine = BurnEngine::<B>::new(backend, description, device(first));
        let meter = BurnBench::<B>::new(device(first));
        let (count, blocks) = (devices.count.get(), devices.expert_parallel.get());
        let engine = match member.is_alone() {
            true => engine.with_more_devices((1..count).map(device), blocks),
            false => engine.in_team(member.team().clone(), blocks),
        };
        Self {
            engine: Box::new(engine),
            meter: Box::new(meter),
        }
    }
}

/// The engine of a backend.
///
/// # Errors
/// If the backend is not compiled in, or has no device or driver.
pub fn engine(kind: BackendKind) -> Result<Box<dyn Engine>> {
    Ok(machine(kind)?.engine)
}

/// A device of a backend.
///
/// # Errors
/// As [`engine`].
pub fn machine(kind: BackendKind) -> Result<Machine> {
    machine_on(kind, Devices::ONE)
}

/// A device of a backend, with others that train one model together with it.
///
/// # Errors
/// As [`engine`], or if there are not as many devices.
pub fn machine_on(kind: BackendKind, devices: Devices) -> Result<Machine> {
    machine_of(kind, devices, &Member::alone())
}

/// What a process has of the devices that train one model: all of them if it is alone, else one.
///
/// # Errors
/// As [`machine_on`].
pub fn machine_of(kind: BackendKind, devices: Devices, member: &Member) -> Result<Machine> {
    let count = devices.count.get();
    match kind {
        BackendKind::Auto if member.is_alone() => auto(devices),
        BackendKind::Auto => bail!(
            "several processes need --backend: their machines may have different devices; give --backend cuda or --backend cpu"
        ),
        BackendKind::Cpu => cpu(devices, member),
        BackendKind::Ndarray if count == 1 => ndarray(),
        BackendKind::Cuda => cuda_backend::machine(devices, member),
        BackendKind::Wgpu | BackendKind::Vulkan | BackendKind::Metal if count == 1 => {
            wgpu_backend::machine(kind, wgpu_backend::Device::Any)
        }
        BackendKind::Ndarray | BackendKind::Wgpu | BackendKind::Vulkan | BackendKind::Metal => {
            bail!(
                "backend `{}` trains on one device; several are for --backend cuda",
                kind.name()
            )
        }
    }
}

/// CUDA, then a real GPU through Metal, Vulkan or WGPU, then the CPU; what is not compiled in or has no device is passed over.
fn auto(devices: Devices) -> Result<Machine> {
    let alone = &Member::alone();
    let gpu = |kind| wgpu_backend::machine(kind, wgpu_backend::Device::Gpu);
    if devices.count.get() > 1 {
        let none = "several devices without --backend are GPUs of CUDA; --backend cpu tries them on this processor";
        return cuda_backend::machine(devices, alone).context(none);
    }
    cuda_backend::machine(devices, alone)
        .or_else(|_| gpu(BackendKind::Metal))
        .or_else(|_| gpu(BackendKind::Vulkan))
        .or_else(|_| gpu(BackendKind::Wgpu))
        .or_else(|_| cpu(devices, alone))
        .or_else(|_| ndarray())
}

#[cfg(not(all(
    feature = "cpu",
    feature = "ndarray",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda"
)))]
fn not_compiled(name: &str) -> Result<Machine> {
    bail!(
        "backend `{name}` is not compiled in; build with it: add `--features {name}` to `cargo run`, `cargo build` or `cargo install`"
    )
}

#[cfg(any(feature = "cpu", feature = "ndarray"))]
fn threads() -> String {
    format!("{} threads", crate::threads::count())
}

#[cfg(feature = "cpu")]
fn cpu(devices: Devices, member: &Member) -> Result<Machine> {
    type B = burn::backend::Autodiff<burn_flex::Flex>;
    if devices.count.get() > 1 {
        crate::give_pages_back();
    }
    // They are all this processor: slower than one, but the same arithmetic as on several GPUs.
    let device = |_| burn_flex::FlexDevice;
    Ok(Machine::new::<B>("cpu", threads(), devices, member, device))
}

#[cfg(not(feature = "cpu"))]
fn cpu(_devices: Devices, _member: &Member) -> Result<Machine> {
    not_compiled("cpu")
}

#[cfg(feature = "ndarray")]
fn ndarray() -> Result<Machine> {
    type B = burn::backend::Autodiff<burn_ndarray::NdArray>;
    let (devices, alone) = (Devices::ONE, &Member::alone());
    let device = |_| burn_ndarray::NdArrayDevice::Cpu;
    Ok(Machine::new::<B>(
        "ndarray",
        threads(),
        devices,
        alone,
        device,
    ))
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> Result<Machine> {
    not_compiled("ndarray")
}

mod wgpu_backend {
    use super::*;

    /// Which devices will do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Device {
        /// Any, software drivers included.
        Any,
        /// A real GPU.
        Gpu,
    }

    /// A backend over WGPU, with the compiler that it is named after.
    #[cfg_attr(not(feature = "wgpu"), allow(unused_variables))]
    pub fn machine(kind: BackendKind, wanted: Device) -> Result<Machine> {
        match kind {
            #[cfg(feature = "vulkan")]
            BackendKind::Vulkan => found::<burn_wgpu::Vulkan>(kind, wgpu::Backends::VULKAN, wanted),
            #[cfg(feature = "metal")]
            BackendKind::Metal => found::<burn_wgpu::Metal>(kind, wgpu::Backends::METAL, wanted),
            #[cfg(feature = "wgpu")]
            BackendKind::Wgpu => found::<burn_wgpu::Wgpu>(kind, wgpu::Backends::PRIMARY, wanted),
            #[cfg(not(all(feature = "wgpu", feature = "vulkan", feature = "metal")))]
            _ => not_compiled(kind.name()),
            #[cfg(all(feature = "wgpu", feature = "vulkan", feature = "metal"))]
            _ => bail!("backend `{}` is none of WGPU", kind.name()),
        }
    }

    #[cfg(feature = "wgpu")]
    fn found<B>(kind: BackendKind, apis: wgpu::Backends, wanted: Device) -> Result<Machine>
    where
        B: upcycle_kernels::MoeBackend<Device = burn_wgpu::WgpuDevice>,
    {
        use burn_wgpu::WgpuDevice;

        // Burn panics where there is no adapter, so look first.
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapters: Vec<wgpu::AdapterInfo> =
            pollster::block_on(instance.enumerate_adapters(apis))
                .iter()
                .map(wgpu::Adapter::get_info)
                .collect();
        let is_gpu = |info: &&wgpu::AdapterInfo| info.device_type != wgpu::DeviceType::Cpu;
        let (info, device) = match (adapters.iter().find(is_gpu), adapters.first(), wanted) {
            (Some(gpu), _, _) => (gpu, WgpuDevice::DefaultDevice),
            (None, Some(software), Device::Any) => (software, WgpuDevice::Cpu),
            (None, Some(_), Device::Gpu) => bail!("no GPU through WGPU, only a software driver"),
            (None, None, _) => bail!(
                "backend `{}` finds no {} driver; install the GPU's driver, or `mesa-vulkan-drivers` for a slow one in software, or use `--backend cpu`",
                kind.name(),
                match kind {
                    BackendKind::Vulkan => "Vulkan",
                    BackendKind::Metal => "Metal",
                    _ => "Vulkan, Metal or DirectX 12",
                }
            ),
        };
        let slow = match info.device_type {
            wgpu::DeviceType::Cpu => ", a driver in software",
            _ => "",
        };
        let description = format!("{}, {:?}{slow}", info.name, info.backend);
        let (devices, alone) = (Devices::ONE, &Member::alone());
        let device = |_| device.clone();
        Ok(Machine::new::<burn::backend::Autodiff<B>>(
            kind.name(),
            description,
            devices,
            alone,
            device,
        ))
    }
}

mod cuda_backend {
    use super::*;

    #[cfg(feature = "cuda")]
    pub fn machine(devices: Devices, member: &Member) -> Result<Machine> {
        use burn_cuda::{Cuda, CudaDevice};

        type B = burn::backend::Autodiff<Cuda>;

        let (name, count) = probe()?;
        let wanted = devices.count.get();
        if member.is_alone() && wanted > count {
            bail!("{wanted} devices are asked for, and `cuda` finds {count}; lower --devices");
        }
        if member.local() >= count && !is_shown_its_own(count) {
            bail!(
                "this is process {} of its machine, from 0, and `cuda` finds {count} GPUs there; start one process for each GPU, or set LOCAL_RANK",
                member.local()
            );
        }
        let device = |number: usize| CudaDevice::new(number.min(count - 1));
        Ok(Machine::new::<B>("cuda", name, devices, member, device))
    }

    /// Whether a launcher shows each process no GPU but its own.
    #[cfg(feature = "cuda")]
    fn is_shown_its_own(count: usize) -> bool {
        count == 1 && std::env::var_os("CUDA_VISIBLE_DEVICES").is_some()
    }

    /// Name of the first GPU, and how many there are. Burn panics where driver, compiler library or headers are missing, so look first.
    #[cfg(feature = "cuda")]
    fn probe() -> Result<(String, usize)> {
        use cudarc::{driver, nvrtc};

        // SAFETY: these only ask the dynamic loader whether the libraries are there.
        let (has_driver, has_compiler) = unsafe {
            (
                driver::sys::is_culib_present(),
                nvrtc::sys::is_culib_present(),
            )
        };
        if !has_driver {
            bail!(
                "backend `cuda` finds no NVIDIA driver (libcuda); install it, or use `--backend cpu`"
            );
        }
        if !has_compiler {
            bail!(
                "backend `cuda` finds no NVRTC library (libnvrtc); install the CUDA toolkit and set LD_LIBRARY_PATH to its libraries"
            );
        }
        let toolkit = std::env::var_os("CUDA_PATH").map(std::path::PathBuf::from);
        let roots = toolkit
            .into_iter()
            .chain(["/usr/local/cuda", "/opt/cuda", "/usr"].map(Into::into));
        if !roots
            .map(|root| root.join("include").join("cuda_runtime.h"))
            .any(|header| header.is_file())
        {
            bail!(
                "backend `cuda` finds no CUDA headers; install the CUDA toolkit and set CUDA_PATH to it"
            );
        }
        let gpu = || {
            driver::result::init()?;
            let device = driver::result::device::get(0)?;
            let count = driver::result::device::get_count()?;
            Ok((driver::result::device::get_name(device)?, count as usize))
        };
        gpu().map_err(|error: driver::DriverError| {
            anyhow::anyhow!(
                "backend `cuda` finds no usable GPU ({error}); see what `nvidia-smi` says"
            )
        })
    }

    #[cfg(not(feature = "cuda"))]
    pub fn machine(_devices: Devices, _member: &Member) -> Result<Machine> {
        not_compiled("cuda")
    }
}
