//! Growing checkpoints from disk to disk.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use upcycle_hf::{
    GivenScores, Growth, GrowthRequest, HfCheckpoint, HfError, Layout, Synthetic, Weights,
    WriteOptions, Written,
};
use upcycle_operator::{
    Deviation, ExpertInit, ExpertMatrices, Initialization, OptimizerPolicy, Recipe,
    RouterExtension, Selection, Upcycle,
};

/// A tensor as it is on disk.
type Raw = (Dtype, Vec<usize>, Vec<u8>);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// All tensors, found as transformers does.
fn tensors(dir: &Path) -> BTreeMap<String, Raw> {
    let index = dir.join("model.safetensors.index.json");
    let files: BTreeMap<String, Option<String>> = match fs::read_to_string(index) {
        Ok(text) => {
            let index: Value = serde_json::from_str(&text).unwrap();
            let map = index["weight_map"].as_object().unwrap();
            map.iter()
                .map(|(name, file)| (name.clone(), Some(file.as_str().unwrap().to_owned())))
                .collect()
        }
        Err(_) => BTreeMap::from([(String::new(), None)]),
    };
    let mut names: Vec<String> = files.values().flatten().cloned().collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        names.push("model.safetensors".into());
    }
    let mut all = BTreeMap::new();
    for file in names {
        let bytes = fs::read(dir.join(&file)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let place = files.get(&name).cloned().flatten();
            assert!(place.is_none_or(|place| place == file), "{name} in {file}");
            all.insert(
                name,
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            );
        }
    }
    if !files.contains_key("") {
        assert!(
            all.keys().eq(files.keys()),
            "the index names other tensors than the files have"
        );
    }
    all
}

fn recipe(selection: Selection, router: RouterExtension) -> Recipe {
    Recipe {
        name: "test".into(),
        of_paper: false,
        grows: Default::default(),
        selection,
        experts: ExpertInit::Copy {},
        router,
        optimizer: OptimizerPolicy::Reset {},
        boost: None,
        dense: None,
    }
}

fn uniform(router: RouterExtension) -> Recipe {
    recipe(Selection::Uniform {}, router)
}

fn request(recipe: Recipe, target_experts: usize) -> GrowthRequest {
    GrowthRequest {
        operator: Upcycle::new(recipe, target_experts).with_seed(1),
        top_k: None,
        scores: None,
    }
}

fn options(shard_bytes: u64) -> WriteOptions {
    WriteOptions {
        shard_bytes,
        resume: false,
        force: false,
    }
}

/// Grows `from` to `to`; sources of every MoE layer's experts, by the number of the layer.
fn grow(
    from: &Path,
    to: &Path,
    request: GrowthRequest,
) -> Result<(Written, BTreeMap<usize, Vec<usize>>), HfError> {
    let checkpoint = HfCheckpoint::open(from, None)?;
    let growth = Growth::new(&checkpoint, request)?;
    let layers = growth.moe.layers.iter().enumerate();
    let sources = layers.map(|(index, layer)| (layer.layer, growth.source_of(index).collect()));
    let sources = sources.collect();
    let written = growth.write(to, options(100_000), &mut |_| ())?;
    Ok((written, sources))
}

fn error(from: &Path, request: GrowthRequest) -> String {
    let dir = tempdir().unwrap();
    let to = dir.path().join("to");
    let error = grow(from, &to, request).unwrap_err().to_string();
    assert!(!to.exists(), "a half-made checkpoint is left");
    error
}

/// Layer, expert and the rest of the name of an expert's tensor.
fn expert_of(name: &str) -> Option<(usize, usize, String)> {
    let (before, after) = name.split_once(".experts.")?;
    let (expert, rest) = after.split_once('.')?;
    let layer = before.split('.').find_map(|part| part.parse().ok())?;
    Some((
        layer,
        expert.parse().ok()?,
        format!("{before}.experts.#.{rest}"),
    ))
}

