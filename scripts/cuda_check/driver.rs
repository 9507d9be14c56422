//! A CUDA driver without a GPU: it has the functions of `libcuda` that CubeCL calls, says that there is one GPU, keeps the
//! memory of that GPU on the host, and computes nothing. Programs for CUDA run on it to their end, with zeros for
//! results, and their kernels are compiled on the way by the real NVRTC.
//!
//! It writes into the folder `CUDA_CHECK_DIR`: every module as `<number>.ptx`, and in `log.tsv` a line for every kernel
//! (`module`, its number, its name), launch (`launch`, module, grid, threads of a block, shared bytes) and copy to the
//! host (`read`, bytes). `CUDA_CHECK_SM` is the compute capability, such as 90.
//!
//! Built by `check.py` with `rustc --crate-type cdylib`.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::{
    alloc::{Layout, alloc_zeroed},
    env,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    ptr,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

type Code = c_int;
const SUCCESS: Code = 0;
const OUT_OF_MEMORY: Code = 2;

const MEMORY: usize = 80 << 30;

struct Log {
    dir: PathBuf,
    lines: Mutex<File>,
    modules: AtomicUsize,
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let dir = PathBuf::from(env::var_os("CUDA_CHECK_DIR").unwrap_or_else(|| ".".into()));
        let lines = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log.tsv"));
        Log {
            lines: Mutex::new(lines.expect("CUDA_CHECK_DIR is a folder")),
            modules: AtomicUsize::new(0),
            dir,
        }
    })
}

fn tell(line: &str) {
    let mut lines = log()
        .lines
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    writeln!(lines, "{line}").expect("the log can be written");
}

fn capability() -> c_int {
    let text = env::var("CUDA_CHECK_SM").unwrap_or_else(|_| "90".into());
    text.parse().expect("CUDA_CHECK_SM is a number")
}

/// Memory is not given back: a check is short, and the size of a block is not known when it is freed.
unsafe fn allocate(place: *mut *mut c_void, bytes: usize) -> Code {
    let Ok(layout) = Layout::from_size_align(bytes.max(1), 512) else {
        return OUT_OF_MEMORY;
    };
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return OUT_OF_MEMORY;
    }
    unsafe { *place = memory.cast() };
    SUCCESS
}

/// Handles of contexts, streams and events, which are all the same.
unsafe fn handle(place: *mut *mut c_void) -> Code {
    unsafe { *place = ptr::dangling_mut::<u64>().cast() };
    SUCCESS
}

macro_rules! nothing {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
            $(let _ = $argument;)*
            SUCCESS
        }
    )*};
}

