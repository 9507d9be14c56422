//! Checkpoints of transformers as models of ours, and back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::{
    backend::Autodiff,
    module::AutodiffModule,
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use safetensors::SafeTensors;
use tempfile::{TempDir, tempdir};
use upcycle_hf::{Export, ExportType, HfCheckpoint, HfError, Import};
use upcycle_kernels::AdamWRecord;
use upcycle_lm::{AttentionBias, LayerPattern, Lm, LmConfig, QkNorm};
use upcycle_moe::{GroupLimit, GroupStrength, MoeModel, ScoreFunction};
use upcycle_operator::{Evidence, Recipe, RouterExtension, TieBreakKind, Upcycle};

const RUNNABLE: [&str; 6] = [
    "olmoe",
    "mixtral",
    "qwen3_moe",
    "qwen2_moe",
    "dots1",
    "glm4_moe",
];

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
        ..LmConfig::default()
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
    assert_eq!(of(|_| ()), "MixtralForCausalLM");
    assert_eq!(
        of(|c| c.score = ScoreFunction::TopKSoftmax),
        "MixtralForCausalLM"
    );
    assert_eq!(
        of(|c| (c.qk_norm, c.renormalize) = (QkNorm::AllHeads, false)),
        "OlmoeForCausalLM"
    );
    // Without a shared expert, which is written as zeros.
    assert_eq!(
        of(|c| (c.score, c.gate_scale) = (ScoreFunction::Sigmoid, 2.0)),
        "Glm4MoeForCausalLM"
    );
    assert_eq!(
        of(|c| (c.d_shared, c.shared_gate) = (20, true)),
        "Qwen2MoeForCausalLM"
    );
    assert_eq!(
        of(|c| {
            c.score = ScoreFunction::Sigmoid;
            (c.qk_norm, c.attention_bias) = (QkNorm::Head, AttentionBias::All);
            c.d_shared = 2 * c.d_expert;
            (c.experts, c.groups) = (8, Some(groups(4, 2)));
            (c.pattern, c.d_ffn) = (LayerPattern::List(vec![1]), 20);
        }),
        "Dots1ForCausalLM"
    );
    assert_eq!(
        of(|c| {
            c.qk_norm = QkNorm::Head;
            c.d_head = 12;
            (c.pattern, c.d_ffn) = (LayerPattern::Interleaved, 20);
        }),
        "Qwen3MoeForCausalLM"
    );
}

fn groups(count: usize, top: usize) -> GroupLimit {
    let by = GroupStrength::TopTwo;
    GroupLimit { count, top, by }
}

/// A model with everything that is new beside DeepSeek-V3's latent attention, with state that matters.
fn rich(name: &str) -> Lm<Autodiff<Flex>> {
    let import = Import::new(open(&fixture(name))).unwrap();
    Lm::from_weights(&import, &FlexDevice).unwrap()
}

#[test]
fn grown_groups_stand_together_in_an_export() {
    let (tokens, expected) = expected("dots1");
    let mut model = rich("dots1");
    let recipe = Recipe {
        router: RouterExtension::BiasNoise {
            half_width: 0.05,
            shift: -0.02,
        },
        ..Recipe::named("uniform").unwrap()
    };
    for target_experts in [12, 24] {
        let operator = Upcycle::new(recipe.clone(), target_experts);
        let mut optimizer = AdamWRecord::default();
        let grown = operator
            .grow(&mut model, &mut optimizer, &Evidence::default())
            .unwrap();
        // Twins share gates, so only the shares of sources move.
        assert!(grown.forecast.unwrap().gate_change > 0.0);
    }
    let states = model.growth_states();
    for state in &states {
        let groups = state.groups.as_ref().unwrap();
        assert_eq!(groups.of.replicas(), [6; 4]);
        assert!(!groups.order().is_sorted());
    }
    let dir = tempdir().unwrap();
    let to = dir.path().join("out");
    let model = model.valid();
    let like = open(&fixture("dots1"));
    let config = model.config();
    let mut export = Export::new(
        &config,
        &states,
        Some(&like),
        None,
        ExportType::F32,
        50_000,
        &to,
    )
    .unwrap();
    model.to_weights(&mut export).unwrap();
    export.finish().unwrap();
    let grown = logits(&model, &tokens);
    assert!(distance(&logits(&load(&to), &tokens), &grown) < 1e-5);
    assert!(distance(&grown, &expected) > 1e-3);
}

#[test]
fn twins_kept_apart_leave_a_model_with_groups_as_it_was() {
    for name in ["dots1", "glm4_moe", "qwen2_moe"] {
        let (tokens, expected) = expected(name);
        let mut model = rich(name);
        let recipe = Recipe {
            router: RouterExtension::TwoLevel {
                tie_break: TieBreakKind::Random,
                strength: 0.3,
                separation: 0.0,
                release: None,
            },
            ..Recipe::named("exact").unwrap()
        };
        let operator = Upcycle::new(recipe, model.config().experts * 2);
        let mut optimizer = AdamWRecord::default();
        operator
            .grow(&mut model, &mut optimizer, &Evidence::default())
            .unwrap();
        let error = distance(&logits(&model.valid(), &tokens), &expected);
        assert!(error < 1e-5, "{name}: {error:.1e}");
    }
}

