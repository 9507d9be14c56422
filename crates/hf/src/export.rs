//! Models of ours as checkpoints of transformers.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use upcycle_files::FileError;
use upcycle_lm::{CostModel, LayerKind, LmConfig, ParameterShape, QkNorm, WeightSink};
use upcycle_moe::{GrowthState, ScoreFunction};

use crate::{
    checkpoint::{HfCheckpoint, INDEX},
    config::ConfigFile,
    error::HfError,
    experts::transpose,
    floats,
    folder::{NewFolder, check_free},
    layout::{Choice, Layout, ModelLayout},
    names::{Stored, stored},
    shards::{ShardPlan, TensorMeta},
    write::{check_space, copy_file, write_text},
};

/// How exported parameters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportType {
    /// 32 bits.
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits with a longer fraction.
    F16,
}

impl ExportType {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// Writes a model in the layout of a family. Give it to [`Lm::to_weights`](upcycle_lm::Lm::to_weights), then call
/// [`finish`](Self::finish).
pub struct Export {
    layout: Layout,
    dtype: ExportType,
    shard_bytes: u64,
    folder: NewFolder,
    /// `config.json` and files that come along.
    config: Map<String, Value>,
    files: Vec<(PathBuf, PathBuf)>,
    tokenizer: Option<String>,
    model: LmConfig,
    plan: ShardPlan,
    metas: Vec<TensorMeta>,
    /// File and first byte of every tensor that is still to come.
    open: HashMap<String, (usize, u64)>,
}

impl Export {
    /// Begins a checkpoint as the folder `to`, which must not exist: of the family and with the files of
    /// `like`, or without of a family that fits the model. `growths` are what its MoE layers know of theirs.
    ///
    /// # Errors
    /// If no family fits, or the folder cannot be made.
    pub fn new(
        model: &LmConfig,
        growths: &[GrowthState],
        like: Option<&HfCheckpoint>,
        tokenizer: Option<String>,
        dtype: ExportType,
        shard_bytes: u64,
        to: &Path,
    ) -> Result<Self, HfError> {
        Self::check(model, growths, like, dtype, to)?;
        let layout = match like {
            Some(like) => like.layout.clone(),
            None => fitting(model)?,
        };
        let (config, files) = match like {
            Some(like) => {
                let (names, _) = like.other_files()?;
                let files = names.into_iter().map(|name| (like.dir.join(&name), name));
                let config = serde_json::from_str(like.config.text()).unwrap_or_default();
                (config, files.collect())
            }
            None => (Map::new(), Vec::new()),
        };
        let folder = NewFolder::begin(to)?;
        Ok(Self {
            config: fields(config, model, &layout, dtype)?,
            layout,
            dtype,
            shard_bytes,
            folder,
            files,
            tokenizer,
            model: model.clone(),
            plan: ShardPlan { files: Vec::new() },
            metas: Vec::new(),
            open: HashMap::new(),
        })
    }

    /// Whether a model can be exported as the folder `to`, to the family of `like` or to one that fits.
    ///
    /// # Errors
    /// What stands against it: the model, the name, or the space on the disk.
    pub fn check(
        model: &LmConfig,
        growths: &[GrowthState],
        like: Option<&HfCheckpoint>,
        dtype: ExportType,
        to: &Path,
    ) -> Result<(), HfError> {
        check_model(model, growths, like.map(|like| &like.layout))?;
        check_free(to)?;
        let parameters = CostModel::new(model).parameters().total();
        check_space(to, parameters * dtype.dtype().bitsize() as u64 / 8)
    }

    /// Name of the family.
    pub fn family(&self) -> &str {
        &self.layout.name
    }

    /// Writes everything but the weights, and gives the folder its name.
    ///
    /// # Errors
    /// If parameters are missing, or a file cannot be written.
    pub fn finish(self) -> Result<(), HfError> {
        let missing = match self.open.keys().next() {
            Some(name) => Some(format!("tensor `{name}` was not given")),
            None => self.metas.is_empty().then(|| "no tensor was given".into()),
        };
        if let Some(problem) = missing {
            return Err(HfError::file(&self.folder.path, problem));
        }
        let path = |name: &str| self.folder.path.join(name);
        for file in &self.plan.files {
            let path = path(&file.name);
            let open = OpenOptions::new().write(true).open(&path);
            open.and_then(|file| file.sync_all())
                .map_err(FileError::of("write", &path))?;
        }
        if let Some(index) = self.plan.index(&self.metas) {
            write_text(&path(INDEX), &index)?;
        }
        for (from, name) in &self.files {
            copy_file(from, &self.folder.path.join(name))?;
        }
        // The one that it was trained with, whatever came along.
        if let Some(tokenizer) = &self.tokenizer {
            write_text(&path("tokenizer.json"), tokenizer)?;
        }
        let config = format!("{:#}\n", Value::Object(self.config));
        write_text(&path(ConfigFile::NAME), &config)?;
        self.folder.finish()
    }

