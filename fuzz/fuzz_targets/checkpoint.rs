//! Opens checkpoints whose header, index and configuration are whatever the fuzzer thinks of: every one must open or
//! give an error.
//!
//!     cargo fuzz run --sanitizer none checkpoint -- -max_total_time=60

#![no_main]

use std::{fs, path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use upcycle_hf::HfCheckpoint;

const CONFIG: &str = r#"{"model_type": "olmoe", "num_experts": 2, "num_experts_per_tok": 1}"#;
const INDEX: &str = "model.safetensors.index.json";

/// A folder in memory where there is one.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let folder = if memory.is_dir() {
                TempDir::new_in(memory)
            } else {
                TempDir::new()
            };
            folder.expect("a temporary folder can be made")
        })
        .path()
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let write = |name: &str, bytes: &[u8]| fs::write(folder().join(name), bytes).expect("a small file can be written");
    let remove = |name: &str| _ = fs::remove_file(folder().join(name));
    // A header with its true length, and data as long as the last offset it may speak of.
    let with_header = |header: &[u8], data: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        file.resize(file.len() + data, 0);
        file
    };
    write("config.json", CONFIG.as_bytes());
    remove(INDEX);
    match kind % 4 {
        0 => write("model.safetensors", data),
        1 => write("model.safetensors", &with_header(data, usize::from(*kind))),
        2 => {
            write("model.safetensors", &with_header(b"{}", 0));
            write(INDEX, data);
        }
        _ => write("config.json", data),
    }
    if let Ok(checkpoint) = HfCheckpoint::open(folder(), None) {
        let _ = checkpoint.inspect();
    }
});