/// Every expert must be its source, every other tensor but the routers' the same.
fn check_bytes(from: &Path, to: &Path, sources: &BTreeMap<usize, Vec<usize>>, experts: usize) {
    let (before, after) = (tensors(from), tensors(to));
    let target = sources.values().next().unwrap().len();
    let mut seen = 0;
    for (name, new) in &after {
        if let Some((layer, expert, _)) = expert_of(name) {
            let own = format!(".experts.{expert}.");
            let of = format!(".experts.{}.", sources[&layer][expert]);
            assert!(*new == before[&name.replace(&own, &of)], "{name}");
            seen += 1;
        } else if name.contains(".experts.") {
            let old = &before[name];
            assert_eq!((new.1[0], &new.1[1..]), (target, &old.1[1..]), "{name}");
            let layer: usize = name.split('.').find_map(|part| part.parse().ok()).unwrap();
            let slice = old.2.len() / experts;
            for (expert, &source) in sources[&layer].iter().enumerate() {
                let (new, old) = (
                    &new.2[expert * slice..][..slice],
                    &old.2[source * slice..][..slice],
                );
                assert!(new == old, "{name}, expert {expert}");
            }
            seen += 1;
        } else if before[name].1 == new.1 {
            assert!(*new == before[name], "{name}");
        } else {
            let router = [
                "gate.weight",
                "router.weight",
                "correction_bias",
                "router.bias",
            ];
            assert!(router.iter().any(|end| name.ends_with(end)), "{name}");
            assert_eq!((new.1[0], new.0), (target, before[name].0), "{name}");
        }
    }
    let of_experts = |name: &&String| name.contains(".experts.");
    let mut expected = before.keys().filter(of_experts).count();
    if before.keys().any(|name| expert_of(name).is_some()) {
        expected = expected / experts * target;
    }
    assert_eq!(seen, expected, "tensors of experts");
    let kept = before.keys().filter(|name| expert_of(name).is_none());
    assert!(kept.clone().all(|name| after.contains_key(name)));
}

fn hyperplane() -> RouterExtension {
    RouterExtension::Hyperplane { strength: 10.0 }
}

#[test]
fn all_other_tensors_are_kept_bit_for_bit() {
    for (name, experts) in [
        ("olmoe", 6),
        ("mixtral", 6),
        ("qwen3_moe", 6),
        ("deepseek_v3", 8),
    ] {
        for target in [2 * experts, experts + experts / 2 + experts % 2] {
            let dir = tempdir().unwrap();
            let to = dir.path().join("grown");
            let from = fixture(name);
            let (written, sources) =
                grow(&from, &to, request(uniform(hyperplane()), target)).unwrap();
            check_bytes(&from, &to, &sources, experts);
            assert_eq!(written.left_out, ["expected.safetensors"]);
            assert!(to.join("generation_config.json").is_file());
            assert!(
                fs::read_dir(dir.path()).unwrap().count() == 1,
                "something is left beside"
            );
        }
    }
}

#[test]
fn only_the_number_of_experts_changes_in_the_configuration() {
    let dir = tempdir().unwrap();
    let to = dir.path().join("grown");
    let mut request = request(uniform(hyperplane()), 12);
    request.top_k = Some(4);
    grow(&fixture("mixtral"), &to, request).unwrap();
    let before = fs::read_to_string(fixture("mixtral").join("config.json")).unwrap();
    let after = fs::read_to_string(to.join("config.json")).unwrap();
    let expected = before
        .replace("\"num_local_experts\": 6", "\"num_local_experts\": 12")
        .replace("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 4");
    assert_eq!(after, expected);
}

#[test]
fn the_index_has_the_right_totals() {
    let dir = tempdir().unwrap();
    let to = dir.path().join("grown");
    let (written, _) = grow(&fixture("olmoe"), &to, request(uniform(hyperplane()), 12)).unwrap();
    assert!(written.shards > 1);
    let index = fs::read_to_string(to.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let all = tensors(&to);
    let bytes: usize = all.values().map(|(_, _, data)| data.len()).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
    assert_eq!(index["metadata"]["total_parameters"], bytes / 4);
    assert_eq!(written.parameters, bytes as u64 / 4);
}

/// Families without a fixture, and quantised weights.
fn generated() -> Vec<Synthetic> {
    let base = Synthetic {
        model_type: "qwen2_moe".into(),
        layers: 2,
        experts: 4,
        top_k: 2,
        groups: 1,
        d: 32,
        f: 64,
        storage: 0,
        weights: Weights::Bf16,
        shard_bytes: 30_000,
    };
    let of = |model_type: &str, weights, groups| Synthetic {
        model_type: model_type.into(),
        weights,
        groups,
        ..base.clone()
    };
    vec![
        base.clone(),
        of("deepseek_v3", Weights::Fp8, 2),
        of("gpt_oss", Weights::Mxfp4, 1),
        of("gpt_oss", Weights::Bf16, 1),
        of("llama4_text", Weights::Bf16, 1),
    ]
}

fn generate(checkpoint: &Synthetic) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let from = dir.path().join("from");
    checkpoint.write(&from, 1).unwrap();
    (dir, from)
}

