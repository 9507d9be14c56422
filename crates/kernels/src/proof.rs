//! Kernels on tensor cores, which differ from device to device in what they multiply and how fast; tests run them on one in
//! software. They prove themselves where they are to be used, against kernels and reference bodies that need none.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive};

use crate::{ExpertWeights, MoeBackend, Precision, reference};

/// Who computes products of bf16 in experts on a device with tensor cores, for the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TensorCores {
    /// Burn's products of padded batches, in the reference body.
    #[default]
    Burn,
    /// The kernels of this crate, which pad nothing and read nothing back.
    Own,
    /// The kernels of this crate that need no tensor cores: to compare with.
    Units,
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl TensorCores {
    /// Operations that begin from now on are computed so.
    pub fn choose(self) {
        CHOSEN.store(self as u8, Ordering::Relaxed);
    }

    /// What is in use.
    pub fn chosen() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Self::Own,
            2 => Self::Units,
            _ => Self::Burn,
        }
    }
}

/// What the kernels on tensor cores did on a device: experts forward and backward on random tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proof {
    /// Largest difference of outputs and gradients from those of the kernels without tensor cores, as a share of the largest
    /// value.
    pub error: f32,
    /// Time of a forward pass.
    pub own: Duration,
    /// Time of a forward pass of the reference, with Burn's products.
    pub burn: Duration,
}

impl Proof {
    /// Both round operands to bf16, and differ in the order of sums; intermediate results may be rounded to a neighbour.
    pub const BOUND: f32 = 0.01;

    /// Whether the kernels are right.
    pub fn is_right(&self) -> bool {
        self.error <= Self::BOUND
    }

    /// The faster one of those that are right, Burn's where the difference is small: another start should choose the same.
    pub fn choice(&self) -> TensorCores {
        match self.is_right() && self.own.as_secs_f64() < 0.9 * self.burn.as_secs_f64() {
            true => TensorCores::Own,
            false => TensorCores::Burn,
        }
    }
}

const TOKENS: usize = 2048;
const TOP_K: usize = 2;
const EXPERTS: usize = 8;
const MODEL: usize = 512;
const HIDDEN: usize = 1024;
/// Repetitions, of which the fastest counts.
const REPETITIONS: usize = 5;

/// Tries the kernels on tensor cores, and chooses by what it finds.
#[cfg_attr(not(feature = "cubecl"), allow(dead_code))] // Other backends have none.
pub(crate) fn prove<B: MoeBackend>(device: &B::Device) -> Proof {
    let trial = Trial::<B>::new(device);
    TensorCores::Units.choose();
    let expected = trial.outputs();
    TensorCores::Own.choose();
    let found = trial.outputs();
    let own = trial.time(|trial| trial.forward());
    let burn = trial.time(|trial| trial.reference());
    let proof = Proof {
        error: largest_error(&expected, &found),
        own,
        burn,
    };
    proof.choice().choose();
    proof
}

/// Random arguments of the experts.
struct Trial<B: MoeBackend> {
    x_td: Tensor<B, 2>,
    weights: ExpertWeights<B>,
    experts_tk: Tensor<B, 2, Int>,
    gates_tk: Tensor<B, 2>,
    dy_td: Tensor<B, 2>,
}

