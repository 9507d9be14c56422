//! Training stages on the CPU backend: golden losses, exact resume, upcycling at tau, damage.

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use serde_json::json;
use upcycle_data::{DataConfig, Dataset, Split, SyntheticConfig};
use upcycle_lm::{Lm, LmConfig, QkNorm};
use upcycle_moe::MoeModel;
use upcycle_operator::{Evidence, Recipe, Upcycle};
use upcycle_train::*;

use crate::common::parameters;

type B = Autodiff<Flex>;

fn model() -> LmConfig {
    let json = serde_json::json!({
        "vocab": 144, "context": 64, "d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1,
        "experts": 4, "top_k": 2, "d_expert": 16,
    });
    serde_json::from_value(json).unwrap()
}

fn spec(end: u64) -> TrainSpec {
    TrainSpec {
        schedule: Schedule {
            peak_lr: 1e-2,
            warmup_from: 0,
            warmup_steps: 5,
            decay_from: Some(20),
            end,
        },
        optimizer: OptimizerConfig::default(),
        batch: BatchConfig {
            rows: 4,
            context: 64,
            accumulation: 2,
        },
        data: DataSchedule {
            cpt_from: Some(15),
            seed: 0,
        },
        balancing: Default::default(),
        precision: Default::default(),
        evaluation: EvaluationConfig {
            every: 10,
            rows: 8,
            test_rows: 0,
        },
    }
}

fn initial() -> Start {
    Start::Initial {
        model: Box::new(model()),
        seed: 0,
    }
}

fn engine() -> BurnEngine<B> {
    BurnEngine::new("cpu", "test".into(), FlexDevice)
}

fn data() -> Dataset {
    Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap()
}

const SELDOM: Duration = Duration::from_secs(3600);

fn train(dir: &Path, spec: &TrainSpec, start: &Start) -> Result<TrainOutcome, TrainError> {
    train_until(dir, spec, start, SELDOM, u64::MAX)
}

/// Trains, and "kills" the stage by a panic after `last` steps.
fn train_until(
    dir: &Path,
    spec: &TrainSpec,
    start: &Start,
    checkpoint_interval: Duration,
    last: u64,
) -> Result<TrainOutcome, TrainError> {
    let data = data();
    let job = TrainJob {
        spec,
        start,
        dir,
        data: &data,
        other_data: false,
        event_file: true,
        passes: PassConfig::default(),
        checkpoint_interval,
        cancelled: &AtomicBool::new(false),
        stop: &AtomicBool::new(false),
    };
    engine().train(&job, &mut |event| {
        if let TrainEvent::Step { step, .. } = event {
            assert!(step < last, "killed");
        }
    })
}

fn step_losses(dir: &Path) -> Vec<f64> {
    let lines = read_metrics(&dir.join("metrics.jsonl")).unwrap();
    lines
        .iter()
        .filter_map(|line| match line {
            MetricsLine::Step { loss, .. } => Some(*loss),
            MetricsLine::Evaluation { .. } => None,
        })
        .collect()
}

/// Losses of 30 seeded steps. After a change that is meant to alter them, print the new ones with
/// `UPDATE_GOLDEN=1 cargo test -p upcycle-train golden`, and say why in the commit.
#[test]
fn golden_losses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_losses.json");
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), &spec(30), &initial()).unwrap();
    let losses = step_losses(dir.path());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&losses).unwrap() + "\n").unwrap();
    }
    let golden: Vec<f64> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(losses.len(), golden.len());
    for (step, (loss, golden)) in losses.iter().zip(&golden).enumerate() {
        assert!(
            (loss - golden).abs() < 1e-4,
            "step {step}: {loss}, golden {golden}"
        );
    }
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    let outcome = train(whole.path(), &spec(30), &initial()).unwrap();

    let cut = tempfile::tempdir().unwrap();
    let interrupted = std::panic::catch_unwind(|| {
        train_until(cut.path(), &spec(30), &initial(), Duration::ZERO, 17)
    });
    assert!(interrupted.is_err());
    assert!(step_losses(cut.path()).len() < 30);
    let resumed = train(cut.path(), &spec(30), &initial()).unwrap();

    assert_eq!(step_losses(whole.path()), step_losses(cut.path()));
    assert_eq!(outcome.evaluation, resumed.evaluation);
    let steps = |dir: &Path| -> Vec<u64> {
        let lines = read_metrics(&dir.join("metrics.jsonl")).unwrap();
        lines.iter().map(MetricsLine::step).collect()
    };
    assert_eq!(steps(whole.path()), steps(cut.path()));
    let event_files = fs::read_dir(cut.path()).unwrap().filter(|entry| {
        let entry = entry.as_ref().unwrap();
        let name = entry.file_name();
        name.to_string_lossy().contains("tfevents") && entry.metadata().unwrap().len() > 0
    });
    assert_eq!(event_files.count(), 1);
}

