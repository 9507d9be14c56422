//! Models of ours as checkpoints of transformers.

use std::{
    borrow::Cow,
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
use upcycle_moe::{GroupStrength, GrowthState, ScoreFunction};
use upcycle_operator::GateScore;

use crate::{
    checkpoint::{HfCheckpoint, INDEX},
    config::ConfigFile,
    error::HfError,
    experts::transpose,
    floats,
    folder::{NewFolder, check_free},
    import::{check_options, shape},
    layout::{Choice, Layout, ModelLayout},
    names::{Stored, stored},
    shards::{ShardPlan, TensorMeta},
    write::{check_space, copy_file, write_text},
};

/// How the path of selection biases ends.
const SELECTION_BIAS: &str = "router.selection_bias_e";

/// Fields of the number of layers of multi-token prediction, which models here have not.
const PREDICTION_LAYERS: [&str; 2] = ["num_nextn_predict_layers", "num_mtp_layers"];

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

/// The family that a model can be exported as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Its class in transformers.
    pub family: String,
    /// Whether its routers have selection biases.
    pub selection_biases: bool,
    /// Whether it has shared experts, which the model has not: they are written as zeros, and change nothing.
    pub adds_shared_experts: bool,
}

/// Writes a model in the layout of a family. Give it to [`Lm::to_weights`](upcycle_lm::Lm::to_weights), then call
/// [`finish`](Self::finish).
pub struct Export {
    layout: Layout,
    family: ModelLayout,
    /// Experts of every grown MoE layer in the order of its groups, by the layer's place in the model.
    order: HashMap<usize, Vec<usize>>,
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
        let (layout, family) = Self::checked(model, growths, like, dtype, to)?;
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
        let order = model
            .layers_of(LayerKind::Moe)
            .zip(growths)
            .filter_map(|(layer, growth)| {
                let order = growth.groups.as_ref()?.order();
                (!order.is_sorted()).then_some((layer, order))
            });
        Ok(Self {
            config: fields(config, model, &layout, &family, dtype),
            order: order.collect(),
            layout,
            family,
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
    ) -> Result<Fit, HfError> {
        let (layout, family) = Self::checked(model, growths, like, dtype, to)?;
        Ok(Fit {
            selection_biases: layout.has_selection_biases(),
            adds_shared_experts: family.shared.is_some() && model.d_shared == 0,
            family: family.architecture,
        })
    }

    /// The family, once nothing stands against the export.
    fn checked(
        model: &LmConfig,
        growths: &[GrowthState],
        like: Option<&HfCheckpoint>,
        dtype: ExportType,
        to: &Path,
    ) -> Result<(Layout, ModelLayout), HfError> {
        let family = family_of(model, growths, like)?;
        check_free(to)?;
        let parameters = CostModel::new(model).parameters().total();
        check_space(to, parameters * dtype.dtype().bitsize() as u64 / 8)?;
        Ok(family)
    }

    /// The class of transformers that it is a checkpoint of.
    pub fn family(&self) -> &str {
        &self.family.architecture
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
        let mut add = |name: String, dtype: Dtype, shape: Vec<usize>| {
            metas.push(TensorMeta {
                name,
                dtype,
                parameters: shape.iter().map(|&dim| dim as u64).product(),
                shape,
            });
        };
        for ParameterShape { path, dims, .. } in parameters {
            match (self.stored(path), dims.as_slice()) {
                (Some(Stored::Nowhere), _) => {}
                // Balancing moves biases by less than 16 bits can tell; transformers keeps them in 32 too.
                (Some(Stored::Same(name)), _) if path.ends_with(SELECTION_BIAS) => {
                    add(name, Dtype::F32, dims.clone());
                }
                (Some(Stored::Same(name)), _) => add(name, dtype, dims.clone()),
                (Some(Stored::Transposed(name)), &[rows, columns]) => {
                    add(name, dtype, vec![columns, rows])
                }
                (Some(Stored::Experts(names)), &[_, rows, columns]) => {
                    names
                        .into_iter()
                        .for_each(|name| add(name, dtype, vec![columns, rows]));
                }
                _ => return Err(unknown(path)),
            }
        }
        let zeros = self.zeros();
        for (name, shape) in &zeros {
            add(name.clone(), dtype, shape.clone());
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
        for (name, shape) in zeros {
            self.place(&name, &vec![0.0; shape.iter().product()])?;
        }
        Ok(())
    }

    fn stored(&self, path: &str) -> Option<Stored> {
        stored(&self.layout, &self.family, &self.model, path)
    }

    /// Names and shapes of the shared experts that the family has and the model has not: as wide as an expert.
    fn zeros(&self) -> Vec<(String, Vec<usize>)> {
        let model = &self.model;
        let Some(shared) = self.family.shared.as_ref().filter(|_| model.d_shared == 0) else {
            return Vec::new();
        };
        let (d, f) = (model.d_model, model.d_expert);
        let in_layer = |layer: usize| {
            let name = |part: &str| format!("model.layers.{layer}.mlp.{part}.weight");
            let matrix = |part: &str| name(&format!("{}.{part}", shared.name));
            let mut tensors = vec![
                (matrix("gate_proj"), vec![f, d]),
                (matrix("up_proj"), vec![f, d]),
                (matrix("down_proj"), vec![d, f]),
            ];
            tensors.extend(shared.gate.iter().map(|gate| (name(gate), vec![1, d])));
            tensors
        };
        let layers = model.layers_of(LayerKind::Moe);
        layers.flat_map(in_layer).collect()
    }

    /// Values of a parameter with a part for each expert, in the checkpoint's order of experts.
    fn in_order<'v>(&self, path: &str, values: &'v [f32]) -> Cow<'v, [f32]> {
        let of_experts = ["router.weight_ed", SELECTION_BIAS];
        let number = path
            .strip_prefix("blocks.")
            .and_then(|it| it.split('.').next());
        let order = number.and_then(|number| self.order.get(&number.parse().ok()?));
        match order {
            Some(order)
                if path.contains(".experts.") || of_experts.iter().any(|it| path.ends_with(it)) =>
            {
                let size = values.len() / order.len();
                let parts = order
                    .iter()
                    .flat_map(|&expert| &values[expert * size..][..size]);
                parts.copied().collect::<Vec<_>>().into()
            }
            _ => values.into(),
        }
    }