#[test]
fn experts_of_any_type_are_copied_as_bytes() {
    for checkpoint in generated() {
        let (dir, from) = generate(&checkpoint);
        for target in [8, 6] {
            let to = dir.path().join(format!("to-{target}"));
            let (_, sources) = grow(&from, &to, request(uniform(hyperplane()), target)).unwrap();
            check_bytes(&from, &to, &sources, checkpoint.experts);
        }
    }
}

#[test]
fn replicas_stay_in_the_group_of_their_source() {
    let dir = tempdir().unwrap();
    let counts = vec![vec![3, 1, 1, 1, 1, 2, 2, 1]];
    let explicit = |counts| recipe(Selection::Explicit { counts, file: None }, hyperplane());
    let (_, sources) = grow(
        &fixture("deepseek_v3"),
        &dir.path().join("to"),
        request(explicit(counts), 12),
    )
    .unwrap();
    for sources in sources.values() {
        assert_eq!(sources, &[0, 1, 2, 3, 0, 0, 4, 5, 6, 7, 5, 6]);
    }
    let uneven = vec![vec![4, 1, 1, 1, 1, 1, 2, 1]];
    let error = error(&fixture("deepseek_v3"), request(explicit(uneven), 12));
    assert!(error.contains("all 2 groups must have 6"), "{error}");
}

#[test]
fn biases_are_copied_and_dormant_replicas_wait_behind_theirs() {
    let dir = tempdir().unwrap();
    let to = dir.path().join("to");
    let dormant = RouterExtension::Dormant { bias: 10.0 };
    let (_, sources) = grow(&fixture("deepseek_v3"), &to, request(uniform(dormant), 16)).unwrap();
    let name = "model.layers.1.mlp.gate.e_score_correction_bias";
    let floats = |dir: &Path| -> Vec<f32> {
        let (_, _, bytes) = &tensors(dir)[name];
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    };
    let (before, after) = (floats(&fixture("deepseek_v3")), floats(&to));
    for (expert, &source) in sources[&1].iter().enumerate() {
        let is_replica = sources[&1][..expert].contains(&source);
        let expected = before[source] - if is_replica { 10.0 } else { 0.0 };
        assert_eq!(after[expert], expected);
    }
}

/// Gate, up and down of all experts of a Mixtral layer as `[E, D, F]`, `[E, D, F]` and `[E, F, D]`.
fn mixtral_experts(dir: &Path, layer: usize, experts: usize) -> [Vec<f32>; 3] {
    let all = tensors(dir);
    ["w1", "w3", "w2"].map(|part| {
        let mut values = Vec::new();
        for expert in 0..experts {
            let name =
                format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight");
            let (_, shape, bytes) = &all[&name];
            let read: Vec<f32> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect();
            let (rows, columns) = (shape[0], shape[1]);
            values.extend((0..rows * columns).map(|i| read[i % rows * columns + i / rows]));
        }
        values
    })
}

#[test]
fn initialisations_are_those_of_the_operator() {
    let (dir, from) = (tempdir().unwrap(), fixture("mixtral"));
    let [gate, up, down] = mixtral_experts(&from, 1, 6);
    let source = ExpertMatrices {
        gate: &gate,
        up: &up,
        down: &down,
        d: 32,
        f: 24,
    };
    let inits = [
        ExpertInit::Drop {
            share: 0.5,
            init: Initialization::Xavier,
        },
        ExpertInit::Interpolate { weight: 0.3 },
        ExpertInit::SvdPerturb {
            values: 0.1,
            vectors: 0.05,
            drop: 0.0,
        },
    ];
    for (index, init) in inits.into_iter().enumerate() {
        let mut request = request(uniform(hyperplane()), 9);
        request.operator.recipe.experts = init.clone();
        let checkpoint = HfCheckpoint::open(&from, None).unwrap();
        let growth = Growth::new(&checkpoint, request.clone()).unwrap();
        let to = dir.path().join(index.to_string());
        growth.write(&to, options(1 << 30), &mut |_| ()).unwrap();
        let layer = growth.operator.layer(1, &growth.choice.plan.layers[1]);
        let (expected, deviation) = layer.experts(source);
        assert!(deviation.is_none());
        assert!(mixtral_experts(&to, 1, 9) == expected, "{init:?}");
    }
}