nothing! {
    cuInit(flags: c_uint);
    cuDevicePrimaryCtxRelease_v2(device: c_int);
    cuCtxSetCurrent(context: *mut c_void);
    cuCtxSynchronize();
    cuStreamSynchronize(stream: *mut c_void);
    cuStreamDestroy_v2(stream: *mut c_void);
    cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, flags: c_uint);
    cuEventRecord(event: *mut c_void, stream: *mut c_void);
    cuEventSynchronize(event: *mut c_void);
    cuEventQuery(event: *mut c_void);
    cuEventDestroy_v2(event: *mut c_void);
    cuMemFree_v2(memory: *mut c_void);
    cuMemFreeAsync(memory: *mut c_void, stream: *mut c_void);
    cuMemFreeHost(memory: *mut c_void);
    cuModuleUnload(module: *mut c_void);
    cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    unsafe { *device = ordinal };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Code {
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> Code {
    let text = format!("no GPU, as if of compute capability {}", capability());
    let text = &text.as_bytes()[..text.len().min(length as usize - 1)];
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len());
        *name.add(text.len()) = 0;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> Code {
    unsafe { *uuid = [0; 16] };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Code {
    unsafe { *bytes = MEMORY };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    unsafe { (*free, *total) = (MEMORY, MEMORY) };
    SUCCESS
}

/// Attributes by their numbers in `cuda.h`, as NVIDIA's tables of compute capabilities have them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_int,
    _device: c_int,
) -> Code {
    let capability = capability();
    let found = match attribute {
        1 | 2 | 3 => 1024, // threads of a block, and along its first two axes
        4 => 64,           // along the third
        5 => i32::MAX,     // blocks of a grid along the first axis
        6 | 7 => 65_535,   // along the others
        8 => 48 << 10,     // shared bytes of a block
        10 => 32,          // threads of a warp
        16 => 132,         // multiprocessors
        75 => capability / 10,
        76 => capability % 10,
        97 if capability < 90 => 163 << 10, // shared bytes of a block that asks for more
        97 => 227 << 10,
        _ => 0,
    };
    unsafe { *value = found };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut *mut c_void,
    _device: c_int,
) -> Code {
    unsafe { handle(context) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Code {
    unsafe { handle(context) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> Code {
    unsafe { handle(stream) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> Code {
    unsafe { handle(event) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    _start: *mut c_void,
    _end: *mut c_void,
) -> Code {
    unsafe { *milliseconds = 1.0 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(memory: *mut *mut c_void, bytes: usize) -> Code {
    unsafe { allocate(memory, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(
    memory: *mut *mut c_void,
    bytes: usize,
    _stream: *mut c_void,
) -> Code {
    unsafe { allocate(memory, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(memory: *mut *mut c_void, bytes: usize) -> Code {
    unsafe { allocate(memory, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    _stream: *mut c_void,
) -> Code {
    unsafe { ptr::copy(from, to, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    _stream: *mut c_void,
) -> Code {
    unsafe { ptr::copy(from, to, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    _stream: *mut c_void,
) -> Code {
    tell(&format!("read\t{bytes}"));
    unsafe { ptr::copy(from, to, bytes) };
    SUCCESS
}

/// `CUDA_MEMCPY2D` of `cuda.h`.
#[repr(C)]
pub struct Copy2d {
    from_x: usize,
    from_y: usize,
    from_kind: c_uint,
    from_host: *const u8,
    from_device: *const u8,
    from_array: *mut c_void,
    from_pitch: usize,
    to_x: usize,
    to_y: usize,
    to_kind: c_uint,
    to_host: *mut u8,
    to_device: *mut u8,
    to_array: *mut c_void,
    to_pitch: usize,
    width: usize,
    height: usize,
}

const HOST: c_uint = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2d, _stream: *mut c_void) -> Code {
    let copy = unsafe { &*copy };
    let from = if copy.from_kind == HOST {
        copy.from_host
    } else {
        copy.from_device
    };
    let to = if copy.to_kind == HOST {
        copy.to_host
    } else {
        copy.to_device
    };
    if copy.to_kind == HOST {
        tell(&format!("read\t{}", copy.width * copy.height));
    }
    for row in 0..copy.height {
        let from_at = (copy.from_y + row) * copy.from_pitch + copy.from_x;
        let to_at = (copy.to_y + row) * copy.to_pitch + copy.to_x;
        unsafe { ptr::copy(from.add(from_at), to.add(to_at), copy.width) };
    }
    SUCCESS
}

/// A module's handle is its number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_char) -> Code {
    let number = log().modules.fetch_add(1, Ordering::Relaxed) + 1;
    let text = unsafe { CStr::from_ptr(image) };
    let path = log().dir.join(format!("{number}.ptx"));
    std::fs::write(path, text.to_bytes()).expect("modules can be written");
    unsafe { *module = number };
    SUCCESS
}

/// A module has one kernel, whose handle is the module's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut usize,
    module: usize,
    name: *const c_char,
) -> Code {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    tell(&format!("module\t{module}\t{name}"));
    unsafe { *function = module };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    _stream: *mut c_void,
    _arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    let threads = block_x * block_y * block_z;
    tell(&format!(
        "launch\t{function}\t{grid_x}x{grid_y}x{grid_z}\t{threads}\t{shared}"
    ));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    _stream: *mut c_void,
    function: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> Code {
    unsafe { function(data) };
    SUCCESS
}

unsafe fn error_text(text: *mut *const c_char) -> Code {
    unsafe { *text = c"this driver only has a GPU for show".as_ptr() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_error: Code, text: *mut *const c_char) -> Code {
    unsafe { error_text(text) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_error: Code, text: *mut *const c_char) -> Code {
    unsafe { error_text(text) }
}