#[test]
fn evaluations_tell_the_pace_and_the_routing_of_every_layer() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = train(dir.path(), &spec(20), &initial()).unwrap();
    let lines = read_metrics(&dir.path().join("metrics.jsonl")).unwrap();
    let evaluations = lines.iter().filter_map(|line| match line {
        MetricsLine::Evaluation {
            step,
            lr,
            tokens_per_second,
            routing,
            ..
        } => Some((*step, *lr, *tokens_per_second, routing)),
        MetricsLine::Step { .. } => None,
    });
    let evaluations: Vec<_> = evaluations.collect();
    assert_eq!(evaluations.len(), 2);
    for (at, lr, tokens_per_second, routing) in &evaluations {
        assert_eq!(*lr, Some(spec(20).schedule.lr(at - 1)));
        assert!(tokens_per_second.is_some_and(|rate| rate > 0.0));
        assert_eq!(routing.len(), outcome.evaluation.routing.len());
    }
    let (_, _, _, last) = evaluations[1];
    for (layer, stats) in last.iter().zip(&outcome.evaluation.routing) {
        assert_eq!(layer.dead_experts, stats.dead_experts);
        // Numbers are read back with all digits but the last.
        assert!((layer.max_violation - stats.max_violation).abs() < 1e-12);
        assert!((layer.entropy - stats.normalized_entropy).abs() < 1e-12);
    }
}

#[test]
fn a_trunk_that_is_cut_gives_the_same_as_one_that_is_not() {
    let stable = |end| {
        let mut spec = spec(end);
        spec.schedule.decay_from = None;
        spec
    };
    let whole = tempfile::tempdir().unwrap();
    let outcome = train(whole.path(), &stable(20), &initial()).unwrap();

    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(first.path(), &stable(12), &initial()).unwrap();
    let parent = StageCheckpoints::new(first.path()).latest().unwrap();
    let cut = train(second.path(), &stable(20), &Start::Checkpoint(parent)).unwrap();

    let mut losses = step_losses(first.path());
    losses.extend(step_losses(second.path()));
    assert_eq!(losses, step_losses(whole.path()));
    assert_eq!(cut.evaluation, outcome.evaluation);
}

#[test]
fn training_lowers_the_loss_of_every_variant() {
    let variants: [fn(&mut LmConfig, &mut TrainSpec); 4] = [
        |_, _| (),
        |_, spec| (spec.balancing.auxiliary_loss, spec.balancing.z_loss) = (0.01, 1e-3),
        |model, _| {
            (model.score, model.qk_norm) = (upcycle_moe::ScoreFunction::Softmax, QkNorm::AllHeads)
        },
        |_, spec| spec.precision = upcycle_kernels::Precision::Bf16,
    ];
    for (index, change) in variants.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut spec) = (model(), spec(25));
        change(&mut model, &mut spec);
        let start = Start::Initial {
            model: Box::new(model),
            seed: 0,
        };
        train(dir.path(), &spec, &start).unwrap();
        let losses = step_losses(dir.path());
        let (first, last) = (losses[0], losses[24]);
        assert!(last < first - 0.3, "variant {index}: {first} -> {last}");
    }
}

