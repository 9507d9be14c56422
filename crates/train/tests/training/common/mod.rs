//! What several tests need.

use burn::{
    backend::Autodiff,
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};
use burn_flex::Flex;
use upcycle_lm::Lm;

/// All parameters, in order.
pub fn parameters(model: &Lm<Autodiff<Flex>>) -> Vec<f32> {
    struct Values(Vec<f32>);
    impl ModuleVisitor<Autodiff<Flex>> for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Autodiff<Flex>, D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    values.0
}
