//! What a training step launches on CUDA and reads back, and what memory it takes, counted by the driver without a GPU of
//! `scripts/cuda_check`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{env, fs, path::Path};

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor},
};
use burn_cuda::CudaDevice;
use serde_json::json;
use upcycle_data::{DataConfig, Dataset, Split};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets, TensorCores};
use upcycle_lm::{CostModel, LmConfig, Processor};
use upcycle_train::*;

type Cuda = burn_cuda::Cuda;

/// Launches and copies to the host until now.
fn counts() -> [usize; 2] {
    let dir = env::var_os("CUDA_CHECK_DIR").expect("it runs on the driver of scripts/cuda_check");
    let log = fs::read_to_string(Path::new(&dir).join("log.tsv")).unwrap();
    ["launch", "read"].map(|kind| log.lines().filter(|line| line.starts_with(kind)).count())
}

#[test]
#[ignore = "needs CUDA's compiler and the driver of scripts/cuda_check"]
fn a_step_reads_its_loss_and_norm_alone() {
    let model: LmConfig = serde_json::from_value(json!({
        "vocab": 144, "context": 64, "d_model": 64, "layers": 2, "heads": 4, "kv_heads": 2, "d_ffn": 96,
        "experts": 8, "top_k": 2, "d_expert": 48,
    }))
    .unwrap();
    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    TensorCores::Own.choose();
    for (precision, micro_batches) in [
        (Precision::F32, 1),
        (Precision::F32, 4),
        (Precision::Bf16, 1),
    ] {
        let device = CudaDevice::default();
        let config = LearnerConfig {
            precision,
            passes: PassConfig {
                micro_batches: micro_batches.try_into().unwrap(),
                recompute: false,
            },
            ..LearnerConfig::default()
        };
        let model = model.init::<Autodiff<Cuda>>(0, &device).unwrap();
        let mut learner = Learner::new(model, config, &device);
        let mut step = |index| {
            let batch = data.batch(Split::Pretrain, 0, index, 4, 64).unwrap();
            learner.accumulate(&batch);
            learner.update(1e-3).unwrap();
        };
        step(0);
        let before = counts();
        step(1);
        let after = counts();
        let [launches, reads] = [0, 1].map(|kind| after[kind] - before[kind]);
        println!(
            "step: 2 layers, {precision:?}, {micro_batches} micro-batches: {launches} launches, {reads} reads"
        );
        assert_eq!(reads, 1, "{precision:?}");
    }
}

/// Bytes that a forward pass keeps for its backward pass.
fn kept(model: &LmConfig, precision: Precision, [rows, context]: [usize; 2]) -> u64 {
    let device = CudaDevice::default();
    let taken = || Cuda::memory(&device).unwrap().in_use;
    let model = model.init::<Autodiff<Cuda>>(0, &device).unwrap();
    let before = taken();
    let tokens = Tensor::<Autodiff<Cuda>, 2, Int>::zeros([rows, context], &device);
    let targets = SoftTargets {
        ids_tj: Tensor::zeros([rows * context, 1], &device),
        weights_tj: Tensor::ones([rows * context, 1], &device),
    };
    let output = model.forward(tokens, targets, precision);
    let kept = taken() - before;
    drop(output);
    kept
}

#[test]
#[ignore = "needs CUDA's compiler and the driver of scripts/cuda_check"]
fn activations_take_the_memory_that_is_planned() {
    TensorCores::Own.choose();
    let mut off = Vec::new();
    for change in [
        json!({}),
        json!({ "layers": 8 }),
        json!({ "pattern": "interleaved" }),
        json!({ "pattern": "all-dense" }),
        json!({ "d_expert": 512 }),
        json!({ "experts": 128 }),
        json!({ "top_k": 4 }),
        json!({ "kv_heads": 1 }),
        json!({ "qk_norm": "head" }),
        json!({ "d_shared": 256 }),
        json!({ "experts": 1, "top_k": 1 }),
        json!({ "vocab": 8192 }),
    ] {
        let mut model = json!({
            "vocab": 256, "context": 128, "d_model": 128, "layers": 4, "heads": 4, "kv_heads": 4, "d_ffn": 512,
            "experts": 16, "top_k": 2, "d_expert": 128,
        });
        for (key, value) in change.as_object().unwrap() {
            model[key] = value.clone();
        }
        let model: LmConfig = serde_json::from_value(model).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let [rows, context] = [4, 128];
            let processor = Processor::Gpu {
                precision,
                block: 1 << 24,
            };
            let cost = CostModel::new(&model);
            let planned = cost
                .memory(rows * context, context, processor, false)
                .activations
                + cost.copies(processor, false, 1);
            let share = planned as f64 / kept(&model, precision, [rows, context]) as f64;
            if (share - 1.0).abs() > 0.05 {
                off.push(format!("{change}, {precision:?}: planned {share:.2} of it"));
            }
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}
