//! What a training step takes of a GPU's memory by CubeCL's own account, beside what plans say.

use std::path::Path;

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData},
};
use burn_wgpu::Wgpu;
use upcycle_data::{DataConfig, Dataset, Split};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets};
use upcycle_lab::{Devices, processor, step_memory};
use upcycle_lm::LmConfig;
use upcycle_train::{BatchConfig, Learner, LearnerConfig, PassConfig};

type B = Autodiff<Wgpu>;

#[test]
fn wgpu_memory_is_as_planned() {
    let model: LmConfig = serde_json::from_value(serde_json::json!({
        "vocab": 512, "context": 128, "d_model": 64, "layers": 2, "heads": 2, "kv_heads": 2, "d_ffn": 128,
        "experts": 32, "top_k": 2, "d_expert": 64,
    }))
    .unwrap();
    let batch = BatchConfig {
        rows: 4,
        context: 128,
        accumulation: 1,
    };
    let passes = PassConfig::default();
    let plan = step_memory(
        &model,
        &batch,
        processor("wgpu", Precision::F32),
        passes,
        &Devices::ONE,
    );
    // Of its own, so that nothing of other tests counts.
    let device = crate::least::device();
    let taken = || B::memory(&device).unwrap().in_use as f64;
    let assert_near = |what: &str, found: f64, planned: u64| {
        let off = found / planned as f64 - 1.0;
        println!(
            "{what}: {found:.3e} bytes, planned {planned:.3e}, off by {:+.0} %",
            100.0 * off
        );
        assert!(off.abs() < 0.15, "{what}: {found} bytes, planned {planned}");
    };
    let start = taken();
    let mut learner = Learner::<B>::new(
        model.init(0, &device).unwrap(),
        LearnerConfig::default(),
        &device,
    );
    let weights = taken() - start;
    assert_near("weights", weights, plan.weights);

    let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
    let tokens = data
        .batch(Split::Pretrain, 0, 0, batch.rows, batch.context)
        .unwrap();
    let ints = |values: &[u32], shape: [usize; 2]| {
        let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
        Tensor::<B, 2, Int>::from_data(TensorData::new(values, shape), &device)
    };
    let scored = [batch.rows * batch.context, tokens.choices];
    let inputs = ints(&tokens.inputs, [batch.rows, batch.context]);
    let targets = SoftTargets {
        ids_tj: ints(&tokens.targets, scored),
        weights_tj: Tensor::from_data(TensorData::new(tokens.weights.clone(), scored), &device),
    };
    let before = taken();
    let output = learner.model().forward(inputs, targets, Default::default());
    assert_near("activations", taken() - before, plan.activations);
    drop(output);

    // From here on by what there is beside the weights: autodiff frees what was dropped when it computes again.
    let beside = || taken() - start - weights;
    learner.accumulate(&tokens);
    assert_near("gradients", beside(), plan.gradients);
    learner.update(1e-3).unwrap();
    assert_near("moments", beside(), plan.moments);
}