    fn start(&mut self, parameters: &[ParameterShape]) -> Result<(), HfError> {
        let dtype = self.dtype.dtype();
        let mut metas = Vec::new();
        let mut add = |name: String, shape: Vec<usize>| {
            metas.push(TensorMeta {
                name,
                dtype,
                parameters: shape.iter().map(|&dim| dim as u64).product(),
                shape,
            });
        };
        for ParameterShape { path, dims, .. } in parameters {
            match (stored(&self.layout, &self.model, path), dims.as_slice()) {
                (Some(Stored::Nowhere), _) => {}
                (Some(Stored::Same(name)), _) => add(name, dims.clone()),
                (Some(Stored::Transposed(name)), &[rows, columns]) => {
                    add(name, vec![columns, rows])
                }
                (Some(Stored::Experts(names)), &[_, rows, columns]) => {
                    names
                        .into_iter()
                        .for_each(|name| add(name, vec![columns, rows]));
                }
                _ => return Err(unknown(path)),
            }
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        self.plan = ShardPlan::new(&metas, self.shard_bytes, Some(&metadata))?;
        for (number, file) in self.plan.files.iter().enumerate() {
            let path = self.folder.path.join(&file.name);
            fs::write(&path, &file.header).map_err(FileError::of("write", &path))?;
            let mut start = file.header.len() as u64;
            for &index in &file.tensors {
                self.open.insert(metas[index].name.clone(), (number, start));
                start += metas[index].bytes();
            }
        }
        self.metas = metas;
        Ok(())
    }

    fn put(&mut self, path: &str, values: &[f32]) -> Result<(), HfError> {
        let shape = |name: &str| {
            let meta = self.metas.iter().find(|meta| meta.name == name);
            match meta.map(|meta| meta.shape.as_slice()) {
                Some(&[columns, rows]) => [rows, columns],
                _ => [0, 0],
            }
        };
        match stored(&self.layout, &self.model, path) {
            Some(Stored::Nowhere) => {
                if path.ends_with("selection_bias_e") && values.iter().any(|&bias| bias != 0.0) {
                    return Err(HfError::Impossible(format!(
                        "the model has selection biases ({path}), which routers of {} do not know; train it from the beginning with an auxiliary loss in place of loss-free balancing",
                        self.layout.name
                    )));
                }
                Ok(())
            }
            Some(Stored::Same(name)) => self.place(&name, values),
            Some(Stored::Transposed(name)) => {
                let shape = shape(&name);
                self.place(&name, &transpose(values, shape))
            }
            Some(Stored::Experts(names)) => {
                let shape = names.first().map_or([0, 0], |name| shape(name));
                for (name, values) in names.iter().zip(values.chunks_exact(shape[0] * shape[1])) {
                    self.place(name, &transpose(values, shape))?;
                }
                Ok(())
            }
            None => Err(unknown(path)),
        }
    }

    fn place(&mut self, name: &str, values: &[f32]) -> Result<(), HfError> {
        let Some((file, start)) = self.open.remove(name) else {
            return Err(unknown(name));
        };
        let path = self.folder.path.join(&self.plan.files[file].name);
        let bytes =
            floats::encode(self.dtype.dtype(), values).map_err(|problem| HfError::Tensor {
                path: path.clone(),
                tensor: name.to_owned(),
                problem,
            })?;
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.seek(SeekFrom::Start(start))?;
            file.write_all(&bytes)
        };
        Ok(write().map_err(FileError::of("write", &path))?)
    }
}

impl WeightSink for Export {
    fn begin(&mut self, _config: &LmConfig, parameters: &[ParameterShape]) -> Result<(), String> {
        self.start(parameters).map_err(|error| error.to_string())
    }

