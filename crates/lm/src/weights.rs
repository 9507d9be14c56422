//! Parameters from elsewhere and to elsewhere, by their paths in the module.

use std::fmt::Debug;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData, backend::Backend},
};

use upcycle_digest::Digest;

use crate::{
    config::LmConfig,
    model::Lm,
    shapes::{ParameterShape, parameter_shapes},
};

/// Where the parameters of a model come from.
pub trait WeightSource: Debug + Send + Sync {
    /// Shape of the model.
    fn config(&self) -> &LmConfig;

    /// Values of the parameter at `path`, such as `blocks.0.attention.query`, row-major; none to start it as a new
    /// model's.
    ///
    /// # Errors
    /// With what is wrong with them.
    fn read(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, String>;
}

/// Where the parameters of a model go.
pub trait WeightSink {
    /// The parameters that will come, in any order.
    ///
    /// # Errors
    /// If it cannot take them.
    fn begin(&mut self, config: &LmConfig, parameters: &[ParameterShape]) -> Result<(), String>;

    /// Values of one parameter, row-major.
    ///
    /// # Errors
    /// If they cannot be taken.
    fn write(&mut self, path: &str, values: &[f32]) -> Result<(), String>;
}

impl<B: Backend> Lm<B> {
    /// A model with parameters from elsewhere.
    ///
    /// # Errors
    /// If it cannot be built, or a parameter cannot be read.
    pub fn from_weights(source: &dyn WeightSource, device: &B::Device) -> Result<Self, String> {
        let model = source
            .config()
            .init::<B>(0, device)
            .map_err(|error| error.to_string())?;
        model.with_weights(source)
    }

    /// The same model with parameters from elsewhere. Burn's ids of the parameters follow from their paths, so that they are
    /// the same in every process.
    ///
    /// # Errors
    /// If a parameter cannot be read.
    pub fn with_weights(self, source: &dyn WeightSource) -> Result<Self, String> {
        let mut reader = Reader {
            source,
            path: Path::default(),
            fault: None,
        };
        let model = self.map(&mut reader);
        match reader.fault {
            Some(fault) => Err(fault),
            None => Ok(model),
        }
    }

    /// Gives all parameters away.
    ///
    /// # Errors
    /// The first error of the sink.
    pub fn to_weights(&self, sink: &mut dyn WeightSink) -> Result<(), String> {
        sink.begin(&self.config(), &parameter_shapes(self))?;
        let mut writer = Writer {
            sink,
            path: Path::default(),
            result: Ok(()),
        };
        self.visit(&mut writer);
        writer.result
    }
}

/// Where a visitor is.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn leave(&mut self) {
        self.0.pop();
    }

    fn text(&self) -> String {
        self.0.join(".")
    }
}

struct Reader<'a> {
    source: &'a dyn WeightSource,
    path: Path,
    fault: Option<String>,
}

impl<B: Backend> ModuleMapper<B> for Reader<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.leave();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.fault.is_some() {
            return param;
        }
        let (path, shape) = (self.path.text(), param.dims());
        let tensor = match self.source.read(&path, &shape) {
            Ok(Some(values)) => Tensor::from_data(TensorData::new(values, shape), &param.device()),
            Ok(None) => param.val().detach(),
            Err(fault) => {
                self.fault = Some(fault);
                return param;
            }
        };
        let id = Digest::new("parameter").bytes(path.as_bytes()).seed();
        // A new leaf: Burn silently freezes a parameter whose value is not tracked.
        let tensor = tensor.set_require_grad(param.is_require_grad());
        Param::initialized(ParamId::from(id), tensor)
    }
}

struct Writer<'a> {
    sink: &'a mut dyn WeightSink,
    path: Path,
    result: Result<(), String>,
}

impl<B: Backend> ModuleVisitor<B> for Writer<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if self.result.is_err() {
            return;
        }
        let data = param.val().into_data().convert::<f32>();
        let path = self.path.text();
        self.result = data
            .as_slice()
            .map_err(|error| format!("parameter {path} cannot be read: {error:?}"))
            .and_then(|values| self.sink.write(&path, values));
    }
}
