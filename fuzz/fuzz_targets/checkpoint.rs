//! Opens checkpoints whose header, index and configuration are whatever the fuzzer thinks of: every one must open or
//! give an error, and what was grown must be understood again, with the new number of experts in as many layers.
//!
//!     cargo fuzz run --sanitizer none checkpoint -- -max_total_time=60

#![no_main]

use std::{fs, path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use upcycle_hf::{Growth, GrowthRequest, HfCheckpoint, WriteOptions};
use upcycle_operator::{
    DenseSource, ExpertInit, OptimizerPolicy, Recipe, RouterExtension, Selection, Upcycle,
};

/// Families with one tensor an expert, with groups and biases, with stacked and flat tensors, rows behind those of experts,
/// further tensors of experts, two sets of experts, and no gate projections; and a dense model.
const CONFIGS: [&str; 13] = [
    r#"{"model_type": "olmoe", "num_experts": 2, "num_experts_per_tok": 1}"#,
    r#"{"model_type": "deepseek_v3", "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 2, "topk_group": 1}"#,
    r#"{"model_type": "gpt_oss", "num_local_experts": 2, "num_experts_per_tok": 1}"#,
    r#"{"model_type": "llama4_text", "num_local_experts": 2, "num_experts_per_tok": 1}"#,
    r#"{"model_type": "granitemoe", "num_local_experts": 2, "num_experts_per_tok": 1}"#,
    r#"{"model_type": "gemma4_text", "num_experts": 2, "top_k_experts": 1}"#,
    r#"{"model_type": "qwen3_5_moe", "text_config": {"num_experts": [2, 2], "num_experts_per_tok": 1}, "x": Infinity}"#,
    r#"{"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2, "moe_top_k": 1}}"#,
    r#"{"model_type": "longcat_flash", "n_routed_experts": 2, "moe_topk": 1, "zero_expert_num": 1}"#,
    r#"{"model_type": "jetmoe", "num_local_experts": 2, "num_experts_per_tok": 1}"#,
    r#"{"model_type": "nemotron_h", "n_routed_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 1}"#,
    r#"{"model_type": "ernie4_5_moe", "moe_num_experts": 2, "moe_k": 1,
        "quantization_config": {"ignore": ["model.layers.0.mlp.experts.0.up_proj"]}}"#,
    r#"{"model_type": "llama", "intermediate_size": 2, "rms_norm_eps": 1e-6}"#,
];
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

/// Grows a checkpoint as far as it goes; of a dense one every network becomes two experts.
fn grow(checkpoint: HfCheckpoint, experts: ExpertInit) {
    let shards = 2;
    let dense = checkpoint.dense.then(|| DenseSource {
        top_k: 1,
        shards,
        layers: Default::default(),
    });
    let checkpoint = match &dense {
        Some(_) => checkpoint.cut(shards),
        None => Ok(checkpoint),
    };
    let Ok(checkpoint) = checkpoint else {
        return;
    };
    let recipe = Recipe {
        name: "fuzz".into(),
        of_paper: false,
        grows: Default::default(),
        selection: Selection::Uniform {},
        experts,
        router: RouterExtension::Hyperplane { strength: 1.0 },
        optimizer: OptimizerPolicy::Reset {},
        boost: None,
        dense,
    };
    let operator = Upcycle::new(recipe, 4);
    let request = GrowthRequest {
        operator,
        top_k: None,
        scores: None,
    };
    let Ok(growth) = Growth::new(&checkpoint, request) else {
        return;
    };
    let _ = growth.forecast();
    let to = folder().with_extension("grown");
    let options = WriteOptions {
        shard_bytes: 100,
        resume: false,
        force: true,
    };
    if growth.write(&to, options, &mut |_| ()).is_ok() {
        let grown = HfCheckpoint::open(&to, None).expect("what was written can be opened");
        match grown.moe() {
            Ok(moe) => assert_eq!(
                (moe.experts, moe.layers.len()),
                (4, growth.moe.layers.len())
            ),
            // Some length that has nothing to do with experts is by chance that of the new experts.
            Err(error) => assert!(
                error.to_string().contains("as long as there are experts"),
                "{error}"
            ),
        }
    }
    for left in [to.with_extension("grown.partial"), to] {
        let _ = fs::remove_dir_all(left);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder().join(name), bytes).expect("a small file can be written")
    };
    let remove = |name: &str| _ = fs::remove_file(folder().join(name));
    // A header with its true length, and data as long as the last offset it may speak of.
    let with_header = |header: &[u8], data: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        file.resize(file.len() + data, 0);
        file
    };
    let config = CONFIGS[usize::from(*kind / 4) % CONFIGS.len()];
    write("config.json", config.as_bytes());
    remove(INDEX);
    match kind % 4 {
        0 => write("model.safetensors", data),
        1 => write(
            "model.safetensors",
            &with_header(data, 16 * usize::from(*kind / 16)),
        ),
        2 => {
            write("model.safetensors", &with_header(b"{}", 0));
            write(INDEX, data);
        }
        _ => write("config.json", data),
    }
    if let Ok(checkpoint) = HfCheckpoint::open(folder(), None) {
        let _ = checkpoint.inspect();
        let init = match data.len() % 2 {
            0 => ExpertInit::Noise { std: 0.1 },
            _ => ExpertInit::Copy {},
        };
        grow(checkpoint, init);
    }
});
