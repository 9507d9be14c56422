//! Seeded initialisation of parameters, independent of backend, device and order of construction.

use burn::{
    module::Param,
    tensor::{Shape, Tensor, TensorData, backend::Backend},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

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
        let mut rng = self.rng(name);
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                let sample: f32 = StandardNormal.sample(&mut rng);
                sample * std
            })
            .collect();
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

    /// The generator of the parameter `name`.
    fn rng(&self, name: &str) -> ChaCha8Rng {
        // FNV-1a: stable across platforms and releases, unlike the standard library's hasher.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&hash.to_le_bytes());
        ChaCha8Rng::from_seed(seed)
    }
}
