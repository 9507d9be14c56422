//! Parameters of a model in a file of tensors, named by their paths.

use std::{ops::Range, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Tensor,
};
use safetensors::Dtype;
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::{Lm, LmConfig, WeightSource, parameter_shapes};

use super::{
    FileSum, broken,
    output::{self, Output},
    tensor_file::TensorFile,
};
use crate::{
    crew::Crew,
    error::TrainError,
    placement::{Placement, placements},
};

/// Writes all parameters of a model, of which each device has its share.
pub(super) fn write<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    path: &Path,
    crew: &Crew,
) -> Result<Option<FileSum>, TrainError> {
    let placements = placements(model, crew);
    let entries: Vec<_> = placements
        .iter()
        .map(|placement| {
            let whole = &placement.whole;
            (whole.path.clone(), Dtype::F32, whole.dims.clone())
        })
        .collect();
    output::write(path, &entries, crew, |output| {
        let mut given = Parameters {
            output,
            placements: placements.iter(),
            result: Ok(()),
        };
        model.visit(&mut given);
        given.result
    })
}

/// Gives a model, which is of the right shape already, its share of the parameters of a file.
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

/// In the order of the placements.
struct Parameters<'p, 'o, 'a, 'b> {
    output: &'o mut Output<'a, 'b>,
    placements: std::slice::Iter<'p, Placement>,
    result: Result<(), TrainError>,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Parameters<'_, '_, '_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if self.result.is_err() {
            return;
        }
        if let Some(placement) = self.placements.next() {
            let (value, device) = (param.val().inner(), param.device());
            self.result = self.output.tensor(&placement.values, Some(value), &device);
        }
    }
}

#[derive(Debug)]
struct Source {
    config: LmConfig,
    file: TensorFile,
}

impl Source {
    fn floats(&self, path: &str, shape: &[usize], range: Range<usize>) -> Result<Vec<f32>, String> {
        let values = self.file.floats(path, shape, range);
        values.map_err(|error| match error {
            TrainError::Checkpoint { problem, .. } => problem,
            other => other.to_string(),
        })
    }
}

impl WeightSource for Source {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn read(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, String> {
        let all = 0..shape.iter().product();
        self.floats(path, shape, all).map(Some)
    }

    fn read_rows(
        &self,
        path: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Option<Vec<f32>>, String> {
        let row: usize = shape.iter().skip(1).product();
        let range = rows.start * row..rows.end * row;
        self.floats(path, shape, range).map(Some)
    }
}
