//! Checkpoints of public reports that were once grown wrongly, or refused without need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use upcycle_hf::{GivenScores, Growth, GrowthRequest, HfCheckpoint, HfError, Layout, WriteOptions};
use upcycle_operator::{Recipe, RouterExtension, Selection, Upcycle};

const EXPERTS: usize = 6;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/field")
        .join(name)
}

/// The layout beside a case, which a user wrote.
fn own_layout(name: &str) -> Layout {
    Layout::read(&case(name).join("layout.toml")).unwrap()
}

fn recipe(router: RouterExtension) -> Recipe {
    let mut recipe = Recipe::named("hyperplane").unwrap();
    recipe.router = router;
    recipe
}

fn hyperplane() -> Recipe {
    recipe(RouterExtension::Hyperplane { strength: 10.0 })
}

fn dormant() -> Recipe {
    recipe(RouterExtension::Dormant { bias: 10.0 })
}

/// A grown checkpoint: its folder, the tensors before and after by name, and what was said.
struct Grown {
    dir: TempDir,
    before: BTreeMap<String, Vec<usize>>,
    after: BTreeMap<String, Vec<usize>>,
    layers: usize,
    notes: Vec<String>,
    /// Share of gates that move, as was foretold.
    gate_change: f64,
}

impl Grown {
    fn config(&self) -> Value {
        let text = fs::read_to_string(self.dir.path().join("out/config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn shapes(dir: &Path) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "safetensors") {
            let bytes = fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                shapes.insert(name, view.shape().to_vec());
            }
        }
    }
    shapes
}

fn grow(
    name: &str,
    layout: Option<Layout>,
    recipe: Recipe,
    scores: Option<GivenScores>,
) -> Result<Grown, HfError> {
    let from = case(name).join("in");
    let checkpoint = HfCheckpoint::open(&from, layout)?;
    grow_checkpoint(&checkpoint, recipe, scores)
}

fn grow_checkpoint(
    checkpoint: &HfCheckpoint,
    recipe: Recipe,
    scores: Option<GivenScores>,
) -> Result<Grown, HfError> {
    let request = GrowthRequest {
        operator: Upcycle::new(recipe, 2 * EXPERTS),
        top_k: None,
        scores,
    };
    let growth = Growth::new(checkpoint, request)?;
    let dir = tempdir().unwrap();
    let options = WriteOptions {
        shard_bytes: 1 << 30,
        resume: false,
        force: false,
    };
    let to = dir.path().join("out");
    growth.write(&to, options, &mut |_| ())?;
    Ok(Grown {
        before: shapes(&checkpoint.dir),
        after: shapes(&to),
        layers: growth.moe.layers.len(),
        notes: growth.notes.clone(),
        gate_change: growth.forecast()?.unwrap().gate_change,
        dir,
    })
}

/// Every axis that was as long as there were experts is twice as long, in the tensors of these names, and none elsewhere.
fn assert_doubled(grown: &Grown, of_experts: &[&str]) {
    for (name, shape) in &grown.before {
        let expected: Vec<usize> = match of_experts.iter().any(|part| name.contains(part)) {
            true => shape
                .iter()
                .map(|&dim| if dim == EXPERTS { 2 * EXPERTS } else { dim })
                .collect(),
            false => shape.clone(),
        };
        assert_eq!(grown.after[name], expected, "{name}");
    }
}

fn error(result: Result<Grown, HfError>) -> String {
    result.err().expect("a refusal").to_string()
}

