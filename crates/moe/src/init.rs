//! Seeded initialisation of parameters, independent of backend, device and order of construction.

use std::ops::Range;

use burn::{
    module::Param,
    tensor::{Shape, Tensor, TensorData, backend::Backend},
};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use upcycle_digest::Digest;

/// Draws parameters from a seed and the parameter's name.
///
/// Burn's own initialisers draw from one global generator, in order of first use; here a parameter's values depend
/// on nothing but the seed, its name and its shape, so a model is the same on every backend.
#[derive(Debug, Clone, Copy)]
pub struct Initializer {
    seed: u64,
}

impl Initializer {
    /// An initialiser for `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A trainable parameter with values from `N(0, std^2)`.
    pub fn normal<B: Backend, const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        std: f32,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        self.normal_rows(name, shape, std, 0..shape[0], device)
    }

    /// Some rows of [`normal`](Self::normal), of which `shape` is the whole. The others are drawn too, but never kept.
    pub fn normal_rows<B: Backend, const D: usize>(
        &self,
        name: &str,
        mut shape: [usize; D],
        std: f32,
        rows: Range<usize>,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        let row: usize = shape.iter().skip(1).product();
        shape[0] = rows.len();
        let samples = Distribution::<f32>::sample_iter(StandardNormal, self.rng(name));
        let samples = samples.skip(rows.start * row).take(rows.len() * row);
        let values: Vec<f32> = samples.map(|sample| sample * std).collect();
        let data = TensorData::new(values, Shape::from(shape));
        Param::from_tensor(Tensor::from_data(data, device))
    }

    /// A trainable parameter of ones.
    pub fn ones<B: Backend, const D: usize>(
        shape: [usize; D],
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::ones(shape, device))
    }

    /// State that is saved with the model and not trained by gradients, all zero.
    pub fn state<B: Backend, const D: usize>(
        shape: [usize; D],
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::zeros(shape, device)).set_require_grad(false)
    }

    /// The stream of the parameter `name`.
    fn rng(&self, name: &str) -> ChaCha8Rng {
        Digest::new("parameter")
            .number(self.seed)
            .bytes(name.as_bytes())
            .rng()
    }
}