impl<B: MoeBackend> Trial<B> {
    fn new(device: &B::Device) -> Self {
        // A linear congruential generator: any numbers will do, as long as they are always the same.
        let mut state = 1_u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        // Uneven: the first experts get more tokens than others, and the last one none.
        let with_tokens = EXPERTS as i32 - 1;
        let experts: Vec<i32> = (0..TOKENS)
            .flat_map(|_| {
                let first = (random().powi(2) * with_tokens as f32) as i32;
                [first, (first + 1) % with_tokens]
            })
            .collect();
        let mut values = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| (random() - 0.5) * scale).collect()
        };
        let mut matrix = |shape: [usize; 2], scale| {
            let data = TensorData::new(values(shape[0] * shape[1], scale), shape);
            Tensor::<B, 2>::from_data(data, device)
        };
        let mut stacked = |rows, columns| {
            let flat = matrix([EXPERTS * rows, columns], 0.1);
            flat.reshape([EXPERTS, rows, columns])
        };
        let weights = ExpertWeights {
            gate_edf: stacked(MODEL, HIDDEN),
            up_edf: stacked(MODEL, HIDDEN),
            down_efd: stacked(HIDDEN, MODEL),
        };
        Self {
            x_td: matrix([TOKENS, MODEL], 2.0),
            weights,
            experts_tk: Tensor::from_data(TensorData::new(experts, [TOKENS, TOP_K]), device),
            gates_tk: matrix([TOKENS, TOP_K], 1.0),
            dy_td: matrix([TOKENS, MODEL], 2.0),
        }
    }

    fn forward(&self) -> Tensor<B, 2> {
        B::expert_ffn(
            self.x_td.clone(),
            self.weights.clone(),
            self.experts_tk.clone(),
            self.gates_tk.clone(),
            Precision::Bf16,
        )
    }

    fn reference(&self) -> Tensor<B, 2> {
        reference::expert_ffn(
            self.x_td.clone(),
            self.weights.clone(),
            self.experts_tk.clone(),
            self.gates_tk.clone(),
            Precision::Bf16,
        )
    }

    /// Output and all gradients, flat; nothing where the kernels do not apply.
    fn outputs(&self) -> Vec<Vec<f32>> {
        let traced = B::expert_ffn_traced(
            self.x_td.clone(),
            self.weights.clone(),
            self.experts_tk.clone(),
            self.gates_tk.clone(),
            Precision::Bf16,
        );
        let Some(traced) = traced else {
            return Vec::new();
        };
        let dy_td = self.dy_td.clone().into_primitive().tensor();
        let gradients = (traced.backward)(dy_td, [true; 5]);
        let all = [Some(traced.output)].into_iter().chain(gradients).flatten();
        all.map(|primitive| {
            // The data of a primitive do not ask for its rank.
            let data =
                Tensor::<B, 1>::from_primitive(TensorPrimitive::Float(primitive)).into_data();
            data.iter::<f32>().collect()
        })
        .collect()
    }

    fn time(&self, work: impl Fn(&Self) -> Tensor<B, 2>) -> Duration {
        let once = || {
            let started = Instant::now();
            // Reading a number waits for all that comes before it.
            work(self).slice([0..1, 0..1]).into_data();
            started.elapsed()
        };
        // Kernels are compiled and tuned at first.
        once();
        let times = (0..REPETITIONS).map(|_| once());
        times.min().unwrap_or(Duration::MAX)
    }
}

/// Largest difference as a share of the largest expected value, over all tensors; infinite where one is missing or not a
/// number.
pub(crate) fn largest_error(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f32 {
    if expected.is_empty() || expected.len() != found.len() {
        return f32::INFINITY;
    }
    let of_tensor = |(expected, found): (&Vec<f32>, &Vec<f32>)| {
        let largest = expected
            .iter()
            .fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()));
        let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0_f32, |worst, value| match value.is_nan() {
            true => f32::INFINITY,
            false => worst.max(value),
        });
        worst / largest
    };
    expected
        .iter()
        .zip(found)
        .map(of_tensor)
        .fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_right_one_is_taken() {
        let proof = |error, own, burn| {
            let [own, burn] = [own, burn].map(Duration::from_millis);
            Proof { error, own, burn }.choice()
        };
        assert_eq!(proof(1e-4, 1, 2), TensorCores::Own);
        assert_eq!(proof(1e-4, 3, 2), TensorCores::Burn);
        assert_eq!(proof(0.5, 1, 2), TensorCores::Burn);
        assert_eq!(proof(f32::NAN, 1, 2), TensorCores::Burn);
    }

    #[test]
    fn errors_are_shares_of_the_largest_value() {
        let error = |found: &[f32]| largest_error(&[vec![1.0, -4.0]], &[found.to_vec()]);
        assert_eq!(error(&[1.0, -3.0]), 0.25);
        assert_eq!(error(&[1.0, f32::NAN]), f32::INFINITY);
        assert_eq!(largest_error(&[], &[]), f32::INFINITY);
        assert_eq!(largest_error(&[vec![1.0]], &[]), f32::INFINITY);
    }
}