    fn put(&mut self, path: &str, values: &[f32]) -> Result<(), HfError> {
        let shape = |name: &str| {
            let meta = self.metas.iter().find(|meta| meta.name == name);
            match meta.map(|meta| meta.shape.as_slice()) {
                Some(&[columns, rows]) => [rows, columns],
                _ => [0, 0],
            }
        };
        match self.stored(path) {
            Some(Stored::Nowhere) => {
                if path.ends_with(SELECTION_BIAS) && values.iter().any(|&bias| bias != 0.0) {
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
        let meta = self.metas.iter().find(|meta| meta.name == name);
        let dtype = meta.map_or(self.dtype.dtype(), |meta| meta.dtype);
        let bytes = floats::encode(dtype, values).map_err(|problem| HfError::Tensor {
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

    fn write(&mut self, path: &str, values: &[f32]) -> Result<(), String> {
        let values = self.in_order(path, values);
        self.put(path, &values).map_err(|error| error.to_string())
    }
}

fn unknown(path: &str) -> HfError {
    HfError::Impossible(format!("the parameter {path} has no place in a checkpoint"))
}

/// The built-in family that a model fits.
fn fitting(model: &LmConfig) -> Result<(Layout, ModelLayout), HfError> {
    let mut problems = Vec::new();
    for layout in Layout::built_in() {
        let Some(family) = &layout.model else {
            continue;
        };
        match misfit(model, layout, family) {
            None => return Ok((layout.clone(), family.clone())),
            Some(problem) => {
                problems.push(format!("it is no {}: {problem}", family.architecture));
            }
        }
    }
    Err(HfError::Impossible(format!(
        "the model cannot be exported; {}",
        problems.join("; ")
    )))
}

/// The family of a checkpoint that a model is to be like.
fn own_family(model: &LmConfig, like: &HfCheckpoint) -> Result<(Layout, ModelLayout), HfError> {
    let layout = &like.layout;
    let model_type = like.model_type()?.unwrap_or_default();
    let Some(family) = layout.model(&model_type) else {
        return Err(HfError::Impossible(format!(
            "the model cannot be exported as {}: models of this family cannot be run here",
            layout.name
        )));
    };
    let problem = match misfit(model, layout, family) {
        None => {
            check_options(like, family)?;
            let own = shape(like, family, &like.moe()?)?;
            own.validate()
                .map_err(|error| HfError::file(like.config.path(), error.to_string()))?;
            unlike(model, &own)
        }
        problem => problem,
    };
    match problem {
        None => Ok((layout.clone(), family.clone())),
        Some(problem) => Err(HfError::Impossible(format!(
            "the model cannot be exported as {} like {}: {problem}",
            family.architecture,
            like.dir.display()
        ))),
    }
}

/// What differs from the model of a configuration whose fields for it stay as they are.
fn unlike(model: &LmConfig, own: &LmConfig) -> Option<&'static str> {
    let dense = |config: &LmConfig| config.layers_of(LayerKind::Dense).collect::<Vec<_>>();
    if model.layers != own.layers {
        Some("it has another number of layers")
    } else if model.context > own.context {
        Some("it knows shorter sequences only (see `context`)")
    } else if model.head_dim() != own.head_dim() {
        Some("it has heads of another width (see `d_head`)")
    } else if model.rotary_dim() != own.rotary_dim() {
        Some("it turns another share of a head (see `rotary_share`)")
    } else if model.rope_theta != own.rope_theta {
        Some("it has another `rope_theta`")
    } else if model.norm_eps != own.norm_eps {
        Some("it has another `norm_eps`")
    } else if dense(model) != dense(own) {
        Some("it has other dense layers (see `pattern`)")
    } else if !dense(model).is_empty() && model.d_ffn != own.d_ffn {
        Some("its dense layers have another width (see `d_ffn`)")
    } else {
        None
    }
}

/// The family that has what a model needs: that of a checkpoint which it is to be like, or any.
fn family_of(
    model: &LmConfig,
    growths: &[GrowthState],
    like: Option<&HfCheckpoint>,
) -> Result<(Layout, ModelLayout), HfError> {
    let problem = if growths.iter().any(|growth| growth.two_level.is_some()) {
        Some(
            "has two-level selection, which routers of transformers do not know; train it with a recipe that releases it (such as `released`)",
        )
    } else if model.moe_layers() == 0 {
        Some("has no MoE layer")
    } else {
        None
    };
    match (problem, like) {
        (Some(problem), _) => Err(HfError::Impossible(format!(
            "the model cannot be exported: it {problem}"
        ))),
        (None, Some(like)) => own_family(model, like),
        (None, None) => fitting(model),
    }
}

/// What a family does not have.
fn misfit(model: &LmConfig, layout: &Layout, family: &ModelLayout) -> Option<&'static str> {
    let all_heads_are_d_model = model.heads * model.head_dim() == model.d_model;
    let (score, renormalize) = routing(model);
    let dense = model.layers - model.moe_layers();
    let dense_first = (0..dense).all(|layer| model.layer_kind(layer) == LayerKind::Dense);
    let groups = model.groups.filter(|groups| groups.count > 1);
    let shared = family.shared.as_ref();
    if !layout.routing.score.can_be(score) {
        Some(match score {
            GateScore::Sigmoid => "there routers score by softmax (see `score`)",
            _ => "there routers score by sigmoid (see `score`)",
        })
    } else if !family.qk_norm.can_be(model.qk_norm) {
        Some("that normalises queries and keys otherwise (see `qk_norm`)")
    } else if model.qk_norm == QkNorm::AllHeads && !all_heads_are_d_model {
        Some("there all heads together are as wide as the model (see `d_head`)")
    } else if !family.attention_bias.can_be(model.attention_bias) {
        Some("that has other biases in attention (see `attention_bias`)")
    } else if model.rotary_share != 1.0 && family.rotary_share.is_none() {
        Some("that turns all channels of a head (see `rotary_share`)")
    } else if !layout.routing.renormalize.can_be(renormalize) {
        Some("there gates sum to 1 (see `renormalize`)")
    } else if model.gate_scale != 1.0 && family.gate_scale.is_none() {
        Some("that scales no gates (see `gate_scale`)")
    } else if groups.is_some_and(|it| {
        layout.config.groups.is_empty() || !layout.routing.groups_by.can_be(it.by)
    }) {
        Some("that has no such groups of experts (see `groups`)")
    } else if groups
        .is_some_and(|it| it.by == GroupStrength::TopTwo && model.experts < 2 * it.count)
    {
        Some("there a group has at least two experts (see `groups`)")
    } else if model.d_shared > 0 && shared.is_none() {
        Some("that has no shared expert (see `d_shared`)")
    } else if model.d_shared > 0 && shared.is_some_and(|it| it.gate.is_some() != model.shared_gate)
    {
        Some("that weights its shared expert otherwise (see `shared_gate`)")
    } else if shared.is_some_and(|it| it.count.is_some())
        && !model.d_shared.is_multiple_of(model.d_expert)
    {
        Some("there a shared expert is as wide as some experts (see `d_shared`)")
    } else if dense > 0 && family.d_ffn.is_none() {
        Some("that has no dense layers")
    } else if family.first_dense.is_some() && !dense_first {
        Some("there dense layers come before all MoE layers (see `pattern`)")
    } else {
        None
    }
}

/// Scores and whether gates sum to 1: a softmax over the selected logits is one over all, renormalised.
fn routing(model: &LmConfig) -> (GateScore, bool) {
    match model.score {
        ScoreFunction::TopKSoftmax => (GateScore::Softmax, true),
        score => (score.into(), model.renormalize),
    }
}

/// The fields of `config.json`, over those that are there.
fn fields(
    mut config: Map<String, Value>,
    model: &LmConfig,
    layout: &Layout,
    family: &ModelLayout,
    dtype: ExportType,
) -> Map<String, Value> {
    let is_new = config.is_empty();
    let types: Vec<&str> = ["dtype", "torch_dtype"]
        .into_iter()
        .filter(|field| is_new || config.contains_key(*field))
        .collect();
    let mut set = |field: &str, value: Value| {
        config.insert(field.to_owned(), value);
    };
    set("vocab_size", model.vocab.into());
    set("hidden_size", model.d_model.into());
    set("num_hidden_layers", model.layers.into());
    set("num_attention_heads", model.heads.into());
    set("num_key_value_heads", model.kv_heads.into());
    set(&family.d_expert, model.d_expert.into());
    set("tie_word_embeddings", false.into());
    for field in types {
        set(field, dtype.torch_name().into());
    }
    let renormalize = match &layout.routing.renormalize {
        Choice::Field { field, .. } => field.as_slice(),
        Choice::Always(_) => &[],
    };
    // Left out, it is D / H.
    if is_new || model.head_dim() * model.heads != model.d_model {
        set("head_dim", model.head_dim().into());
    }
    let choices = [
        family.qk_norm.as_field(model.qk_norm),
        family.attention_bias.as_field(model.attention_bias),
    ];
    for (field, value) in choices.into_iter().flatten() {
        set(field, value);
    }
    if let Some(field) = &family.gate_scale {
        set(field, number(model.gate_scale));
    }
    if let Some(shared) = &family.shared {
        let width = if model.d_shared == 0 {
            model.d_expert
        } else {
            model.d_shared
        };
        if let Some(field) = &shared.width {
            set(field, width.into());
        }
        if let Some(field) = &shared.count {
            set(field, (width / model.d_expert).into());
        }
    }
    if let Some(field) = &family.first_dense {
        set(field, (model.layers - model.moe_layers()).into());
    }
    // Also where there are none: the configuration may be that of a model which has some.
    let groups = model
        .groups
        .map_or([1, 1], |groups| [groups.count, groups.top]);
    if is_new {
        let own_type = family.model_types.first().unwrap_or(&layout.model_types[0]);
        set("model_type", own_type.clone().into());
        set("architectures", json!([family.architecture]));
        set("hidden_act", "silu".into());
        set("max_position_embeddings", model.context.into());
        set("rms_norm_eps", number(model.norm_eps));
        set("rope_theta", number(model.rope_theta));
        if family.rotary_share.is_some() {
            set("partial_rotary_factor", number(model.rotary_share));
        }
        set("sliding_window", Value::Null);
        for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            set(field, Value::Null);
        }
        if let Some(d_ffn) = &family.d_ffn {
            set(d_ffn, model.d_ffn.max(1).into());
        }
        if family.d_ffn.is_some() && family.first_dense.is_none() {
            let dense: Vec<usize> = model.layers_of(LayerKind::Dense).collect();
            set("mlp_only_layers", dense.into());
            set("decoder_sparse_step", 1.into());
        }
        if family.first_dense.is_some() {
            set(PREDICTION_LAYERS[0], 0.into());
        }
    }
    for field in PREDICTION_LAYERS {
        if config.contains_key(field) {
            config.insert(field.to_owned(), 0.into());
        }
    }
    // Of alternatives those that are there, or the first.
    let experts: Vec<String> = match (&family.experts, is_new) {
        (Some(field), true) => vec![field.clone()],
        _ => layout.config.experts.clone(),
    };
    for (names, value) in [
        (renormalize, Value::from(routing(model).1)),
        (&experts, model.experts.into()),
        (&layout.config.top_k, model.top_k.into()),
        (&layout.config.groups, groups[0].into()),
        (&layout.config.top_groups, groups[1].into()),
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
            config.insert(name.clone(), value.clone());
        }
    }
    config
}

/// A number as it was written, not as the nearest double of an f32.
fn number(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}
