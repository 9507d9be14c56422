//! Sums and norms of gradients.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_lm::Lm;

/// The summed squares of all gradients, `[1]`.
pub fn squared_norm<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    gradients: &GradientsParams,
    device: &B::Device,
) -> Tensor<B::InnerBackend, 1> {
    struct SquaredNorms<'a, B: MoeAutodiffBackend> {
        gradients: &'a GradientsParams,
        squares: Vec<Tensor<B::InnerBackend, 1>>,
    }
    impl<B: MoeAutodiffBackend> ModuleVisitor<B> for SquaredNorms<'_, B> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
                self.squares.push(B::InnerBackend::squared_norm(gradient));
            }
        }
    }
    let mut visitor = SquaredNorms::<B> {
        gradients,
        squares: Vec::new(),
    };
    model.visit(&mut visitor);
    if visitor.squares.is_empty() {
        return Tensor::zeros([1], device);
    }
    Tensor::cat(visitor.squares, 0).sum()
}

/// Gradients apart by the factor of their parameter's learning rate, usual ones first. `boosted` are the others.
pub fn by_learning_rate<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    gradients: GradientsParams,
    boosted: &[(ParamId, f32)],
) -> Vec<(f32, GradientsParams)> {
    struct Sort<'a> {
        boosted: &'a [(ParamId, f32)],
        gradients: GradientsParams,
        sorted: Vec<(f32, GradientsParams)>,
    }
    impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Sort<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let id = param.id;
            let Some((_, factor)) = self.boosted.iter().find(|(boosted, _)| *boosted == id) else {
                return;
            };
            let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(id) else {
                return;
            };
            let place = self.sorted.iter().position(|(other, _)| other == factor);
            let place = place.unwrap_or_else(|| {
                self.sorted.push((*factor, GradientsParams::new()));
                self.sorted.len() - 1
            });
            let (_, of_factor) = &mut self.sorted[place];
            of_factor.register::<B::InnerBackend, D>(id, gradient);
        }
    }
    if boosted.is_empty() {
        return vec![(1.0, gradients)];
    }
    let mut visitor = Sort {
        boosted,
        gradients,
        sorted: Vec::new(),
    };
    model.visit(&mut visitor);
    let usual = (1.0, visitor.gradients);
    [usual].into_iter().chain(visitor.sorted).collect()
}
