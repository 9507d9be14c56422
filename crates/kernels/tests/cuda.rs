//! Launches every kernel on CUDA, in all the variants that presets reach. `scripts/cuda_check` runs it on a driver without
//! a GPU, to have the kernels compiled; what they compute is compared with the reference elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor},
};
use burn_cuda::CudaDevice;
use upcycle_kernels::{
    ExpertWeights, MoeBackend, Precision, RotaryAngles, SoftTargets, TensorCores, adamw::Update,
};

type Cuda = burn_cuda::Cuda;
type B = Autodiff<Cuda>;

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::zeros(shape, &CudaDevice::default()).require_grad()
}

/// Experts of `[experts, model, hidden]` on `tokens` tokens, two experts each, forward and backward.
fn experts(tokens: usize, [e, d, f]: [usize; 3], precision: Precision) {
    let device = CudaDevice::default();
    let weights = ExpertWeights {
        gate_edf: zeros([e, d, f]),
        up_edf: zeros([e, d, f]),
        down_efd: zeros([e, f, d]),
    };
    let experts_tk = Tensor::<B, 2, Int>::zeros([tokens, 2], &device);
    let y_td = B::expert_ffn(
        zeros([tokens, d]),
        weights,
        experts_tk,
        zeros([tokens, 2]),
        precision,
    );
    y_td.sum().backward();
}

#[test]
#[ignore = "needs CUDA's compiler and a driver, be it the one of scripts/cuda_check"]
fn every_kernel_is_launched() {
    let device = CudaDevice::default();
    for (precision, core) in [
        (Precision::F32, TensorCores::Burn),
        (Precision::Bf16, TensorCores::Units),
        (Precision::Bf16, TensorCores::Own),
    ] {
        core.choose();
        // By the rows of an expert and the width of its matrices, all sizes of tiles.
        experts(24, [8, 64, 48], precision);
        experts(128, [8, 64, 48], precision);
        experts(512, [8, 64, 48], precision);
        experts(1024, [4, 256, 256], precision);
    }
    // Lines that are not loaded eight elements at a time.
    experts(512, [8, 60, 42], Precision::Bf16);
    experts(512, [8, 63, 41], Precision::Bf16);
    // It computes nothing here, so all is right.
    let proof = Cuda::prove(&device).unwrap();
    assert!(proof.is_right(), "{proof:?}");

    for precision in [Precision::F32, Precision::Bf16] {
        let targets = SoftTargets {
            ids_tj: Tensor::zeros([32, 1], &device),
            weights_tj: zeros([32, 1]).detach(),
        };
        let loss_t = B::linear_cross_entropy(zeros([32, 64]), zeros([500, 64]), targets, precision);
        loss_t.sum().backward();
        let heads = |count| zeros([2, 16, count, 16]);
        let y_bshc = B::causal_attention(heads(4), heads(2), heads(2), precision);
        y_bshc.sum().backward();
    }

    let table_vd = zeros([100, 64]);
    let ids_t = Tensor::<B, 1, Int>::zeros([32], &device);
    B::embed(table_vd, ids_t).sum().backward();

    B::rms_norm(zeros([32, 64]), zeros([64]), 1e-6)
        .sum()
        .backward();

    let angles = RotaryAngles {
        cos_sc: zeros([16, 8]).detach(),
        sin_sc: zeros([16, 8]).detach(),
    };
    B::rotary(zeros([2, 16, 4, 16]), angles).sum().backward();

    let scores_te = Tensor::<Cuda, 2>::zeros([32, 8], &device);
    Cuda::top_k(scores_te.clone(), 8);
    Cuda::top_k(scores_te, 2);

    let like = || Tensor::<Cuda, 2>::zeros([8, 16], &device);
    let update = Update {
        lr: 1e-3,
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        correction_1: 0.1,
        correction_2: 0.05,
        gradient_scale: 1.0,
    };
    Cuda::adamw(like(), like(), (like(), like()), update);
    // Until here everything may only have been asked for.
    like().into_data();
}
