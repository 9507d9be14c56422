//! Parameters from elsewhere and to elsewhere, by their paths in the module.

use std::{collections::HashMap, fmt::Debug, ops::Range};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData, backend::Backend},
};

use upcycle_digest::Digest;
use upcycle_team::Team;

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

    /// Those of some rows of a parameter, of which `shape` is the whole: the experts that a device holds. Whatever need not
    /// read the whole for that has a body of its own.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_rows(
        &self,
        path: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Option<Vec<f32>>, String> {
        let row: usize = shape.iter().skip(1).product();
        let (before, count) = (rows.start * row, rows.len() * row);
        let values = self.read(path, shape)?;
        Ok(values.map(|values| values.into_iter().skip(before).take(count).collect()))
    }
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
        Self::from_weights_sharded(source, &Team::alone(), device)
    }

    /// The same with those experts alone that this member of a team of devices holds, see [`LmConfig::init_sharded`].
    ///
    /// # Errors
    /// If it cannot be built, or a parameter cannot be read.
    pub fn from_weights_sharded(
        source: &dyn WeightSource,
        team: &Team,
        device: &B::Device,
    ) -> Result<Self, String> {
        let model = source.config().init_sharded::<B>(0, team, device);
        model
            .map_err(|error| error.to_string())?
            .with_weights(source)
    }

    /// The same model with parameters from elsewhere. Burn's ids of the parameters follow from their paths, so that they are
    /// the same in every process.
    ///
    /// # Errors
    /// If a parameter cannot be read.
    pub fn with_weights(self, source: &dyn WeightSource) -> Result<Self, String> {
        let spread = self
            .moe_layers()
            .filter(|layer| layer.expert_team().size() > 1);
        let blocks = spread.flat_map(|layer| {
            let experts = &layer.experts;
            (experts.ids()).map(|id| (id, (experts.block(), experts.count())))
        });
        let mut reader = Reader {
            blocks: blocks.collect(),
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
    /// The first error of the sink; if the experts are spread over several devices, so that not all are here.
    pub fn to_weights(&self, sink: &mut dyn WeightSink) -> Result<(), String> {
        let devices = self.moe_layers().map(|layer| layer.expert_team().size());
        if let Some(devices) = devices.max().filter(|&devices| devices > 1) {
            return Err(format!(
                "the experts of the model are spread over {devices} devices; write a checkpoint and load it on one"
            ));
        }
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
    /// Which experts of how many the matrices have that are a part.
    blocks: HashMap<ParamId, (Range<usize>, usize)>,
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
        let read = match self.blocks.get(&param.id) {
            Some((rows, experts)) => {
                let mut whole = shape;
                whole[0] = *experts;
                self.source.read_rows(&path, &whole, rows.clone())
            }
            None => self.source.read(&path, &shape),
        };
        let tensor = match read {
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
