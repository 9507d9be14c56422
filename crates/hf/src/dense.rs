//! Dense checkpoints, seen as those of a MoE family with one expert in each layer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry, Values},
    config::ConfigFile,
    error::HfError,
    layout::{DenseLayout, Matrix},
    pattern::{Pattern, Place},
};

/// Feed-forward networks of Llama and its descendants, by what they become.
const NETWORK: [(Matrix, &str); 3] = [
    (Matrix::Gate, "*layers.{layer}.mlp.gate_proj.weight"),
    (Matrix::Up, "*layers.{layer}.mlp.up_proj.weight"),
    (Matrix::Down, "*layers.{layer}.mlp.down_proj.weight"),
];

/// All tensors of such a network.
const ANYTHING: &str = "*layers.{layer}.mlp.*";

impl HfCheckpoint {
    /// Gives the network of every layer the name of the layout's first expert, and adds a router whose one row is zero. No byte
    /// of a file is another.
    pub(crate) fn see_as_moe(&mut self) -> Result<(), HfError> {
        let Some(dense) = self.layout.dense.clone() else {
            return Ok(());
        };
        let pattern = |text: &str| Pattern::try_from(text.to_owned()).ok();
        let network = NETWORK.iter();
        let network = network.filter_map(|(matrix, text)| Some((*matrix, pattern(text)?)));
        let network: Vec<(Matrix, Pattern)> = network.collect();
        let anything = pattern(ANYTHING);
        let names: Vec<String> = self.tensors.keys().cloned().collect();
        for name in &names {
            let mut found = network.iter();
            let found = found.find_map(|(matrix, of)| Some((*matrix, of.find(name)?)));
            match found {
                Some((matrix, place)) => self.become_expert(name, matrix, place, &dense)?,
                None if anything
                    .as_ref()
                    .is_some_and(|all| all.find(name).is_some()) =>
                {
                    let problem = "is of a feed-forward network, and experts of the family have nothing like it; such a dense model cannot become a MoE model here";
                    return Err(self.fault(name, problem));
                }
                None => {}
            }
        }
        self.config = self.moe_config(&dense)?;
        Ok(())
    }

    /// The same dense model, each network seen as `shards` experts whose sum it is, not as one: an expert has its share of
    /// the hidden neurons, and gives `shards` times their outputs, since gates sum to 1 over all shards.
    ///
    /// # Errors
    /// If the model is not dense, or its networks cannot be cut so.
    pub fn cut(mut self, shards: usize) -> Result<Self, HfError> {
        let (Some(dense), true) = (self.layout.dense.clone(), self.dense) else {
            let problem = "only the networks of a dense model can be cut into experts";
            return Err(HfError::file(&self.dir, problem));
        };
        if shards == 1 {
            return Ok(self);
        }
        let field = dense.d_expert.as_deref().unwrap_or("intermediate_size");
        let width: usize = self.config.need(field)?;
        if shards == 0 || !width.is_multiple_of(shards) {
            let problem = format!("`{field}` = {width} cannot be cut into {shards} equal experts");
            return Err(HfError::file(self.config.path(), problem));
        }
        let (storages, routers) = (&self.layout.experts, &self.layout.router.weight);
        let mut tensors = BTreeMap::new();
        for (name, entry) in &self.tensors {
            let mut found = storages.iter();
            let found = found.find_map(|storage| {
                let place = storage.tensors.find(name)?;
                Some((storage, place, storage.matrix(place.after)?))
            });
            if let Some((storage, place, matrix)) = found {
                self.check_float(name)?;
                let hidden = usize::from(matrix == Matrix::Down);
                let shape = &entry.shape;
                if shape.len() != 2 || shape[hidden] != width || shape.contains(&0) {
                    let problem = format!(
                        "has shape {:?}, which does not fit `{field}` = {width}",
                        entry.shape
                    );
                    return Err(self.fault(name, problem));
                }
                for shard in 0..shards {
                    let expert = Some(shard);
                    let name = storage.tensors.name(Place { expert, ..place });
                    tensors.insert(name, entry.shard_of(matrix, shard, shards));
                }
                continue;
            }
            let mut entry = entry.clone();
            if routers.iter().any(|router| router.find(name).is_some()) {
                entry.shape[0] *= shards;
                entry.bytes *= shards as u64;
            }
            tensors.insert(name.clone(), entry);
        }
        self.tensors = tensors;
        self.config
            .set(&[field.to_owned()], width, width / shards)?;
        let counts = &self.layout.config;
        for fields in [&counts.experts, &counts.top_k] {
            self.config.set(fields, 1, shards)?;
        }
        Ok(self)
    }