#[test]
fn fused_matrices_are_taken_apart_and_put_together() {
    for checkpoint in generated() {
        let quantised = !matches!(checkpoint.weights, Weights::Bf16 | Weights::F32);
        let (dir, from) = generate(&checkpoint);
        let to = dir.path().join("to");
        let mut request = request(uniform(hyperplane()), 8);
        // Every neuron changes places with itself: the same bytes, by the long way.
        request.operator.recipe.experts = ExpertInit::Interpolate { weight: 0.0 };
        let grown = grow(&from, &to, request);
        if quantised {
            let error = grown.unwrap_err().to_string();
            assert!(error.contains("cannot be computed with"), "{error}");
            continue;
        }
        check_bytes(&from, &to, &grown.unwrap().1, checkpoint.experts);
    }
}

#[test]
fn neurons_are_not_shuffled_away_from_their_biases() {
    let (_dir, from) = damaged("mixtral");
    let mut shuffled = request(uniform(hyperplane()), 12);
    shuffled.operator.recipe.experts = ExpertInit::Shuffle { share: 0.5 };
    let to = from.with_extension("grown");
    grow(&from, &to, shuffled.clone()).unwrap();
    // A tensor of experts that is no matrix.
    for expert in 0..6 {
        let name = format!("experts.{expert}.w1.bias");
        let path = from.join("model-00002-of-00004.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let end = bytes.len() - 8 - length;
        header[format!("model.layers.0.block_sparse_moe.{name}")] =
            serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(&bytes[8 + length..]);
        file.extend([0; 4]);
        fs::write(path, file).unwrap();
    }
    let text = error(&from, shuffled);
    assert!(
        text.contains("w1.bias") && text.contains("experts.kind"),
        "{text}"
    );
}

#[test]
fn a_copy_that_was_killed_is_resumed() {
    let dir = tempdir().unwrap();
    let (whole, to) = (dir.path().join("whole"), dir.path().join("to"));
    let from = fixture("olmoe");
    let checkpoint = HfCheckpoint::open(&from, None).unwrap();
    let growth = Growth::new(&checkpoint, request(uniform(hyperplane()), 12)).unwrap();
    growth.write(&whole, options(50_000), &mut |_| ()).unwrap();

    let kill = |after: u64| {
        let mut run = || {
            growth.write(&to, options(50_000), &mut |progress| {
                assert!(progress.bytes < after, "killed");
            })
        };
        catch_unwind(AssertUnwindSafe(&mut run)).unwrap_err();
    };
    kill(150_000);
    assert!(!to.exists() && dir.path().join("to.partial").exists());
    let begun = growth
        .write(&to, options(50_000), &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(begun.contains("`resume`"), "{begun}");

    let resume = WriteOptions {
        resume: true,
        ..options(50_000)
    };
    let other = WriteOptions {
        shard_bytes: 60_000,
        ..resume
    };
    let differs = growth
        .write(&to, other, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(differs.contains("begun otherwise"), "{differs}");
    let mut seed = request(uniform(hyperplane()), 12);
    seed.operator.seed = 2;
    let seed = Growth::new(&checkpoint, seed).unwrap();
    let differs = seed
        .write(&to, resume, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(differs.contains("begun otherwise"), "{differs}");
    let state = dir.path().join("to.partial/upcycle.partial.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::remove_file(&state).unwrap();
    let unknown = growth
        .write(&to, resume, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("does not say what"), "{unknown}");
    fs::write(&state, text).unwrap();

    let written = growth.write(&to, resume, &mut |_| ()).unwrap();
    assert_eq!(written.resumed, 2);
    assert!(tensors(&whole) == tensors(&to));
    let names = |dir: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&whole), names(&to));
}

#[test]
fn deviations_are_told_also_by_a_resumed_copy() {
    let (dir, from) = damaged("olmoe");
    // Nothing is orthogonal to an expert of zeros.
    let file = from.join("model-00001-of-00004.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let weight = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weight = tensors.tensor("model.layers.0.mlp.experts.2.down_proj.weight");
        let weight = weight.unwrap().data().as_ptr_range();
        let at = |pointer: *const u8| pointer as usize - bytes.as_ptr() as usize;
        at(weight.start)..at(weight.end)
    };
    bytes[weight].fill(0);
    fs::write(&file, bytes).unwrap();

    let mut request = request(uniform(hyperplane()), 16);
    request.operator.recipe.experts = ExpertInit::Orthogonal {};
    let checkpoint = HfCheckpoint::open(&from, None).unwrap();
    let growth = Growth::new(&checkpoint, request).unwrap();
    let (whole, to) = (dir.path().join("whole"), dir.path().join("to"));
    let written = growth.write(&whole, options(20_000), &mut |_| ()).unwrap();
    let [Deviation::CopiedExperts { layer: 0, experts }] = &written.deviations[..] else {
        panic!("{:?}", written.deviations);
    };
    let copies = growth.source_of(0).enumerate().skip(6);
    let copies: Vec<usize> = copies.filter(|&(_, it)| it == 2).map(|it| it.0).collect();
    assert_eq!(experts, &copies);

    let mut run = || {
        growth.write(&to, options(20_000), &mut |progress| {
            assert!(progress.bytes < 150_000, "killed");
        })
    };
    catch_unwind(AssertUnwindSafe(&mut run)).unwrap_err();
    let resume = WriteOptions {
        resume: true,
        ..options(20_000)
    };
    let resumed = growth.write(&to, resume, &mut |_| ()).unwrap();
    assert!(resumed.resumed > 2);
    assert_eq!(resumed.deviations, written.deviations);
    let record: Value =
        serde_json::from_slice(&fs::read(to.join("upcycle.json")).unwrap()).unwrap();
    assert_eq!(
        record["deviations"],
        serde_json::to_value(&written.deviations).unwrap()
    );

    // The record of a growth is part of the next one's, so a damaged one is not passed over.
    fs::write(to.join("upcycle.json"), "{").unwrap();
    let text = error(&to, self::request(uniform(hyperplane()), 32));
    assert!(text.contains("upcycle.json"), "{text}");
}

/// A copy of a fixture that can be damaged.
fn damaged(name: &str) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let copy = dir.path().join(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::write(
            copy.join(entry.file_name()),
            fs::read(entry.path()).unwrap(),
        )
        .unwrap();
    }
    (dir, copy)
}

fn replace(path: &Path, from: &str, to: &str) {
    let bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from} is not in {path:?}"));
    let mut changed = bytes[..at].to_vec();
    changed.extend(to.as_bytes());
    changed.extend(&bytes[at + from.len()..]);
    fs::write(path, changed).unwrap();
}

#[test]
fn damage_is_named_with_file_and_tensor() {
    const FIRST: &str = "model-00001-of-00004.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let check = |damage: &dyn Fn(&Path), words: &[&str]| {
        let (_dir, copy) = damaged("olmoe");
        damage(&copy);
        let text = error(&copy, request(uniform(hyperplane()), 12));
        for word in words {
            assert!(text.contains(word), "{text} should contain {word}");
        }
    };
    check(
        &|dir| {
            let bytes = fs::read(dir.join(FIRST)).unwrap();
            fs::write(dir.join(FIRST), &bytes[..bytes.len() - 100]).unwrap();
        },
        &[FIRST, "cut off"],
    );
    check(
        &|dir| fs::write(dir.join(FIRST), b"abc").unwrap(),
        &[FIRST, "cut off"],
    );
    check(
        &|dir| fs::remove_file(dir.join(FIRST)).unwrap(),
        &[FIRST, "missing"],
    );
    let config = |from: &'static str, to: &'static str| {
        move |dir: &Path| replace(&dir.join("config.json"), from, to)
    };
    let layers = config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    check(&layers, &["no tensor of layer 2"]);
    let width = config("\"hidden_size\": 32", "\"hidden_size\": 64");
    check(&width, &["gate.weight", "hidden_size"]);
    check(
        &|dir| replace(&dir.join(FIRST), "\"dtype\":\"F32\"", "\"dtype\":\"F99\""),
        &[FIRST, "tensor `", "unknown dtype \"F99\""],
    );
    check(
        &|dir| replace(&dir.join(FIRST), "\"shape\":[96,32]", "\"shape\":[95,32]"),
        &[FIRST, "lm_head.weight", "cannot have data"],
    );
    check(
        &|dir| replace(&dir.join(INDEX), "{", "["),
        &[INDEX, "not an index"],
    );
    check(
        &|dir| {
            replace(
                &dir.join(INDEX),
                "\"lm_head.weight\": \"model-00001",
                "\"lm_head.weight\": \"model-00002",
            )
        },
        &[
            "model-00002-of-00004.safetensors",
            "lm_head.weight",
            "is missing",
        ],
    );
    check(
        &|dir| {
            replace(
                &dir.join(INDEX),
                "\"lm_head.weight\": \"model",
                "\"lm_head.weight\": \"../model",
            )
        },
        &[
            INDEX,
            "lm_head.weight",
            "no safetensors file of this folder",
        ],
    );
    check(
        &|dir| {
            for file in [FIRST, INDEX] {
                replace(
                    &dir.join(file),
                    "layers.0.mlp.experts.3.down_proj.w",
                    "layers.0.mlp.experts.3.down_prox.w",
                );
            }
        },
        &[
            INDEX,
            "model.layers.0.mlp.experts.3.down_proj.weight",
            "is missing",
        ],
    );
    check(
        &|dir| {
            replace(
                &dir.join("config.json"),
                "\"num_experts\": 6",
                "\"num_experts\": 5",
            )
        },
        &["experts.5.", "beyond"],
    );
    check(
        &|dir| {
            replace(
                &dir.join("config.json"),
                "\"num_experts\": 6",
                "\"num_experts\": 7",
            )
        },
        &["experts.6.", "is missing"],
    );
    check(
        &|dir| replace(&dir.join("config.json"), "olmoe", "olmoo"),
        &["olmoo", "mixtral", "gpt_oss"],
    );
    check(
        &|dir| replace(&dir.join("config.json"), "\"num_experts\"", "\"n_experts\""),
        &["config.json", "num_experts"],
    );
}