/// What transformers reads of a new configuration has the names that it knows.
#[test]
fn a_new_configuration_has_the_fields_of_its_family() {
    let mut config = config();
    (config.score, config.d_shared) = (ScoreFunction::Sigmoid, 24);
    let dir = tempdir().unwrap();
    let to = dir.path().join("out");
    let model = config.init::<Flex>(1, &FlexDevice).unwrap();
    export(&model, None, ExportType::F32, &to).unwrap();
    let read = |dir: &Path| -> serde_json::Map<String, serde_json::Value> {
        let text = fs::read_to_string(dir.join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (new, known) = (read(&to), read(&fixture("glm4_moe")));
    let extra = [
        "partial_rotary_factor",
        "rope_theta",
        "sliding_window",
        "torch_dtype",
    ];
    for field in new.keys() {
        assert!(
            known.contains_key(field) || extra.contains(&field.as_str()),
            "{field}"
        );
    }
    assert_eq!(new["n_routed_experts"], 4);
}

/// The configuration of a checkpoint that a model is exported like says what is true of the model, or the export is refused.
#[test]
fn a_configuration_of_another_model_is_not_taken_for_its_own() {
    let like = open(&fixture("glm4_moe"));
    let export_changed = |change: fn(&mut LmConfig)| {
        let mut config = load(&fixture("glm4_moe")).config();
        change(&mut config);
        let dir = tempdir().unwrap();
        let to = dir.path().join("out");
        let model = config.init::<Flex>(1, &FlexDevice).unwrap();
        let tokens: Vec<i32> = (0..16).collect();
        export(&model, Some(&like), ExportType::F32, &to)?;
        let again = load(&to);
        assert_eq!(again.config(), model.config());
        assert!(distance(&logits(&again, &tokens), &logits(&model, &tokens)) < 1e-5);
        Ok::<_, HfError>(())
    };
    let error = |change| export_changed(change).unwrap_err().to_string();
    assert!(error(|c| c.rotary_share = 1.0).contains("rotary_share"));
    assert!(error(|c| c.rope_theta = 500.0).contains("rope_theta"));
    assert!(error(|c| c.d_head = 8).contains("d_head"));
    assert!(error(|c| c.norm_eps = 1e-3).contains("norm_eps"));
    assert!(error(|c| c.d_ffn = 44).contains("d_ffn"));
    assert!(error(|c| c.pattern = LayerPattern::AllMoe).contains("pattern"));
    let more = |c: &mut LmConfig| (c.layers, c.pattern) = (3, LayerPattern::List(vec![1, 2]));
    assert!(error(more).contains("layers"));
    assert!(error(|c| c.context = 128).contains("context"));
    assert!(error(|c| c.groups = Some(groups(8, 4))).contains("at least two experts"));
    export_changed(|_| ()).unwrap();
    // What the configuration can say, it says.
    export_changed(|c| c.groups = None).unwrap();
    export_changed(|c| c.groups = Some(groups(2, 1))).unwrap();
    export_changed(|c| c.qk_norm = QkNorm::None).unwrap();
    export_changed(|c| c.attention_bias = AttentionBias::None).unwrap();
    export_changed(|c| (c.experts, c.top_k, c.gate_scale) = (12, 2, 2.5)).unwrap();
    export_changed(|c| c.d_shared = 24).unwrap();
}

#[test]
fn layers_of_prediction_stay_behind_and_are_named() {
    let dir = edited(
        "dots1",
        "\"num_hidden_layers\": 3",
        "\"num_hidden_layers\": 2",
    );
    let import = Import::new(open(dir.path())).unwrap();
    assert_eq!(import.left_out(), [2]);
    let model = Lm::<Flex>::from_weights(&import, &FlexDevice).unwrap();
    assert_eq!(model.blocks.len(), 2);
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
    let sigmoid = fails(|c| (c.score, c.qk_norm) = (ScoreFunction::Sigmoid, QkNorm::AllHeads));
    for word in ["see `score`", "Dots1ForCausalLM", "see `qk_norm`"] {
        assert!(sigmoid.contains(word), "{sigmoid}");
    }
    assert!(fails(|c| c.gate_scale = 2.0).contains("see `gate_scale`"));
    assert!(fails(|c| c.groups = Some(groups(2, 1))).contains("see `groups`"));
    assert!(fails(|c| c.rotary_share = 0.5).contains("see `rotary_share`"));
    let biases = fails(|c| c.attention_bias = AttentionBias::All);
    assert!(
        biases.contains("no MixtralForCausalLM: that has other biases"),
        "{biases}"
    );
    let shared = fails(|c| (c.score, c.d_shared) = (ScoreFunction::Sigmoid, 20));
    assert!(shared.contains("see `d_shared`"), "{shared}");
    assert!(fails(|c| (c.pattern, c.d_ffn) = (LayerPattern::AllDense, 8)).contains("no MoE layer"));
}

/// A fixture with another configuration.
fn edited(name: &str, from: &str, to: &str) -> TempDir {
    let dir = tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let copy = dir.path().join(entry.file_name());
        fs::write(copy, fs::read(entry.path()).unwrap()).unwrap();
    }
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    dir
}

#[test]
fn checkpoints_that_cannot_be_run_are_explained() {
    let fails = |name: &str, from: &str, to: &str| {
        let dir = edited(name, from, to);
        let import = Import::new(open(dir.path()));
        let error = import.map_err(|error| error.to_string());
        match error.and_then(|import| Lm::<Flex>::from_weights(&import, &FlexDevice)) {
            Ok(_) => panic!("{from} -> {to} is accepted"),
            Err(error) => error,
        }
    };
    assert!(fails("deepseek_v3", "{", "{").contains("glm4_moe, dots1, mixtral, olmoe"));
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
