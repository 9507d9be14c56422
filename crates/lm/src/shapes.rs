//! Shapes of a model's parameters by path; Burn loads a record of any shape without a word.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, backend::Backend},
};

use crate::model::Lm;

/// Path, id, shape and whether it is trained, of every float parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterShape {
    /// Dotted path in the module.
    pub path: String,
    /// Burn's id.
    pub id: ParamId,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Whether it gets gradients.
    pub trained: bool,
}

/// Shapes of all float parameters of a model, in order; where experts are spread over several devices, of those that are here.
pub fn parameter_shapes<B: Backend>(model: &Lm<B>) -> Vec<ParameterShape> {
    let mut visitor = ShapeVisitor::default();
    model.visit(&mut visitor);
    visitor.shapes
}

#[derive(Default)]
struct ShapeVisitor {
    path: Vec<String>,
    shapes: Vec<ParameterShape>,
}

impl<B: Backend> ModuleVisitor<B> for ShapeVisitor {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.shapes.push(ParameterShape {
            path: self.path.join("."),
            id: param.id,
            dims: param.dims().to_vec(),
            trained: param.is_require_grad(),
        });
    }

    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
}