/// Largest cosine of two rows of a tensor.
fn largest_cosine(dir: &Path, name: &str) -> f64 {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let values = view.data().chunks_exact(4);
    let values: Vec<f64> = values
        .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
        .collect();
    let rows: Vec<&[f64]> = values.chunks_exact(view.shape()[1]).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut largest: f64 = -1.0;
    for (i, a) in rows.iter().enumerate() {
        for b in &rows[..i] {
            largest = largest.max(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
        }
    }
    largest
}

#[test]
fn a_routers_name_is_a_routers_whatever_else_it_fits() {
    for layout in [Some(own_layout("granite_router_copied")), None] {
        let grown = grow("granite_router_copied", layout, hyperplane(), None).unwrap();
        assert_doubled(&grown, &["block_sparse_moe"]);
        let router = "model.layers.0.block_sparse_moe.router.layer.weight";
        assert!(largest_cosine(&grown.dir.path().join("out"), router) < 0.99);
    }
}

#[test]
fn experts_may_be_stored_in_two_ways_within_a_checkpoint() {
    let name = "qwen35_mixed";
    let error = error(grow(name, Some(own_layout(name)), hyperplane(), None));
    assert!(error.contains("is of a router") && error.contains("[[experts]]"));
    let grown = grow(name, None, hyperplane(), None).unwrap();
    assert_eq!(grown.layers, 4);
    assert_doubled(
        &grown,
        &["mlp.experts.gate_up", "mlp.experts.down", "mlp.gate."],
    );
    let last = "mtp.layers.0.mlp.experts.11.down_proj.weight";
    assert!(grown.after.contains_key(last));
    assert!(grown.notes[0].contains("multi-token prediction"));
}

#[test]
fn a_tensor_that_nobody_speaks_of_is_not_left_alone() {
    let name = "gemma4_per_expert_scale";
    let error = error(grow(name, Some(own_layout(name)), hyperplane(), None));
    assert!(
        error.contains("router.per_expert_scale") && error.contains("experts.further"),
        "{error}"
    );
    let grown = grow(name, None, hyperplane(), None).unwrap();
    assert_doubled(&grown, &[".experts.", "router.proj", "per_expert_scale"]);
}

#[test]
fn a_norm_may_multiply_by_one_plus_its_weight() {
    let other = Layout::named_or_read(Path::new("qwen3_moe")).unwrap();
    let error = error(grow("one_plus_norm", Some(other), hyperplane(), None));
    assert!(error.contains("post_attention_layernorm") && error.contains("one_plus"));
    let right = grow("one_plus_norm", None, hyperplane(), None).unwrap();
    assert!(right.gate_change > 0.001 && right.gate_change < 0.15);
}

#[test]
fn a_scale_of_all_experts_is_carried_along() {
    let grown = grow("llama4_scalar_scale", None, hyperplane(), None).unwrap();
    let scale = "model.layers.1.feed_forward.experts.down_proj_weight_scale";
    assert_eq!(grown.after[scale], Vec::<usize>::new());
    assert_doubled(
        &grown,
        &["experts.down_proj", "experts.gate_up_proj", "router"],
    );
}

#[test]
fn scores_of_the_layers_that_run_suffice() {
    let text = fs::read_to_string(case("mtp_scores").join("scores.json")).unwrap();
    let scores: GivenScores = serde_json::from_str(&text).unwrap();
    let by_score = || {
        let mut recipe = dormant();
        recipe.selection = Selection::Proportional {
            score: scores.score,
            on: Default::default(),
        };
        recipe
    };
    let grown = grow("mtp_scores", None, by_score(), Some(scores.clone())).unwrap();
    assert_eq!(grown.layers, 3);
    let record = fs::read_to_string(grown.dir.path().join("out/upcycle.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let copies = |layer: usize| {
        let sources = record["layers"][layer]["source_of"].as_array().unwrap();
        let of = |source: u64| {
            sources
                .iter()
                .filter(|it| it.as_u64() == Some(source))
                .count()
        };
        (0..EXPERTS as u64).map(of).collect::<Vec<usize>>()
    };
    assert_ne!(copies(0), vec![2; EXPERTS]);
    assert_eq!(copies(2), vec![2; EXPERTS]);
    assert_eq!(record["layers"][2]["layer"], 3);

    let mut one = scores.clone();
    one.layers.truncate(1);
    let error = error(grow("mtp_scores", None, by_score(), Some(one)));
    assert!(error.contains("2 MoE layers, and 1 of multi-token prediction"));

    let found = HfCheckpoint::open(&case("mtp_scores").join("in"), None).unwrap();
    let found = found.inspect().unwrap();
    assert_eq!((found.routers.len(), found.prediction_layers), (2, vec![3]));
}

#[test]
fn both_storages_of_a_family_are_read() {
    let grown = grow("fused_save", None, hyperplane(), None).unwrap();
    assert_doubled(&grown, &["mlp.experts", "mlp.gate."]);
    assert_eq!(grown.before.len(), grown.after.len());
}

#[test]
fn lists_that_name_experts_get_their_replicas() {
    let grown = grow("quant_ignore_list", None, dormant(), None).unwrap();
    let ignored = &grown.config()["quantization_config"]["ignore"];
    let ignored: BTreeSet<&str> = ignored
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    let mut expected: BTreeSet<String> = ["lm_head".to_owned()].into();
    for expert in 0..2 * EXPERTS {
        for part in ["gate_proj", "up_proj", "down_proj"] {
            expected.insert(format!("model.layers.3.mlp.experts.{expert}.{part}"));
        }
    }
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(ignored, expected);

    // The same beside config.json, and what cannot be extended.
    let copy = tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(
            case("quant_ignore_list").join("in").join(name),
            copy.path().join(name),
        )
        .unwrap();
    }
    let lists = r#"{"quantization": {"exclude_modules": ["model.layers.1.mlp.experts.5", "lm_head"],
        "layers": {"model.layers.1.mlp.experts.2.up_proj": "fp8"}, "limit": NaN}}"#;
    fs::write(copy.path().join("hf_quant_config.json"), lists).unwrap();
    let checkpoint = HfCheckpoint::open(copy.path(), None).unwrap();
    let grown = grow_checkpoint(&checkpoint, dormant(), None).unwrap();
    let text = fs::read_to_string(grown.dir.path().join("out/hf_quant_config.json")).unwrap();
    let list = r#"["model.layers.1.mlp.experts.5","model.layers.1.mlp.experts.11","lm_head"]"#;
    assert!(text.contains(list) && text.contains("NaN"), "{text}");
    let left = "`quantization.layers.model.layers.1.mlp.experts.2.up_proj` names experts";
    assert!(
        grown.notes.iter().any(|note| note.contains(left)),
        "{:?}",
        grown.notes
    );
}

