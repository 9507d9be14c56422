//! What training takes of memory, beside what plans say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{Mutex, PoisonError},
};

use burn::backend::Autodiff;
use burn_flex::{Flex, FlexDevice};
use peak_alloc::PeakAlloc;
use serde_json::json;
use upcycle_data::{DataConfig, Dataset, Split};
use upcycle_lab::{Devices, MemoryLimit, peak_memory, presets, step_memory};
use upcycle_lm::{LmConfig, Processor};
use upcycle_train::{BatchConfig, Learner, LearnerConfig, PassConfig};

/// One test at a time, since all share the counters.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

fn model(changes: serde_json::Value) -> LmConfig {
    let mut json = json!({
        "vocab": 2048, "context": 512, "d_model": 128, "layers": 4, "heads": 4, "kv_heads": 2, "d_ffn": 384,
        "experts": 8, "top_k": 2, "d_expert": 192,
    });
    let fields = json.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    serde_json::from_value(json).unwrap()
}

fn batch(rows: usize, context: usize) -> BatchConfig {
    BatchConfig {
        rows,
        context,
        accumulation: 1,
    }
}

fn passes(micro_batches: usize, recompute: bool) -> PassConfig {
    PassConfig {
        micro_batches: NonZeroUsize::new(micro_batches).unwrap(),
        recompute,
    }
}

fn learner(model: &LmConfig, passes: PassConfig) -> Learner<Autodiff<Flex>> {
    let config = LearnerConfig {
        passes,
        ..LearnerConfig::default()
    };
    let model = model.init(0, &FlexDevice).unwrap();
    Learner::new(model, config, &FlexDevice)
}

/// Most bytes that two steps take.
fn measured(model: &LmConfig, batch: &BatchConfig, passes: PassConfig) -> usize {
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let mut learner = learner(model, passes);
    for step in 0..2 {
        let batch = data.batch(Split::Pretrain, 0, step, batch.rows, batch.context);
        learner.accumulate(&batch.unwrap());
        learner.update(1e-3).unwrap();
    }
    ALLOCATOR.peak_usage() - before
}

/// A term in tokens times vocabulary would be 6.6 GB at the longer length, one in scores 0.5 GB a layer.
#[test]
#[ignore = "takes 4 GB of memory and some minutes"]
fn the_154m_scale_takes_memory_linear_in_its_sequence() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let model = presets::scale("154M").unwrap().model;
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let [short, long] = [4096, 8192].map(|context| {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let mut learner = learner(&model, PassConfig::default());
        let tokens = data.batch(Split::Pretrain, 0, 0, 1, context).unwrap();
        learner.accumulate(&tokens);
        let measured = (ALLOCATOR.peak_usage() - before) as f64;
        let passes = PassConfig::default();
        let plan = step_memory(
            &model,
            &batch(1, context),
            Processor::Cpu,
            passes,
            &Devices::ONE,
        );
        let planned = (plan.total() - plan.moments) as f64;
        println!("one sequence of {context}: {measured:.3e} bytes, planned {planned:.3e}");
        // Some of the gradients come after activations are gone.
        assert!(measured < 1.15 * planned, "{measured} {planned}");
        (measured, plan.activations as f64)
    });
    let (growth, planned) = (long.0 - short.0, long.1 - short.1);
    assert!(
        growth < 1.15 * planned,
        "{growth} bytes more, planned {planned}"
    );
}

#[test]
fn plans_are_within_15_percent_of_what_the_allocator_reports() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let many_parameters = model(json!({ "experts": 64, "d_expert": 256 }));
    let mut off = Vec::new();
    for (name, model, batch, passes) in [
        (
            "parameters",
            &many_parameters,
            batch(2, 128),
            passes(1, false),
        ),
        (
            "activations",
            &model(json!({})),
            batch(16, 512),
            passes(1, false),
        ),
        (
            "recomputed",
            &model(json!({ "layers": 8 })),
            batch(16, 512),
            passes(1, true),
        ),
        (
            "micro-batches",
            &model(json!({})),
            batch(16, 512),
            passes(4, false),
        ),
        (
            "dense",
            &model(json!({ "pattern": "all-dense", "d_ffn": 512 })),
            batch(16, 512),
            passes(1, false),
        ),
        ("both", &many_parameters, batch(8, 256), passes(4, true)),
        (
            "accumulated",
            &many_parameters,
            batch(4, 128),
            passes(2, false),
        ),
    ] {
        let measured = measured(model, &batch, passes) as f64;
        let planned = step_memory(model, &batch, Processor::Cpu, passes, &Devices::ONE);
        let ratio = planned.total() as f64 / measured;
        println!("{name}: {measured:.3e} bytes, planned {ratio:.2} of them {planned:?}");
        if (ratio - 1.0).abs() > 0.15 {
            off.push(format!("{name}: {ratio:.2}"));
        }
    }
    assert!(off.is_empty(), "{off:?}");
}

#[test]
fn a_limit_cuts_batches_into_the_fewest_parts_that_fit() {
    let (model, batch) = (model(json!({})), batch(16, 512));
    let limit = |bytes| MemoryLimit {
        bytes: Some(bytes),
        ..MemoryLimit::NONE
    };
    let chosen = |limit: MemoryLimit| limit.passes(&model, &batch, Processor::Cpu);
    assert_eq!(chosen(MemoryLimit::NONE), PassConfig::default());
    assert_eq!(chosen(limit(u64::MAX)), PassConfig::default());
    for count in [2, 3, 8, 16] {
        let process = 160 << 20;
        let parts = passes(count, false);
        let needed = process + peak_memory(&model, &batch, Processor::Cpu, parts, &Devices::ONE);
        let found = chosen(limit(needed)).micro_batches.get();
        // Parts of as many sequences need as much.
        assert_eq!(batch.rows.div_ceil(found), batch.rows.div_ceil(count));
        assert!(found <= count);
    }
    // Nothing fits: as little as possible, for the refusal to name.
    assert_eq!(chosen(limit(1)), passes(16, false));
    let two = NonZeroUsize::new(2).unwrap();
    let two = MemoryLimit {
        devices: Devices::new(two, NonZeroUsize::MIN).unwrap(),
        ..limit(1)
    };
    assert_eq!(chosen(two), passes(8, false));
    let recomputed = MemoryLimit {
        recompute: true,
        ..MemoryLimit::NONE
    };
    assert_eq!(chosen(recomputed), passes(1, true));
}
