//! Experts in groups of one source, as tensors.

use burn::tensor::{Int, Tensor, backend::Backend};

use crate::sources::{ExpertSources, index_tensor};

/// Experts by source, as a table whose shorter rows repeat their first expert.
pub(crate) struct Groups<B: Backend> {
    /// Experts of every source, flat `[G * R]`.
    pub members_gr: Tensor<B, 1, Int>,
    /// Number of sources, G.
    pub count: usize,
    /// Largest number of replicas, R.
    pub width: usize,
}

impl<B: Backend> Groups<B> {
    pub fn new(sources: &ExpertSources, device: &B::Device) -> Self {
        let (members, width) = sources.members();
        Self {
            members_gr: index_tensor::<B>(&members, device),
            count: sources.count(),
            width,
        }
    }

    /// Values of every source's experts, `[T, E] -> [T, G, R]`.
    pub fn split(&self, values_te: Tensor<B, 2>) -> Tensor<B, 3> {
        let [t, _] = values_te.dims();
        values_te
            .select(1, self.members_gr.clone())
            .reshape([t, self.count, self.width])
    }

    /// The expert with the largest value of every source, `[T, E] -> [T, G]`.
    pub fn best(&self, values_te: Tensor<B, 2>) -> Tensor<B, 2, Int> {
        let [t, _] = values_te.dims();
        let device = values_te.device();
        let place_tg = self
            .split(values_te)
            .reshape([t * self.count, self.width])
            .argmax(1)
            .reshape([t, self.count]);
        let first_g = Tensor::<B, 1, Int>::arange(0..self.count as i64, &device)
            .mul_scalar(self.width as i64);
        let place_tg = place_tg + first_g.unsqueeze::<2>();
        self.members_gr
            .clone()
            .gather(0, place_tg.reshape([t * self.count]))
            .reshape([t, self.count])
    }
}