#[test]
fn numbers_of_python_come_through() {
    for layout in [Some(own_layout("config_infinity")), None] {
        let grown = grow("config_infinity", layout, dormant(), None);
        // The layout names a gate projection, which these experts do not have: copies do not need one.
        let grown = grown.unwrap();
        let text = fs::read_to_string(grown.dir.path().join("out/config.json")).unwrap();
        assert!(text.contains("[0.0, Infinity]") && text.contains("\"n_routed_experts\": 12"));
        assert!(
            grown
                .after
                .contains_key("backbone.layers.1.mixer.experts.11.down_proj.weight")
        );
    }
}

#[test]
fn shards_without_an_index_are_read_when_asked_for() {
    let dir = case("missing_index").join("in");
    let error = HfCheckpoint::open(&dir, None).err().unwrap().to_string();
    assert!(error.contains("model.safetensors.index.json"), "{error}");
    assert!(error.contains("2 safetensors files") && error.contains("--without-index"));
    let checkpoint = HfCheckpoint::open_without_index(&dir, None).unwrap();
    let grown = grow_checkpoint(&checkpoint, hyperplane(), None).unwrap();
    assert!(
        grown
            .after
            .contains_key("model.layers.0.mlp.experts.11.up_proj.weight")
    );

    let copy = tempdir().unwrap();
    for name in ["config.json", "model-00001-of-00002.safetensors"] {
        fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    let error = HfCheckpoint::open_without_index(copy.path(), None)
        .err()
        .unwrap();
    let missing = "has no model-00002-of-00002.safetensors";
    assert!(error.to_string().contains(missing), "{error}");
    let first = copy.path().join("model-00001-of-00002.safetensors");
    fs::copy(&first, copy.path().join("twice.safetensors")).unwrap();
    fs::rename(&first, copy.path().join("once.safetensors")).unwrap();
    let error = HfCheckpoint::open_without_index(copy.path(), None)
        .err()
        .unwrap();
    assert!(error.to_string().contains("too"), "{error}");
}

#[test]
fn layers_may_have_another_name() {
    for layout in [Some(own_layout("blocks_layer_check")), None] {
        let grown = grow("blocks_layer_check", layout, dormant(), None).unwrap();
        assert_eq!(grown.layers, 2);
        assert!(grown.gate_change < 1e-6);
    }
}

#[test]
fn weights_beside_the_index_do_not_stay_behind() {
    let copy = tempdir().unwrap();
    let dir = case("missing_index").join("in");
    let mut map = serde_json::Map::new();
    for shard in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        fs::copy(dir.join(shard), copy.path().join(shard)).unwrap();
        let bytes = fs::read(dir.join(shard)).unwrap();
        for name in SafeTensors::deserialize(&bytes).unwrap().names() {
            map.insert(name.to_owned(), shard.into());
        }
    }
    fs::copy(dir.join("config.json"), copy.path().join("config.json")).unwrap();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(
        copy.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    assert!(HfCheckpoint::open(copy.path(), None).is_ok());
    let sidecar = copy.path().join("mtp.safetensors");
    fs::copy(dir.join("model-00001-of-00002.safetensors"), sidecar).unwrap();
    let error = HfCheckpoint::open(copy.path(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("mtp.safetensors") && error.contains("--without-index"),
        "{error}"
    );
}

#[test]
fn a_family_that_cannot_be_grown_says_why() {
    let refused = Layout::named_or_read(Path::new("deepseek_v4")).unwrap();
    let error = error(grow("fused_save", Some(refused), hyperplane(), None));
    assert!(
        error.contains("DeepSeek-V4") && error.contains("tid2eid"),
        "{error}"
    );
}

/// The worked example of docs/huggingface.md.
#[test]
fn a_family_that_nobody_knows_takes_some_lines() {
    let dir = tempdir().unwrap();
    let text = r#"
        name = "Nobody's"
        model_types = ["nobodys_moe"]

        [experts]
        tensors = "*layers.{layer}.moe.ffn.{expert}.*"
        up = "w_in"
        down = "w_out"
        further = "*layers.{layer}.moe.expert_scale"

        [router]
        weight = "*layers.{layer}.moe.switch.weight"
        bias = "*layers.{layer}.moe.switch.balance"
        bias_of = "selection"
        input_norm = "*layers.{layer}.norm2.weight"

        [routing]
        score = "sigmoid"
        renormalize = true

        [config]
        experts = "experts_per_layer"
        top_k = "experts_per_token"
    "#;
    let file = dir.path().join("nobodys.toml");
    fs::write(&file, text).unwrap();
    let config = r#"{"model_type": "nobodys_moe", "experts_per_layer": 6, "experts_per_token": 2}"#;
    fs::write(dir.path().join("config.json"), config).unwrap();
    let mut shapes = vec![
        ("decoder.layers.3.moe.expert_scale".to_owned(), vec![6]),
        ("decoder.layers.3.moe.switch.weight".to_owned(), vec![6, 4]),
        ("decoder.layers.3.moe.switch.balance".to_owned(), vec![1, 6]),
        ("decoder.layers.3.norm2.weight".to_owned(), vec![4]),
    ];
    for expert in 0..EXPERTS {
        for (part, shape) in [("w_in", vec![3, 4]), ("w_out", vec![4, 3])] {
            shapes.push((format!("decoder.layers.3.moe.ffn.{expert}.{part}"), shape));
        }
    }
    let values: Vec<u8> = (0..24)
        .flat_map(|i| (0.1 * i as f32 + 0.1).to_le_bytes())
        .collect();
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = 4 * shape.iter().product::<usize>();
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            shape.clone(),
            &values[..bytes],
        );
        (name.clone(), view.unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let layout = || Some(Layout::read(&file).unwrap());
    let checkpoint = HfCheckpoint::open(dir.path(), layout()).unwrap();
    let grown = grow_checkpoint(&checkpoint, dormant(), None).unwrap();
    assert_doubled(&grown, &["moe.expert_scale", "moe.switch"]);
    assert!(
        grown
            .after
            .contains_key("decoder.layers.3.moe.ffn.11.w_out")
    );
    assert_eq!(grown.config()["experts_per_layer"], 12);
}