    fn write(&mut self, path: &str, values: Vec<f32>) -> Result<(), String> {
        self.put(path, &values).map_err(|error| error.to_string())
    }
}

fn unknown(path: &str) -> HfError {
    HfError::Impossible(format!("the parameter {path} has no place in a checkpoint"))
}

/// The built-in family that a model fits.
fn fitting(model: &LmConfig) -> Result<Layout, HfError> {
    let mut problems = Vec::new();
    for layout in Layout::built_in()? {
        let Some(family) = &layout.model else {
            continue;
        };
        match misfit(model, &layout, family) {
            None => return Ok(layout),
            Some(problem) => problems.push(format!("it is no {} model: {problem}", layout.name)),
        }
    }
    Err(HfError::Impossible(format!(
        "the model cannot be exported; {}",
        problems.join("; ")
    )))
}

/// Whether transformers has what a model needs, in a family if it is chosen.
fn check_model(
    model: &LmConfig,
    growths: &[GrowthState],
    layout: Option<&Layout>,
) -> Result<(), HfError> {
    let problem = if growths.iter().any(|growth| growth.two_level.is_some()) {
        Some(
            "has two-level selection, which routers of transformers do not know; train it with a recipe that releases it (such as `released`)",
        )
    } else if model.score == ScoreFunction::Sigmoid {
        Some("has a router that scores by sigmoid; train with `score = \"softmax\"`")
    } else if model.gate_scale != 1.0 {
        Some("has scaled gates; train with `gate_scale = 1`")
    } else if model.moe_layers() == 0 {
        Some("has no MoE layer")
    } else {
        None
    };
    if let Some(problem) = problem {
        let problem = format!("the model cannot be exported: it {problem}");
        return Err(HfError::Impossible(problem));
    }
    let Some(layout) = layout else {
        return fitting(model).map(|_| ());
    };
    let problem = match &layout.model {
        Some(family) => misfit(model, layout, family),
        None => Some("models of this family cannot be run here"),
    };
    match problem {
        Some(problem) => Err(HfError::Impossible(format!(
            "the model cannot be exported as {}: {problem}",
            layout.name
        ))),
        None => Ok(()),
    }
}

/// What a family does not have.
fn misfit(model: &LmConfig, layout: &Layout, family: &ModelLayout) -> Option<&'static str> {
    let all_heads_are_d_model = model.heads * model.head_dim() == model.d_model;
    if model.qk_norm != family.qk_norm {
        Some("that normalises queries and keys otherwise (see `qk_norm`)")
    } else if model.qk_norm == QkNorm::AllHeads && !all_heads_are_d_model {
        Some("there all heads together are as wide as the model (see `d_head`)")
    } else if layout.routing.renormalize == Choice::Always(true) && !renormalizes(model) {
        Some("there gates sum to 1 (see `renormalize`)")
    } else if model.moe_layers() < model.layers && family.d_ffn.is_none() {
        Some("that has no dense layers")
    } else {
        None
    }
}

fn renormalizes(model: &LmConfig) -> bool {
    model.renormalize || model.score == ScoreFunction::TopKSoftmax
}

/// The fields of `config.json`, over those that are there.
fn fields(
    mut config: Map<String, Value>,
    model: &LmConfig,
    layout: &Layout,
    dtype: ExportType,
) -> Result<Map<String, Value>, HfError> {
    let Some(family) = &layout.model else {
        return Ok(config);
    };
    let is_new = config.is_empty();
    let types: Vec<&str> = ["dtype", "torch_dtype"]
        .into_iter()
        .filter(|field| is_new || config.contains_key(*field))
        .collect();
    let ModelLayout {
        architecture,
        d_expert,
        d_ffn,
        ..
    } = family;
    let mut set = |field: &str, value: Value| {
        config.insert(field.to_owned(), value);
    };
    set("vocab_size", model.vocab.into());
    set("hidden_size", model.d_model.into());
    set("num_hidden_layers", model.layers.into());
    set("num_attention_heads", model.heads.into());
    set("num_key_value_heads", model.kv_heads.into());
    set(d_expert, model.d_expert.into());
    set("tie_word_embeddings", false.into());
    for field in types {
        set(field, dtype.torch_name().into());
    }
    if let Choice::Field { field, .. } = &layout.routing.renormalize {
        for field in field {
            set(field, renormalizes(model).into());
        }
    }
    if is_new {
        set("model_type", layout.model_types[0].clone().into());
        set("architectures", json!([architecture]));
        set("hidden_act", "silu".into());
        set("head_dim", model.head_dim().into());
        set("max_position_embeddings", model.context.into());
        set("rms_norm_eps", number(model.norm_eps));
        set("rope_theta", number(model.rope_theta));
        set("attention_bias", false.into());
        set("sliding_window", Value::Null);
        for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            set(field, Value::Null);
        }
        if let Some(d_ffn) = d_ffn {
            let kind = |layer: &usize| model.layer_kind(*layer) == LayerKind::Dense;
            let dense: Vec<usize> = (0..model.layers).filter(kind).collect();
            set(d_ffn, model.d_ffn.max(1).into());
            set("mlp_only_layers", dense.into());
            set("decoder_sparse_step", 1.into());
        }
    }
    for (names, value) in [
        (&layout.config.experts, model.experts),
        (&layout.config.top_k, model.top_k),
    ] {
        let there: Vec<&String> = names
            .iter()
            .filter(|name| config.contains_key(*name))
            .collect();
        let chosen = match there.is_empty() {
            true => names.iter().take(1).collect(),
            false => there,
        };
        for name in chosen {
            config.insert(name.clone(), value.into());
        }
    }
    Ok(config)
}

/// A number as it was written, not as the nearest double of an f32.
fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}
