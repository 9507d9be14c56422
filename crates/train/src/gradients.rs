//! Sums and global norm of gradients.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{ElementConversion, Tensor},
};
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_lm::Lm;

/// Square root of the summed squares of all gradients; reads one number from the device.
pub fn global_norm<B: MoeAutodiffBackend>(model: &Lm<B>, gradients: &GradientsParams) -> f64 {
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
        return 0.0;
    }
    let total: f64 = Tensor::cat(visitor.squares, 0).sum().into_scalar().elem();
    total.sqrt()
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

/// Adds the gradients of one more pass to the sum of those before.
pub fn accumulate<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    sum: GradientsParams,
    more: GradientsParams,
) -> GradientsParams {
    struct Accumulate {
        sum: GradientsParams,
        more: GradientsParams,
    }
    impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Accumulate {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let (sum, more) = (
                self.sum.remove::<B::InnerBackend, D>(param.id),
                self.more.remove::<B::InnerBackend, D>(param.id),
            );
            let gradient = match (sum, more) {
                (Some(sum), Some(more)) => Some(B::InnerBackend::accumulate(sum, more)),
                (one, other) => one.or(other),
            };
            if let Some(gradient) = gradient {
                self.sum.register::<B::InnerBackend, D>(param.id, gradient);
            }
        }
    }
    let mut visitor = Accumulate { sum, more };
    model.visit(&mut visitor);
    visitor.sum
}