/// A recipe with these sections, growing 4 experts to `target_experts`.
fn upcycle_spec(recipe: serde_json::Value, target_experts: usize) -> UpcycleSpec {
    UpcycleSpec {
        recipe: serde_json::from_value(recipe).unwrap(),
        target_experts,
        seed: 1,
        evidence_batches: 3,
        data_seed: 0,
        batch: spec(1).batch,
        precision: Default::default(),
        evaluation_rows: 16,
    }
}

fn recipe(
    selection: serde_json::Value,
    router: serde_json::Value,
    optimizer: &str,
) -> serde_json::Value {
    json!({
        "name": "test", "selection": selection, "router": router,
        "optimizer": { "kind": optimizer },
    })
}

fn two_level() -> serde_json::Value {
    json!({ "kind": "two-level", "tie_break": "centroids", "strength": 0.3 })
}

/// A checkpoint after 15 steps.
fn parent(dir: &Path) -> PathBuf {
    train(dir, &spec(15), &initial()).unwrap();
    StageCheckpoints::new(dir).latest().unwrap()
}

fn upcycle(spec: &UpcycleSpec, from: &Path, to: &Path) -> UpcycleOutcome {
    let data = data();
    let job = UpcycleJob {
        spec,
        from,
        to: Some(to),
        data: &data,
        stop: &AtomicBool::new(false),
    };
    engine().upcycle(&job).unwrap()
}

#[test]
fn recipes_grow_a_checkpoint_that_trains_on() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent(dir.path());
    let greedy = json!({ "kind": "greedy", "score": "gradient-squared", "cap": 3 });
    for (name, recipe) in [
        (
            "exact",
            recipe(json!({ "kind": "uniform" }), two_level(), "copy"),
        ),
        (
            "paper",
            recipe(greedy, json!({ "kind": "bias-noise" }), "reset"),
        ),
    ] {
        let to = dir.path().join(name);
        let outcome = upcycle(&upcycle_spec(recipe, 8), &parent, &to);
        let jump = outcome.after.loss - outcome.before.loss;
        let verified = &outcome.verification;
        if name == "exact" {
            assert!(jump.abs() < 1e-5, "{jump}");
            assert_eq!(outcome.after.routing[0].distinct_sources, 2.0);
            assert!(verified.largest_logit_difference < 1e-4);
        } else {
            assert!(jump.abs() > 1e-3, "{jump}");
            assert!(outcome.after.routing[0].twin_coselection > 0.1);
            assert!(verified.largest_logit_difference > 1e-2);
        }
        let info = CheckpointInfo::read(&to).unwrap();
        assert_eq!(info.model.experts, 8);
        assert_eq!(info.growths[1].lineage.origins().count(), 4);

        let on = dir.path().join(format!("{name}-on"));
        train(&on, &spec(30), &Start::Checkpoint(to)).unwrap();
        let losses = step_losses(&on);
        assert_eq!(losses.len(), 15);
        assert!(losses.iter().all(|loss| loss.is_finite()));
    }
}

#[test]
fn a_model_grows_twice_by_every_score() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent(dir.path());
    for score in [
        "gradient-squared",
        "saliency",
        "weight-norm",
        "fisher",
        "load",
        "gate-mass",
        "output-norm",
        "random",
    ] {
        let recipe = recipe(
            json!({ "kind": "proportional", "score": score }),
            two_level(),
            "copy",
        );
        let first = dir.path().join(format!("{score}-1"));
        let outcome = upcycle(&upcycle_spec(recipe.clone(), 6), &parent, &first);
        assert_eq!(outcome.scores.len(), 2);
        assert!(outcome.scores[0].iter().all(|score| *score > 0.0));
        let on = dir.path().join(format!("{score}-on"));
        train(&on, &spec(18), &Start::Checkpoint(first)).unwrap();
        let middle = StageCheckpoints::new(&on).latest().unwrap();
        let second = dir.path().join(format!("{score}-2"));
        let outcome = upcycle(&upcycle_spec(recipe, 12), &middle, &second);
        assert!(
            outcome.verification.largest_logit_difference < 1e-4,
            "{score}"
        );
        let info = CheckpointInfo::read(&second).unwrap();
        let lineage = &info.growths[0].lineage;
        assert_eq!((lineage.growths().len(), lineage.experts()), (2, 12));
        assert_eq!(lineage.origins().count(), 4);
    }
}