#[test]
fn requests_that_cannot_be_met_are_explained() {
    let say = |recipe, target| error(&fixture("olmoe"), request(recipe, target));
    assert!(say(uniform(hyperplane()), 6).contains("must be above the model's 6"));
    let boost = upcycle_operator::BoostRecipe {
        experts: 2.0,
        router: 1.0,
        steps: 5,
    };
    let boosted = Recipe {
        boost: Some(boost),
        ..uniform(hyperplane())
    };
    assert!(say(boosted, 12).contains("leave `boost` out"));
    let bias = say(
        uniform(RouterExtension::BiasNoise {
            half_width: 0.1,
            shift: 0.0,
        }),
        12,
    );
    assert!(
        bias.contains("OLMoE family has none") && bias.contains("hyperplane"),
        "{bias}"
    );
    let greedy = |score| {
        recipe(
            Selection::Greedy {
                score,
                on: Default::default(),
                cap: 3,
            },
            hyperplane(),
        )
    };
    let gradients = say(greedy(upcycle_operator::Score::GradientSquared), 12);
    assert!(
        gradients.contains("gradients of all experts") && gradients.contains("scores"),
        "{gradients}"
    );

    let mut given = request(greedy(upcycle_operator::Score::Load), 12);
    let mut with = |layers: Vec<Vec<f64>>| {
        given.scores = Some(GivenScores {
            score: upcycle_operator::Score::Load,
            layers,
        });
        error(&fixture("olmoe"), given.clone())
    };
    let nan = with(vec![vec![1.0; 6], vec![1.0, f64::NAN, 1.0, 1.0, 1.0, 1.0]]);
    assert!(nan.contains("expert 1 in MoE layer 1 is NaN"), "{nan}");
    assert!(with(vec![vec![1.0; 6]]).contains("1 layers, the model has 2"));
    assert!(with(vec![vec![1.0; 5]; 2]).contains("found 5, the model has 6"));

    let dir = tempdir().unwrap();
    fs::write(dir.path().join("something"), "").unwrap();
    let there = grow(
        &fixture("olmoe"),
        dir.path(),
        request(uniform(hyperplane()), 12),
    )
    .unwrap_err()
    .to_string();
    assert!(there.contains("exists already"), "{there}");
}

