//! Checkpoints of transformers as models of ours, and back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use safetensors::SafeTensors;
use tempfile::tempdir;
use upcycle_hf::{Export, ExportType, HfCheckpoint, HfError, Import};
use upcycle_lm::{LayerPattern, Lm, LmConfig, QkNorm};
use upcycle_moe::ScoreFunction;

const RUNNABLE: [&str; 3] = ["olmoe", "mixtral", "qwen3_moe"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn open(dir: &Path) -> HfCheckpoint {
    HfCheckpoint::open(dir, None).unwrap()
}

fn load(dir: &Path) -> Lm<Flex> {
    let import = Import::new(open(dir)).unwrap();
    Lm::from_weights(&import, &FlexDevice).unwrap()
}

/// Inputs `[2, 16]` and logits `[2, 16, 96]` that transformers computed.
fn expected(name: &str) -> (Vec<i32>, Vec<f32>) {
    let bytes = fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = tensors.tensor("input_ids").unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let tokens = tokens
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&b| i64::from_le_bytes(b) as i32);
    let logits = logits
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b));
    (tokens.collect(), logits.collect())
}

fn logits(model: &Lm<Flex>, tokens: &[i32]) -> Vec<f32> {
    let data = TensorData::new(tokens.to_vec(), [tokens.len() / 16, 16]);
    let tokens = Tensor::<Flex, 2, Int>::from_data(data, &FlexDevice);
    let (logits, _) = model.logits(tokens, Default::default());
    logits.into_data().into_vec().unwrap()
}

/// Norm of the difference over the norm.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (difference / expected.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

fn export(
    model: &Lm<Flex>,
    like: Option<&HfCheckpoint>,
    dtype: ExportType,
    to: &Path,
) -> Result<String, HfError> {
    let mut export = Export::new(&model.config(), &[], like, None, dtype, 50_000, to)?;
    let family = export.family().to_owned();
    model.to_weights(&mut export).map_err(HfError::Impossible)?;
    export.finish()?;
    Ok(family)
}

#[test]
fn imported_models_compute_what_transformers_computes() {
    for name in RUNNABLE {
        let (tokens, expected) = expected(name);
        let error = distance(&logits(&load(&fixture(name)), &tokens), &expected);
        assert!(error < 1e-5, "{name}: {error:.1e}");
    }
}