#[test]
fn loads_of_experts_are_those_of_the_routing_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent(dir.path());
    let scores = |score: &str| {
        let selection = json!({ "kind": "proportional", "score": score });
        let recipe = recipe(selection, json!({ "kind": "copy" }), "reset");
        let to = dir.path().join(score);
        upcycle(&upcycle_spec(recipe, 8), &parent, &to).scores
    };
    let (load, gate_mass, output) = (scores("load"), scores("gate-mass"), scores("output-norm"));
    for layer in 0..2 {
        let sum = |scores: &[Vec<f64>]| scores[layer].iter().sum::<f64>();
        assert!((sum(&load) - 1.0).abs() < 1e-9);
        // Gates of a token sum to 1.
        assert!((sum(&gate_mass) - 1.0).abs() < 1e-4);
        for expert in 0..4 {
            assert!(gate_mass[layer][expert] <= 2.0 * load[layer][expert]);
            assert!(output[layer][expert] > 0.0);
        }
    }
}

#[test]
fn a_release_frees_twins_and_resumes_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent(dir.path());
    let mut router = two_level();
    // 40 % of the 15 steps before: free at step 21.
    router["separation"] = json!(0.5);
    router["release"] = json!({ "shape": "linear", "over": 0.4 });
    let recipe = recipe(json!({ "kind": "uniform" }), router, "copy");
    let to = dir.path().join("grown");
    upcycle(&upcycle_spec(recipe, 8), &parent, &to);
    let start = Start::Checkpoint(to);

    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let outcome = train(&whole, &spec(24), &start).unwrap();
    // The same stage, stopped in the middle of the release.
    let killed = std::panic::catch_unwind(AssertUnwindSafe(|| {
        train_until(&parts, &spec(24), &start, Duration::ZERO, 18)
    }));
    assert!(killed.is_err());
    let info = CheckpointInfo::read(&StageCheckpoints::new(&parts).latest().unwrap()).unwrap();
    assert!(info.growths[0].two_level.is_some());
    let resumed = train(&parts, &spec(24), &start).unwrap();
    assert_eq!(resumed.evaluation, outcome.evaluation);
    assert_eq!(step_losses(&parts), step_losses(&whole));
    let info = CheckpointInfo::read(&StageCheckpoints::new(&parts).latest().unwrap()).unwrap();
    assert!(info.growths[0].two_level.is_none());
    assert!(outcome.evaluation.routing[0].twin_coselection > 0.0);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut wild = spec(30);
    wild.schedule.peak_lr = 1e30;
    wild.schedule.warmup_steps = 0;
    let error = train_until(dir.path(), &wild, &initial(), Duration::ZERO, u64::MAX).unwrap_err();
    assert!(matches!(error, TrainError::Stopped { .. }), "{error}");
    assert!(error.to_string().contains("checkpoint"), "{error}");
}

/// The last step breaks the model, whose loss is only seen by the evaluation at the end.
#[test]
fn an_evaluation_that_is_not_finite_does_not_finish_a_stage() {
    let dir = tempfile::tempdir().unwrap();
    let mut wild = spec(1);
    wild.schedule = Schedule {
        peak_lr: 1e38,
        warmup_from: 0,
        warmup_steps: 0,
        decay_from: None,
        end: 1,
    };
    let error = train(dir.path(), &wild, &initial()).unwrap_err();
    assert!(matches!(error, TrainError::Stopped { .. }), "{error}");
    assert!(error.to_string().contains("validation loss"), "{error}");
}

