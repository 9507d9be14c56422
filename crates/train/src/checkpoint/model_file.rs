//! Parameters of a model in a file of tensors, named by their paths.

use std::path::Path;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use safetensors::Dtype;
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::{Lm, LmConfig, WeightSource, parameter_shapes};

use super::{
    FileSum, broken,
    tensor_file::{TensorFile, TensorWriter},
};
use crate::error::TrainError;

/// Writes all parameters of a model.
pub(super) fn write<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    path: &Path,
) -> Result<FileSum, TrainError> {
    let shapes = parameter_shapes(model);
    let entries: Vec<_> = shapes
        .into_iter()
        .map(|shape| (shape.path, Dtype::F32, shape.dims))
        .collect();
    TensorWriter::write(path, &entries, |writer| {
        let mut given = Parameters {
            writer,
            result: Ok(()),
        };
        model.visit(&mut given);
        given.result
    })
}

/// Gives a model, which is of the right shape already, the parameters of a file.
pub(super) fn read<B: MoeAutodiffBackend>(model: Lm<B>, path: &Path) -> Result<Lm<B>, TrainError> {
    let file = TensorFile::open(path)?;
    let (own, found) = (parameter_shapes(&model).len(), file.len());
    if own != found {
        let problem = format!("it has {found} parameters, the configuration asks for {own}");
        return Err(broken(path, problem));
    }
    let source = Source {
        config: model.config(),
        file,
    };
    let model = model.with_weights(&source);
    model.map_err(|problem| broken(path, problem))
}

/// In the order of [`parameter_shapes`].
struct Parameters<'a, 'b> {
    writer: &'a mut TensorWriter<'b>,
    result: Result<(), TrainError>,
}

impl<B: Backend> ModuleVisitor<B> for Parameters<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if self.result.is_ok() {
            self.result = self.writer.tensor(&param.val());
        }
    }
}

#[derive(Debug)]
struct Source {
    config: LmConfig,
    file: TensorFile,
}

impl WeightSource for Source {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn read(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, String> {
        let values = self.file.floats(path, shape);
        values.map(Some).map_err(|error| match error {
            TrainError::Checkpoint { problem, .. } => problem,
            other => other.to_string(),
        })
    }
}