    fn become_expert(
        &mut self,
        name: &str,
        matrix: Matrix,
        place: Place,
        dense: &DenseLayout,
    ) -> Result<(), HfError> {
        let storage = self.layout.experts.first();
        let part = storage.and_then(|storage| Some((storage, storage.part(matrix)?)));
        let router = self.layout.router.weight.first();
        let (Some((storage, part)), Some(router)) = (part, router) else {
            let problem = format!("the layout of {} is no family's", self.layout.name);
            return Err(HfError::Impossible(problem));
        };
        let own = Place {
            expert: Some(0),
            after: part,
            ..place
        };
        let (expert, router) = (
            storage.tensors.name(own),
            router.name(Place { after: "", ..own }),
        );
        let Some(entry) = self.tensors.remove(name) else {
            return Ok(());
        };
        if matrix == Matrix::Gate {
            let &[_, d] = entry.shape.as_slice() else {
                let problem = format!("{name} has shape {:?}, not that of a matrix", entry.shape);
                return Err(HfError::file(&self.dir, problem));
            };
            // In the type of the norm before: networks may be quantised, routers are not.
            let norms = self.layout.router.input_norm.iter();
            let mut norms = norms.map(|norm| norm.name(Place { after: "", ..own }));
            let norm = norms.find_map(|norm| self.tensors.get(&norm));
            let dtype = norm.map_or(entry.dtype, |norm| norm.dtype);
            let zeros = |shape: Vec<usize>| TensorEntry {
                dtype,
                bytes: (shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64,
                shape,
                values: Values::Zeros,
                ..entry.clone()
            };
            for (pattern, shape) in &dense.zeros {
                let shape = shape.iter().map(|&dim| if dim == 0 { d } else { dim });
                let name = pattern.name(Place { after: "", ..own });
                self.tensors.insert(name, zeros(shape.collect()));
            }
            self.tensors.insert(router, zeros(vec![1, d]));
        }
        self.tensors.insert(expert, entry);
        Ok(())
    }

    /// The configuration of a model of the family with one expert in each layer.
    fn moe_config(&self, dense: &DenseLayout) -> Result<ConfigFile, HfError> {
        let config = &self.config;
        for field in &dense.off {
            if config.get(field)?.unwrap_or(false) {
                let problem = format!(
                    "field `{field}` is true, which {} models do not have; such a dense model cannot become one",
                    self.layout.name
                );
                return Err(HfError::file(config.path(), problem));
            }
        }
        let width: usize = config.need("intermediate_size")?;
        let fields = config.value("").and_then(Value::as_object);
        let mut fields: Map<String, Value> = fields.cloned().unwrap_or_default();
        let architectures = vec![Value::from(dense.architecture.clone())];
        fields.insert("architectures".into(), architectures.into());
        let model_type = self.layout.model_types.first();
        fields.insert("model_type".into(), model_type.cloned().into());
        if let Some(field) = &dense.d_expert {
            fields.insert(field.clone(), width.into());
        }
        for (field, value) in &dense.set {
            let value = serde_json::to_value(value).unwrap_or(Value::Null);
            fields.insert(field.clone(), value);
        }
        let text = format!("{:#}\n", Value::Object(fields));
        ConfigFile::parse(config.path().to_owned(), text)
    }
}

impl TensorEntry {
    /// One of `shards` shards of a matrix of a network, `[F, D]`, or `[D, F]` of the down projection.
    fn shard_of(&self, matrix: Matrix, shard: usize, shards: usize) -> Self {
        let bytes = self.bytes / shards as u64;
        let mut shape = self.shape.clone();
        let (axis, row, values) = match matrix {
            Matrix::Down => {
                let row = self.bytes / self.shape[0].max(1) as u64;
                let factor = shards as f32;
                (1, row, Values::Columns { row, factor })
            }
            _ => (0, self.bytes, Values::Stored),
        };
        shape[axis] /= shards;
        Self {
            shape,
            offset: self.offset + row / shards as u64 * shard as u64,
            bytes,
            values,
            ..self.clone()
        }
    }
}