#[test]
fn other_data_has_to_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::Checkpoint(parent(dir.path()));
    let data = DataConfig::Synthetic(SyntheticConfig {
        seed: 1,
        ..SyntheticConfig::default()
    });
    let data = Dataset::open(&data, Path::new("unused")).unwrap();
    let on = |name: &str, other_data| {
        let job = TrainJob {
            spec: &spec(16),
            start: &start,
            dir: &dir.path().join(name),
            data: &data,
            other_data,
            event_file: false,
            passes: PassConfig::default(),
            checkpoint_interval: SELDOM,
            cancelled: &AtomicBool::new(false),
            stop: &AtomicBool::new(false),
        };
        engine().train(&job, &mut |_| ())
    };
    let error = on("silent", false).unwrap_err();
    assert!(matches!(error, TrainError::OtherData { .. }), "{error}");
    on("asked", true).unwrap();
    // It is that data's model now.
    on("asked", false).unwrap();
}

/// Trains in memory, grows in the middle and trains on.
fn learn(model: Lm<B>, before: u64, operator: &Upcycle, after: u64) -> (Learner<B>, Vec<f64>) {
    let (data, spec) = (data(), spec(after));
    let mut learner = Learner::new(model, spec.learner(), &FlexDevice);
    let mut losses = Vec::new();
    for step in 0..after {
        if step == before {
            let config = MeasureConfig {
                batches: 3,
                data_seed: 0,
                rows: spec.batch.rows,
                context: spec.batch.context,
            };
            let evidence = learner.measure(&operator.recipe, &data, &config).unwrap();
            learner.grow(operator, &evidence).unwrap();
        }
        let passes = spec.batch.accumulation;
        for pass in 0..passes {
            let (split, index) = spec.data.position(step, pass, passes);
            let batch = data.batch(split, 0, index, spec.batch.rows, spec.batch.context);
            learner.accumulate(&batch.unwrap());
        }
        losses.push(learner.update(spec.schedule.lr(step)).unwrap().loss);
    }
    (learner, losses)
}

#[test]
fn growing_in_memory_is_growing_a_checkpoint_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let parent = parent(dir.path());
    for (name, selection, router, optimizer) in [
        ("exact", json!({ "kind": "uniform" }), two_level(), "copy"),
        (
            "by-gradient",
            json!({ "kind": "proportional", "score": "gradient-squared" }),
            json!({ "kind": "hyperplane", "strength": 1.0 }),
            "reset-new",
        ),
    ] {
        let mut recipe = recipe(selection, router, optimizer);
        // It ends in the middle of what follows.
        recipe["boost"] = json!({ "experts": 2.0, "steps": 4 });
        let spec_of_growth = upcycle_spec(recipe, 8);
        let to = dir.path().join(name);
        upcycle(&spec_of_growth, &parent, &to);
        let on = dir.path().join(format!("{name}-on"));
        let outcome = train(&on, &spec(24), &Start::Checkpoint(to)).unwrap();

        let operator = Upcycle::new(spec_of_growth.recipe, 8).with_seed(spec_of_growth.seed);
        let (learner, losses) = learn(model().init(0, &FlexDevice).unwrap(), 15, &operator, 24);
        assert_eq!(losses[15..], step_losses(&on));
        let evaluation = learner.evaluate(&data(), Split::Validation, 64, 8).unwrap();
        assert_eq!(evaluation, outcome.evaluation);

        // What is written is what is in memory.
        let written =
            Checkpoint::<B>::load(&StageCheckpoints::new(&on).latest().unwrap(), &FlexDevice);
        let (written, learner) = (written.unwrap(), learner.checkpoint());
        assert_eq!(parameters(&written.model), parameters(&learner.model));
        assert_eq!(written.model.growth_states(), learner.model.growth_states());
        assert_eq!(
            (written.step, written.tokens),
            (learner.step, learner.tokens)
        );
    }
}