#[test]
fn a_second_growth_parts_twins_along_other_directions() {
    let dir = tempdir().unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    grow(&fixture("olmoe"), &once, request(uniform(hyperplane()), 12)).unwrap();
    grow(&once, &twice, request(uniform(hyperplane()), 24)).unwrap();
    let found = HfCheckpoint::open(&twice, None).unwrap().inspect().unwrap();
    for (_, router) in found.routers {
        assert!(router.largest_cosine < 0.999, "{}", router.largest_cosine);
    }
    let record = fs::read_to_string(twice.join("upcycle.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["experts"], serde_json::json!([12, 24]));
    assert_eq!(record["before"]["experts"], serde_json::json!([6, 12]));
    assert_eq!(
        record["layers"][1]["source_of"].as_array().unwrap().len(),
        24
    );
}

#[test]
fn values_that_a_type_cannot_hold_are_refused() {
    let (_dir, from) = generate(&Synthetic {
        storage: 0,
        weights: Weights::F16,
        ..generated().swap_remove(0)
    });
    let strong = RouterExtension::Hyperplane { strength: 1e6 };
    let error = error(&from, request(uniform(strong), 8));
    assert!(
        error.contains("mlp.gate.weight") && error.contains("F16"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_left_out() {
    let (dir, from) = damaged("olmoe");
    std::os::unix::fs::symlink(".", from.join("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", from.join("dangling")).unwrap();
    let to = dir.path().join("to/.");
    let (written, _) = grow(&from, &to, request(uniform(hyperplane()), 12)).unwrap();
    assert_eq!(
        written.left_out,
        ["dangling", "expected.safetensors", "loop"]
    );
    assert!(to.join("config.json").is_file());
}

#[test]
fn the_source_and_what_exists_are_left_alone() {
    let (_dir, from) = damaged("olmoe");
    let run = |to: &Path| {
        let grown = grow(&from, to, request(uniform(hyperplane()), 12));
        grown.unwrap_err().to_string()
    };
    assert!(run(&from.join("big")).contains("lies in the checkpoint"));
    assert!(run(&from.join("a/b")).contains("lies in the checkpoint"));
    let empty = tempdir().unwrap();
    assert!(run(empty.path()).contains("exists already"));
    assert!(run(&empty.path().join("..")).contains("not the name of a new folder"));
    assert_eq!(fs::read_dir(&from).unwrap().count(), 8);
}

#[test]
fn weights_in_other_formats_are_left_out_with_their_folders() {
    let (dir, from) = damaged("olmoe");
    fs::create_dir_all(from.join("original")).unwrap();
    fs::create_dir_all(from.join("templates")).unwrap();
    for name in [
        "original/model.pth",
        "original/config.json",
        "templates/chat.jinja",
        "model.gguf",
        ".hidden",
    ] {
        fs::write(from.join(name), name).unwrap();
    }
    let to = dir.path().join("to");
    let (written, _) = grow(&from, &to, request(uniform(hyperplane()), 12)).unwrap();
    let left = [
        "expected.safetensors",
        "model.gguf",
        "original/config.json",
        "original/model.pth",
    ];
    assert_eq!(written.left_out, left);
    assert_eq!(
        fs::read_to_string(to.join("templates/chat.jinja")).unwrap(),
        "templates/chat.jinja"
    );
    assert!(!to.join("original").exists() && !to.join(".hidden").exists());
}

#[test]
fn parameters_of_quantised_weights_are_counted() {
    let expected = |checkpoint: &Synthetic, experts: usize| {
        let Synthetic { d, f, layers, .. } = *checkpoint;
        let expert = 3 * d * f
            + if checkpoint.weights == Weights::Mxfp4 {
                2 * f + d
            } else {
                0
            };
        let router = experts * (d + 1) + d;
        (64 * d + layers * (experts * expert + router)) as u64
    };
    let quantised =
        |checkpoint: &Synthetic| matches!(checkpoint.weights, Weights::Fp8 | Weights::Mxfp4);
    for checkpoint in generated().into_iter().filter(quantised) {
        let (dir, from) = generate(&checkpoint);
        let found = HfCheckpoint::open(&from, None).unwrap().inspect().unwrap();
        assert_eq!(
            found.total_parameters,
            expected(&checkpoint, 4),
            "{}",
            checkpoint.model_type
        );
        let to = dir.path().join("to");
        let (written, _) = grow(&from, &to, request(uniform(hyperplane()), 8)).unwrap();
        assert_eq!(
            written.parameters,
            expected(&checkpoint, 8),
            "{}",
            checkpoint.model_type
        );
    }
}

#[test]
fn weight_norms_are_told_from_the_weights() {
    let checkpoint = HfCheckpoint::open(&fixture("mixtral"), None).unwrap();
    let selection = Selection::Greedy {
        score: upcycle_operator::Score::WeightNorm,
        on: Default::default(),
        cap: 1,
    };
    let growth = Growth::new(&checkpoint, request(recipe(selection, hyperplane()), 9)).unwrap();
    let norm = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    for layer in 0..2 {
        let [gate, up, down] = mixtral_experts(&fixture("mixtral"), layer, 6);
        let size = gate.len() / 6;
        let of = |e: usize| {
            let fc1 = norm(&gate[e * size..][..size]) + norm(&up[e * size..][..size]);
            (fc1.sqrt() + norm(&down[e * size..][..size]).sqrt()) / 2.0
        };
        for (expert, score) in growth.choice.scores[layer].iter().enumerate() {
            assert!((score - of(expert)).abs() < 1e-9 * score);
        }
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|&a, &b| of(b).total_cmp(&of(a)));
        let mut copied = growth.choice.plan.layers[layer].source_of()[6..].to_vec();
        copied.sort();
        order.truncate(3);
        order.sort();
        assert_eq!(copied, order);
    }
}

#[test]
fn the_forecast_knows_what_is_exact() {
    let forecast = |name: &str, router, target, top_k| {
        let checkpoint = HfCheckpoint::open(&fixture(name), None).unwrap();
        let mut request = request(uniform(router), target);
        request.top_k = top_k;
        Growth::new(&checkpoint, request)
            .unwrap()
            .forecast()
            .unwrap()
            .unwrap()
    };
    let copy = RouterExtension::Copy {};
    assert!(forecast("mixtral", copy.clone(), 12, Some(4)).gate_change < 1e-6);
    assert!(forecast("olmoe", copy.clone(), 12, Some(6)).gate_change < 1e-6);
    assert!(
        forecast(
            "deepseek_v3",
            RouterExtension::Dormant { bias: 20.0 },
            12,
            None
        )
        .gate_change
            < 1e-6
    );
    // Twins are both chosen, so sources are lost.
    assert!(forecast("mixtral", copy, 12, None).changed_sources > 0.5);
    let weak = forecast(
        "mixtral",
        RouterExtension::Hyperplane { strength: 1.0 },
        12,
        None,
    );
    let strong = forecast(
        "mixtral",
        RouterExtension::Hyperplane { strength: 100.0 },
        12,
        None,
    );
    assert!(strong.gate_change < 0.02 && strong.gate_change < weak.gate_change / 4.0);
}

/// The rule of all families, in every way in which each stores experts: what was as long as there were experts is as long as
/// there are now, and nothing else has changed.
#[test]
fn every_family_grows_along_every_axis_of_experts() {
    let (e, target) = (6, 12);
    let mut families = 0;
    for (name, layout) in Layout::named() {
        if layout.refused.is_some() {
            continue;
        }
        families += 1;
        for storage in 0..layout.storages() {
            let (_dir, from) = generate(&Synthetic {
                model_type: layout.model_types[0].clone(),
                layers: 2,
                experts: e,
                top_k: 2,
                groups: 1,
                d: 32,
                f: 20,
                storage,
                weights: Weights::Bf16,
                shard_bytes: 30_000,
            });
            let to = from.with_extension("to");
            let grown = grow(&from, &to, request(uniform(hyperplane()), target));
            let (_, sources) = grown.unwrap_or_else(|error| panic!("{name} {storage}: {error}"));
            assert_eq!(sources.len(), 2, "{name} {storage}");
            let (before, after) = (tensors(&from), tensors(&to));
            for (tensor, (_, shape, _)) in &before {
                let grown = &after[tensor].1;
                for (axis, (&old, &new)) in shape.iter().zip(grown).enumerate() {
                    let expected = match old {
                        6 => target,
                        // A row more than experts, and experts one after the other.
                        7 => target + 1,
                        120 | 240 if axis == 0 => 2 * old,
                        _ => old,
                    };
                    assert_eq!(new, expected, "{name} {storage}: {tensor} {shape:?}");
                }
            }
            let separate = |name: &str| name.contains("experts.11.");
            let stacked = before
                .values()
                .any(|(_, shape, _)| shape.len() == 3 || shape[0] == 120);
            assert!(
                stacked || after.keys().any(|name| separate(name)),
                "{name} {storage}"
            );
        }
    }
    assert!(families > 30, "{families}");
}
