//! Dense checkpoints that become MoE checkpoints.

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use upcycle_hf::{Growth, GrowthRequest, HfCheckpoint, HfError, WriteOptions};
use upcycle_operator::{Recipe, Upcycle};

const D: usize = 8;
const F: usize = 12;
const LAYERS: usize = 2;
const EXPERTS: usize = 4;

fn tensors(dir: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let all = all.tensors().into_iter();
    all.map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

/// A dense checkpoint of two layers, with more tensors and fields.
fn dense(model_type: &str, more: &[(&str, Vec<usize>)], fields: Value) -> TempDir {
    let dir = tempdir().unwrap();
    let mut config = json!({
        "model_type": model_type, "architectures": ["Dense"], "hidden_size": D, "intermediate_size": F,
        "num_hidden_layers": LAYERS, "vocab_size": 5, "rms_norm_eps": 1e-6,
    });
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![5, D])];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("mlp.gate_proj.weight", vec![F, D]),
            ("mlp.up_proj.weight", vec![F, D]),
            ("mlp.down_proj.weight", vec![D, F]),
            ("post_attention_layernorm.weight", vec![D]),
        ] {
            shapes.push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    shapes.extend(
        more.iter()
            .map(|(name, shape)| ((*name).to_owned(), shape.clone())),
    );
    let mut next = 0.0;
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let value = |_| {
                next += 1.0_f32;
                next.sin().to_le_bytes()
            };
            (0..shape.iter().product()).flat_map(value).collect()
        })
        .collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        (
            name.clone(),
            TensorView::new(Dtype::F32, shape.clone(), data).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

fn grow(from: &Path, to: &Path, recipe: &str, top_k: Option<usize>) -> Result<f64, HfError> {
    let recipe = Recipe::named(recipe).unwrap();
    let shards = recipe.dense.as_ref().map_or(1, |dense| dense.shards);
    let checkpoint = HfCheckpoint::open(from, None)?.cut(shards)?;
    let request = GrowthRequest {
        operator: Upcycle::new(recipe, shards * EXPERTS),
        top_k,
        scores: None,
    };
    let growth = Growth::new(&checkpoint, request)?;
    let options = WriteOptions {
        shard_bytes: 1 << 30,
        resume: false,
        force: false,
    };
    growth.write(to, options, &mut |_| ())?;
    Ok(growth.forecast()?.unwrap().gate_change)
}

#[test]
fn every_expert_is_the_network() {
    for (model_type, prefix, parts, family) in [
        (
            "llama",
            "block_sparse_moe",
            ["w1", "w3", "w2"],
            "MixtralForCausalLM",
        ),
        (
            "qwen2",
            "mlp",
            ["gate_proj", "up_proj", "down_proj"],
            "Qwen2MoeForCausalLM",
        ),
        (
            "qwen3",
            "mlp",
            ["gate_proj", "up_proj", "down_proj"],
            "Qwen3MoeForCausalLM",
        ),
    ] {
        let from = dense(model_type, &[], json!({}));
        let to = from.path().join("grown");
        let out = tempdir().unwrap();
        let to = out.path().join(to.file_name().unwrap());
        let gate_change = grow(from.path(), &to, "sparse-upcycling", Some(2)).unwrap();
        assert!(gate_change < 1e-6, "{gate_change}");
        let (before, after) = (tensors(from.path()), tensors(&to));
        for layer in 0..LAYERS {
            let of = |name: &str| &before[&format!("model.layers.{layer}.mlp.{name}.weight")];
            for expert in 0..EXPERTS {
                let networks = ["gate_proj", "up_proj", "down_proj"].into_iter().zip(parts);
                for (network, part) in networks {
                    let name =
                        format!("model.layers.{layer}.{prefix}.experts.{expert}.{part}.weight");
                    assert_eq!(&after[&name], of(network), "{name}");
                }
            }
            let (shape, rows) = &after[&format!("model.layers.{layer}.{prefix}.gate.weight")];
            assert_eq!(shape, &[EXPERTS, D]);
            let rows: Vec<&[u8]> = rows.chunks_exact(4 * D).collect();
            assert!((1..EXPERTS).all(|row| rows[row] != rows[0]));
            let shared = format!("model.layers.{layer}.mlp.shared_expert_gate.weight");
            assert_eq!(after.contains_key(&shared), model_type == "qwen2");
            assert!(
                after
                    .get(&shared)
                    .is_none_or(|(_, data)| data.iter().all(|&byte| byte == 0))
            );
        }
        assert_eq!(
            after["model.embed_tokens.weight"],
            before["model.embed_tokens.weight"]
        );
        let config = fs::read_to_string(to.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["architectures"], json!([family]));
        assert_eq!(config["num_experts_per_tok"], 2);
        let experts = config
            .get("num_experts")
            .or(config.get("num_local_experts"));
        assert_eq!(experts, Some(&json!(EXPERTS)));
        // What was grown can be grown again, as any checkpoint of its family.
        let again = HfCheckpoint::open(&to, None).unwrap().moe().unwrap();
        assert_eq!((again.experts, again.layers.len()), (EXPERTS, LAYERS));
    }
}

#[test]
fn networks_are_cut_into_groups_of_experts_whose_sum_they_are() {
    const SHARDS: usize = 4;
    for (model_type, prefix, [gate, down], field) in [
        (
            "llama",
            "block_sparse_moe",
            ["w1", "w2"],
            "intermediate_size",
        ),
        (
            "qwen3",
            "mlp",
            ["gate_proj", "down_proj"],
            "moe_intermediate_size",
        ),
    ] {
        let from = dense(model_type, &[], json!({}));
        let out = tempdir().unwrap();
        let to = out.path().join("grown");
        let gate_change = grow(from.path(), &to, "virtual-groups", None).unwrap();
        assert!(gate_change < 1e-6, "{gate_change}");
        let (before, after) = (tensors(from.path()), tensors(&to));
        let floats = |(_, bytes): &(Vec<usize>, Vec<u8>)| -> Vec<f32> {
            let values = bytes.chunks_exact(4);
            values
                .map(|it| f32::from_le_bytes(it.try_into().unwrap()))
                .collect()
        };
        let width = F / SHARDS;
        for expert in 0..SHARDS * EXPERTS {
            let shard = expert % SHARDS;
            let of = |part: &str| {
                &after[&format!("model.layers.1.{prefix}.experts.{expert}.{part}.weight")]
            };
            assert_eq!(of(gate).0, [width, D]);
            let whole = floats(&before["model.layers.1.mlp.gate_proj.weight"]);
            assert_eq!(floats(of(gate)), whole[shard * width * D..][..width * D]);
            assert_eq!(of(down).0, [D, width]);
            let whole = floats(&before["model.layers.1.mlp.down_proj.weight"]);
            let rows = whole
                .chunks(F)
                .flat_map(|row| &row[shard * width..][..width]);
            let scaled: Vec<f32> = rows.map(|value| SHARDS as f32 * value).collect();
            assert_eq!(floats(of(down)), scaled);
        }
        let rows = floats(&after[&format!("model.layers.1.{prefix}.gate.weight")]);
        let rows: Vec<&[f32]> = rows.chunks(D).collect();
        for (expert, row) in rows.iter().enumerate() {
            let group = expert / SHARDS * SHARDS;
            assert_eq!(row, &rows[group]);
            assert_eq!(*row == rows[0], group == 0);
        }
        let config = fs::read_to_string(to.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config[field], json!(width));
        assert_eq!(config["num_experts_per_tok"], json!(SHARDS));
    }
}

#[test]
fn dropped_neurons_are_new_in_every_expert() {
    let from = dense("qwen3", &[], json!({}));
    let out = tempdir().unwrap();
    let to = out.path().join("grown");
    grow(from.path(), &to, "drop-upcycling", None).unwrap();
    let after = tensors(&to);
    let name = |expert: usize| format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
    assert!((1..EXPERTS).all(|expert| after[&name(expert)] != after[&name(0)]));
}

#[test]
fn what_a_family_does_not_have_is_refused() {
    let to = Path::new("nowhere");
    let refusal = |from: &TempDir, recipe: &str| {
        let error = grow(from.path(), to, recipe, None).err();
        error.expect("a refusal").to_string()
    };
    let plain = dense("llama", &[], json!({}));
    assert!(refusal(&plain, "uniform").contains("`[dense]` section"));
    let cut = |shards| HfCheckpoint::open(plain.path(), None).unwrap().cut(shards);
    let error = cut(5).expect_err("a refusal").to_string();
    assert!(
        error.contains("`intermediate_size` = 12 cannot be cut into 5"),
        "{error}"
    );
    let request = GrowthRequest {
        operator: Upcycle::new(Recipe::named("virtual-groups").unwrap(), 8),
        top_k: None,
        scores: None,
    };
    let whole = cut(1).unwrap();
    let error = Growth::new(&whole, request.clone()).expect_err("a refusal");
    assert!(
        error
            .to_string()
            .contains("cut into 1, not into `dense.shards` = 4"),
        "{error}"
    );
    for (operator, top_k, problem) in [
        (request.operator.clone(), Some(6), "whole networks"),
        (
            Upcycle::new(request.operator.recipe.clone(), 10),
            None,
            "not a multiple",
        ),
    ] {
        let request = GrowthRequest {
            operator,
            top_k,
            scores: None,
        };
        let cut = cut(4).unwrap();
        let error = Growth::new(&cut, request).expect_err("a refusal");
        assert!(error.to_string().contains(problem), "{error}");
    }
    let biased = dense("llama", &[], json!({ "attention_bias": true }));
    assert!(refusal(&biased, "sparse-upcycling").contains("`attention_bias` is true"));
    let more = [("model.layers.1.mlp.gate_proj.bias", vec![F])];
    let biased = dense("qwen3", &more, json!({}));
    assert!(refusal(&biased, "sparse-upcycling").contains("gate_proj.bias"));
}