#[test]
fn a_boost_moves_the_experts_alone_and_ends() {
    let grown = |boost: serde_json::Value| {
        let router = json!({ "kind": "bias-noise" });
        let mut recipe = recipe(json!({ "kind": "uniform" }), router, "copy");
        recipe["boost"] = boost;
        let recipe: Recipe = serde_json::from_value(recipe).unwrap();
        let (learner, _) = learn(
            model().init(0, &FlexDevice).unwrap(),
            15,
            &Upcycle::new(recipe, 8),
            16,
        );
        learner.model().clone()
    };
    let [usual, twice, thrice] = [
        json!(null),
        json!({ "experts": 2.0, "steps": 5 }),
        json!({ "experts": 3.0, "steps": 1 }),
    ]
    .map(grown);
    assert!(usual.boosted().is_empty() && thrice.boosted().is_empty());
    assert_eq!(twice.boosted().len(), 2 * 4);
    let experts = |model: &Lm<B>| {
        let layer = model.moe_layers().next().unwrap();
        let values = layer.experts.down_efd.val().into_data();
        values.iter::<f32>().collect::<Vec<_>>()
    };
    let [a, b, c] = [&usual, &twice, &thrice].map(experts);
    let mut moved = 0.0_f32;
    for ((a, b), c) in a.iter().zip(&b).zip(&c) {
        assert!(((c - a) - 2.0 * (b - a)).abs() < 1e-6, "{a} {b} {c}");
        moved = moved.max((b - a).abs());
    }
    assert!(moved > 1e-4, "{moved}");
    let router = |model: &Lm<B>| {
        let layer = model.moe_layers().next().unwrap();
        layer.router.weight_ed.val().into_data()
    };
    assert_eq!(router(&usual), router(&twice));
}

#[test]
fn a_step_ends_before_the_model_grows() {
    let (data, spec) = (data(), spec(1));
    let model: Lm<B> = model().init(0, &FlexDevice).unwrap();
    let mut learner = Learner::new(model, LearnerConfig::default(), &FlexDevice);
    let recipe = serde_json::from_value(recipe(
        json!({ "kind": "uniform" }),
        json!({ "kind": "two-level", "tie_break": "random", "strength": 0.3 }),
        "copy",
    ));
    let operator = Upcycle::new(recipe.unwrap(), 16);
    let batch = data.batch(Split::Pretrain, 0, 0, spec.batch.rows, spec.batch.context);
    learner.accumulate(&batch.unwrap());
    let refused = learner.grow(&operator, &Evidence::default()).unwrap_err();
    assert!(matches!(refused, TrainError::GrownInAStep { step: 0 }));
    learner.update(1e-3).unwrap();
    learner.grow(&operator, &Evidence::default()).unwrap();
    assert_eq!(learner.model().config().experts, 16);
}

#[test]
fn an_update_needs_a_batch() {
    let model: Lm<B> = model().init(0, &FlexDevice).unwrap();
    let mut learner = Learner::new(model, LearnerConfig::default(), &FlexDevice);
    let error = learner.update(1e-3).unwrap_err();
    assert!(matches!(error, TrainError::NothingAccumulated { step: 0 }));
    assert_eq!(learner.step(), 0);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), &spec(5), &initial()).unwrap();
    let checkpoint = StageCheckpoints::new(dir.path()).latest().unwrap();
    let start = Start::Checkpoint(checkpoint.clone());
    let other = tempfile::tempdir().unwrap();
    let message = |damage: &dyn Fn(&Path)| {
        let file = checkpoint.join("model.safetensors");
        let (model, info) = (
            fs::read(&file).unwrap(),
            fs::read(checkpoint.join("checkpoint.json")).unwrap(),
        );
        damage(&checkpoint);
        let error = train(other.path(), &spec(30), &start)
            .unwrap_err()
            .to_string();
        fs::write(&file, model).unwrap();
        fs::write(checkpoint.join("checkpoint.json"), info).unwrap();
        error
    };
    let cut = message(&|dir| {
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        fs::write(dir.join("model.safetensors"), &bytes[..100]).unwrap();
    });
    assert!(cut.contains("model.safetensors has 100 bytes"), "{cut}");
    let flipped = message(&|dir| {
        let mut bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(dir.join("model.safetensors"), bytes).unwrap();
    });
    assert!(flipped.contains("checksum"), "{flipped}");
    let missing = message(&|dir| fs::remove_file(dir.join("checkpoint.json")).unwrap());
    assert!(missing.contains("no checkpoint.json"), "{missing}");
    let damaged = message(&|dir| fs::write(dir.join("checkpoint.json"), "{").unwrap());
    assert!(damaged.contains("damaged"), "{damaged}");
}
