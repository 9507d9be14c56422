//! What a training step launches on CUDA and reads back, counted by the driver without a GPU of `scripts/cuda_check`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{env, fs, path::Path};

use burn::backend::Autodiff;
use burn_cuda::CudaDevice;
use upcycle_data::{DataConfig, Dataset, Split};
use upcycle_kernels::{Precision, TensorCores};
use upcycle_lm::LmConfig;
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
    let model: LmConfig = serde_json::from_value(serde_json::json!({
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