#[test]
fn an_export_is_the_checkpoint_that_was_imported() {
    for name in RUNNABLE {
        let dir = tempdir().unwrap();
        let to = dir.path().join("out");
        let like = open(&fixture(name));
        let model = load(&fixture(name));
        export(&model, Some(&like), ExportType::F32, &to).unwrap();
        assert!(to.join("generation_config.json").is_file());
        assert!(to.join("model.safetensors.index.json").is_file());
        let (tokens, expected) = expected(name);
        let again = load(&to);
        assert_eq!(again.config(), model.config());
        assert!(distance(&logits(&again, &tokens), &expected) < 1e-5);
        // All of transformers' tensors are there, and no others.
        let names = |dir: &Path| {
            let text = fs::read_to_string(dir.join("model.safetensors.index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&text).unwrap();
            let names: Vec<String> = index["weight_map"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            names
        };
        assert_eq!(names(&to), names(&fixture(name)));
    }
}

#[test]
fn sixteen_bits_are_read_and_written() {
    let (tokens, expected) = expected("olmoe");
    let like = open(&fixture("olmoe"));
    for (dtype, most) in [(ExportType::Bf16, 2e-2), (ExportType::F16, 3e-3)] {
        let dir = tempdir().unwrap();
        let to = dir.path().join("out");
        export(&load(&fixture("olmoe")), Some(&like), dtype, &to).unwrap();
        let error = distance(&logits(&load(&to), &tokens), &expected);
        assert!(error > 1e-5 && error < most, "{dtype:?}: {error:.1e}");
    }
}

fn config() -> LmConfig {
    LmConfig {
        vocab: 96,
        context: 16,
        d_model: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        d_head: 0,
        d_ffn: 0,
        pattern: LayerPattern::AllMoe,
        experts: 4,
        top_k: 2,
        d_expert: 24,
        score: ScoreFunction::Softmax,
        renormalize: true,
        gate_scale: 1.0,
        qk_norm: QkNorm::None,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        embedding_std: 0.5,
    }
}

#[test]
fn models_of_ours_find_a_family() {
    let of = |change: fn(&mut LmConfig)| {
        let mut config = config();
        change(&mut config);
        let dir = tempdir().unwrap();
        let to = dir.path().join("out");
        let model = config.init::<Flex>(1, &FlexDevice).unwrap();
        let family = export(&model, None, ExportType::F32, &to).unwrap();
        let tokens: Vec<i32> = (0..16).collect();
        let (before, after) = (logits(&model, &tokens), logits(&load(&to), &tokens));
        assert!(distance(&after, &before) < 1e-6);
        family
    };
    assert_eq!(of(|_| ()), "Mixtral");
    assert_eq!(of(|c| c.score = ScoreFunction::TopKSoftmax), "Mixtral");
    assert_eq!(
        of(|c| (c.qk_norm, c.renormalize) = (QkNorm::AllHeads, false)),
        "OLMoE"
    );
    assert_eq!(
        of(|c| {
            c.qk_norm = QkNorm::Head;
            c.d_head = 12;
            (c.pattern, c.d_ffn) = (LayerPattern::Interleaved, 20);
        }),
        "Qwen3-MoE"
    );
}

#[test]
fn what_no_family_has_is_explained() {
    let dir = tempdir().unwrap();
    let to = dir.path().join("out");
    let fails = |change: fn(&mut LmConfig)| {
        let mut config = config();
        change(&mut config);
        let model = config.init::<Flex>(1, &FlexDevice).unwrap();
        let error = export(&model, None, ExportType::F32, &to)
            .unwrap_err()
            .to_string();
        assert!(!to.exists());
        error
    };
    assert!(fails(|c| c.score = ScoreFunction::Sigmoid).contains("score = \"softmax\""));
    assert!(fails(|c| c.gate_scale = 2.0).contains("gate_scale"));
    assert!(fails(|c| (c.pattern, c.d_ffn) = (LayerPattern::AllDense, 8)).contains("no MoE layer"));
}

#[test]
fn checkpoints_that_cannot_be_run_are_explained() {
    let fails = |name: &str, from: &str, to: &str| {
        let dir = tempdir().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            fs::write(
                dir.path().join(entry.file_name()),
                fs::read(entry.path()).unwrap(),
            )
            .unwrap();
        }
        let path = dir.path().join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let import = Import::new(open(dir.path()));
        let error = import.map_err(|error| error.to_string());
        match error.and_then(|import| Lm::<Flex>::from_weights(&import, &FlexDevice)) {
            Ok(_) => panic!("{from} -> {to} is accepted"),
            Err(error) => error,
        }
    };
    assert!(fails("deepseek_v3", "{", "{").contains("OLMoE, Qwen3-MoE can"));
    assert!(fails("olmoe", "\"clip_qkv\": null", "\"clip_qkv\": 8.0").contains("clip_qkv"));
    assert!(fails("olmoe", "silu", "gelu").contains("hidden_act"));
    assert!(fails("mixtral", "\"default\"", "\"yarn\"").contains("rope_type"));
    let vocab = fails("mixtral", "\"vocab_size\": 96", "\"vocab_size\": 97");
    assert!(
        vocab.contains("model.embed_tokens.weight") && vocab.contains("[96, 32]"),
        "{vocab}"
    );
    let layers = fails(
        "olmoe",
        "\"num_hidden_layers\": 2",
        "\"num_hidden_layers\": 3",
    );
    assert!(layers.contains("no tensor of layer 2"), "{layers}");
}

#[test]
fn a_failed_export_leaves_nothing() {
    let dir = tempdir().unwrap();
    let to = dir.path().join("out");
    let model = config().init::<Flex>(1, &FlexDevice).unwrap();
    let config = model.config();
    let begin = || Export::new(&config, &[], None, None, ExportType::F32, 50_000, &to);
    let unfinished = begin().unwrap();
    let busy = begin();
    assert!(busy.err().unwrap().to_string().contains("another process"));
    let error = unfinished.finish().unwrap_err().to_string();
    assert!(error.contains("no tensor was given"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // What a killed export of other shards left does not get into the next one.
    let partial = dir.path().join("out.partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("model-00001-of-00002.safetensors"), "stale").unwrap();
    export(&model, None, ExportType::F32, &to).unwrap();
    let stale = fs::read(to.join("model-00001-of-00002.safetensors"));
    assert!(stale.map_or(true, |bytes| bytes != b"stale"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
