//! Families of checkpoints, as data: which tensors are experts and routers, and what the configuration calls things.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use serde::Deserialize;
use upcycle_files::FileError;
use upcycle_lm::{AttentionBias, QkNorm};
use upcycle_moe::GroupStrength;
use upcycle_operator::{GateScore, RouterBias};

use crate::{error::HfError, one_or_many::one_or_many, pattern::Pattern};

macro_rules! layouts {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../layouts/", $name, ".toml")))),+]
    };
}

/// Names and files of the built-in families.
const FILES: &[(&str, &str)] = layouts!(
    "afmoe",
    "aria",
    "cohere2_moe",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v4",
    "doge",
    "dots1",
    "ernie4_5_moe",
    "ernie4_5_vl_moe",
    "flint",
    "gemma4",
    "gpt_oss",
    "granitemoe",
    "hunyuan_v1_moe",
    "inkling",
    "inkling2",
    "jamba",
    "jetmoe",
    "kimi_linear",
    "kolibri1",
    "laguna",
    "lfm2_moe",
    "llama4",
    "longcat_flash",
    "mistral4",
    "mixtral",
    "nemotron_h",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_omni_moe",
    "qwen3_vl_moe",
    "step3p7",
    "zaya",
);

/// A family of checkpoints, as it stands in a TOML file. What a file leaves out is as most families have it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Name for people.
    pub name: String,
    /// Values of `model_type` in `config.json` that are of this family.
    pub model_types: Vec<String>,
    /// Why a checkpoint of this family cannot be grown; none for families that can.
    #[serde(default)]
    pub refused: Option<String>,
    /// Ways in which experts are stored, of which a layer has one.
    #[serde(default = "standard_experts", deserialize_with = "one_or_many")]
    pub(crate) experts: Vec<ExpertLayout>,
    #[serde(default)]
    pub(crate) router: RouterLayout,
    #[serde(default)]
    pub(crate) routing: RoutingLayout,
    #[serde(default)]
    pub(crate) config: ConfigLayout,
    /// Another set of experts with a router of their own in the same layers, such as experts of attention.
    #[serde(default)]
    pub(crate) also: Vec<SetLayout>,
    /// Parts of names of tensors that all experts share though an axis of theirs is as long as there are experts.
    #[serde(default)]
    pub(crate) shared: Vec<String>,
    /// What is needed to run models of the family; none where they cannot be.
    pub(crate) model: Option<ModelLayout>,
    /// How dense models become models of this family.
    pub(crate) dense: Option<DenseLayout>,
}

/// A set of experts and their router.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLayout {
    #[serde(deserialize_with = "one_or_many")]
    pub experts: Vec<ExpertLayout>,
    pub router: RouterLayout,
}

/// Tensors of experts. Names of single matrices are what the last `*` of `tensors` stands for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpertLayout {
    /// All tensors of experts: with `{expert}` one an expert, without stacked along `axis`.
    pub tensors: Pattern,
    /// Expert axis of stacked tensors.
    #[serde(default)]
    pub axis: usize,
    /// The experts of stacked tensors stand one after the other along their axis, which is as long as all of their rows.
    #[serde(default)]
    pub flat: bool,
    /// Gate projections; experts without any have `up` and `down` alone.
    gate: Option<String>,
    /// Up projections.
    up: Option<String>,
    /// Gate and up projections in one tensor.
    gate_up: Option<String>,
    /// How the columns of `gate_up` are shared.
    fused: Option<Fused>,
    /// Down projections.
    down: String,
    /// Axes of a matrix.
    #[serde(default)]
    orientation: Orientation,
    /// Axes of a down projection, where they are others.
    down_orientation: Option<Orientation>,
    /// Names of further tensors of experts, stacked along their first axis, outside of `tensors`.
    #[serde(default, deserialize_with = "one_or_many")]
    pub further: Vec<Pattern>,
    /// How names of scales of quantised weights end, which are no parameters; in the whole checkpoint.
    #[serde(default)]
    scales: Vec<String>,
    /// How names of tensors with two 4-bit parameters a byte end.
    #[serde(default)]
    packed: Vec<String>,
}

/// Axes of a weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Orientation {
    /// `[outputs, inputs]`, as PyTorch's linear layers.
    #[default]
    OutIn,
    /// `[inputs, outputs]`.
    InOut,
}

/// How experts share tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stacking {
    /// They do not: every expert has its own.
    Separate,
    /// Along an axis of their own.
    Stacked,
    /// One after the other along an axis of their matrices.
    Flat,
}

/// How a matrix holds gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fused {
    /// All outputs of gate, then all of up.
    Halves,
    /// An output of gate and one of up in turn.
    Interleaved,
}

/// What a tensor of an expert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matrix {
    Gate,
    Up,
    GateUp(Fused),
    Down,
}

/// Tensors of a router. Of several names for one the first that is there holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RouterLayout {
    /// Rows, `[E, D]`.
    #[serde(deserialize_with = "one_or_many")]
    pub weight: Vec<Pattern>,
    /// Biases, `[E]` or `[1, E]`.
    #[serde(deserialize_with = "one_or_many")]
    pub bias: Vec<Pattern>,
    /// What the bias is added to.
    pub bias_of: RouterBias,
    /// Scale of the RMSNorm whose output the router reads.
    #[serde(deserialize_with = "one_or_many")]
    pub input_norm: Vec<Pattern>,
    /// The norm multiplies by `1 + w`, not by `w`.
    pub one_plus: bool,
    /// The router divides its input by the square root of D.
    pub divided_by_root_of_width: bool,
    /// Fields of the number of rows behind those of experts, of what is no expert: zero or identity experts, shared ones.
    #[serde(deserialize_with = "one_or_many")]
    pub further_rows: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RoutingLayout {
    /// From logits to scores.
    pub score: Choice<GateScore>,
    /// Gates of a token sum to 1. A softmax over the selected logits is a softmax over all, renormalised.
    pub renormalize: Choice<bool>,
    /// What makes a group of experts strong.
    pub groups_by: Choice<GroupStrength>,
    /// Why nothing can be foretold of what the router chooses.
    pub no_forecast: Option<String>,
}

/// A value, or that of a field of `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Choice<T> {
    Always(T),
    Field {
        /// Its names, of which the first that is there holds.
        #[serde(deserialize_with = "one_or_many")]
        field: Vec<String>,
        /// Where there is none.
        default: T,
        /// What its texts mean; all others are refused. Without texts the field is the value itself.
        #[serde(default = "BTreeMap::new")]
        values: BTreeMap<String, T>,
    },
}

/// Fields of `config.json`, in the whole file or in the section of the language model; a dot leads into a section. Of
/// alternatives all that are there are changed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigLayout {
    /// Experts of a layer.
    #[serde(deserialize_with = "one_or_many")]
    pub experts: Vec<String>,
    /// Experts of a token.
    #[serde(deserialize_with = "one_or_many")]
    pub top_k: Vec<String>,
    /// Groups of experts of which each token uses some.
    #[serde(deserialize_with = "one_or_many")]
    pub groups: Vec<String>,
    /// Groups that a token uses.
    #[serde(deserialize_with = "one_or_many")]
    pub top_groups: Vec<String>,
}

/// Dense models whose feed-forward networks become the experts of this family; all else they have in common.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DenseLayout {
    /// Values of `model_type` of the dense models.
    pub model_types: Vec<String>,
    /// Class of the grown model in transformers.
    pub architecture: String,
    /// Field of the hidden width of an expert, where it is not `intermediate_size`.
    pub d_expert: Option<String>,
    /// Fields of `config.json` that the family has and a dense model has not.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Tensors of a MoE layer that the family has to have and a dense model has not: names and shapes, where 0 is D. They are
    /// zero, and change nothing.
    #[serde(default)]
    pub zeros: Vec<(Pattern, Vec<usize>)>,
    /// Switches of the dense models that the family does not have, and that must be off.
    #[serde(default)]
    pub off: Vec<String>,
}

/// What is needed to run models of a family, beside the names that all of Llama's descendants share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelLayout {
    /// Those of the family's model types that it is about; without any it is about all.
    #[serde(default)]
    pub model_types: Vec<String>,
    /// Class in transformers.
    pub architecture: String,
    /// Field of the number of experts, where it is not the first of the family's.
    pub experts: Option<String>,
    /// Field of the hidden width of an expert.
    pub d_expert: String,
    /// Field of the hidden width of dense layers, where the family has such.
    pub d_ffn: Option<String>,
    /// Field of the number of dense layers before the first MoE layer, where the family has none behind it.
    pub first_dense: Option<String>,
    /// Normalisation of queries and keys.
    #[serde(default = "without_norm")]
    pub qk_norm: Choice<QkNorm>,
    /// Biases of attention's projections.
    #[serde(default = "all_or_no_biases")]
    pub attention_bias: Choice<AttentionBias>,
    /// Share of a head's channels that is turned where the configuration does not say; none for families that turn all.
    pub rotary_share: Option<f32>,
    /// Field of what gates are multiplied by.
    pub gate_scale: Option<String>,
    /// The shared expert.
    pub shared: Option<SharedLayout>,
}

/// The shared expert of a MoE layer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedLayout {
    /// What it is called within the layer's `mlp`.
    pub name: String,
    /// What the row is called there whose sigmoid weights it.
    pub gate: Option<String>,
    /// Field of its hidden width.
    pub width: Option<String>,
    /// Field of its hidden width in widths of an expert.
    pub count: Option<String>,
}

fn without_norm() -> Choice<QkNorm> {
    Choice::Always(QkNorm::None)
}

fn all_or_no_biases() -> Choice<AttentionBias> {
    let values = [("true", AttentionBias::All), ("false", AttentionBias::None)];
    Choice::Field {
        field: fields(&["attention_bias"]),
        default: AttentionBias::None,
        values: values.map(|(text, value)| (text.to_owned(), value)).into(),
    }
}

impl<T: Copy + PartialEq> Choice<T> {
    /// Whether a configuration can say so.
    pub fn can_be(&self, value: T) -> bool {
        match self {
            Self::Always(own) => *own == value,
            Self::Field { values, .. } if values.is_empty() => true,
            Self::Field {
                values, default, ..
            } => *default == value || values.values().any(|known| *known == value),
        }
    }

    /// The field that says so and what it says then; none if no field does.
    pub fn as_field(&self, value: T) -> Option<(&str, serde_json::Value)> {
        let Self::Field { field, values, .. } = self else {
            return None;
        };
        let (text, _) = values.iter().find(|(_, known)| **known == value)?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
        Some((field.first()?, value))
    }
}

/// How most families store experts: a tensor a matrix of each, or, as transformers holds them in memory and may save them,
/// stacked.
const STANDARD_EXPERTS: &str = r#"
    [[experts]]
    tensors = "*layers.{layer}.mlp.experts.{expert}.*"
    gate = "gate_proj.weight"
    up = "up_proj.weight"
    down = "down_proj.weight"
    scales = ["_scale_inv", "_scale"]

    [[experts]]
    tensors = "*layers.{layer}.mlp.experts.*"
    gate_up = "gate_up_proj"
    fused = "halves"
    down = "down_proj"
    scales = ["_scale_inv", "_scale"]
"#;

fn standard_experts() -> Vec<ExpertLayout> {
    #[derive(Deserialize)]
    struct Standard {
        experts: Vec<ExpertLayout>,
    }
    // A test reads it.
    toml::from_str(STANDARD_EXPERTS).map_or_else(|_| Vec::new(), |it: Standard| it.experts)
}

fn patterns(names: &[&str]) -> Vec<Pattern> {
    let parsed = names
        .iter()
        .map(|name| Pattern::try_from((*name).to_owned()));
    parsed.filter_map(Result::ok).collect()
}

fn fields(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Default for RouterLayout {
    fn default() -> Self {
        Self {
            weight: patterns(&["*layers.{layer}.mlp.gate.weight"]),
            bias: Vec::new(),
            bias_of: RouterBias::default(),
            input_norm: patterns(&["*layers.{layer}.post_attention_layernorm.weight"]),
            one_plus: false,
            divided_by_root_of_width: false,
            further_rows: Vec::new(),
        }
    }
}

impl Default for RoutingLayout {
    fn default() -> Self {
        Self {
            score: Choice::Always(GateScore::Softmax),
            renormalize: Choice::Field {
                field: fields(&["norm_topk_prob"]),
                default: false,
                values: BTreeMap::new(),
            },
            groups_by: Choice::Always(GroupStrength::TopTwo),
            no_forecast: None,
        }
    }
}

impl Default for ConfigLayout {
    fn default() -> Self {
        Self {
            experts: fields(&["num_experts", "num_local_experts", "n_routed_experts"]),
            top_k: fields(&["num_experts_per_tok"]),
            groups: Vec::new(),
            top_groups: Vec::new(),
        }
    }
}

impl Layout {
    /// The built-in families by name, read once.
    pub fn named() -> &'static [(&'static str, Self)] {
        static FAMILIES: LazyLock<Vec<(&str, Layout)>> = LazyLock::new(|| {
            let read = |&(name, text): &(_, &str)| {
                let layout = Layout::parse(Path::new(name), text);
                layout.ok().map(|layout| (name, layout))
            };
            // A test sees that all of them can be read.
            FILES.iter().filter_map(read).collect()
        });
        &FAMILIES
    }

    /// The built-in families.
    pub fn built_in() -> impl Iterator<Item = &'static Self> {
        Self::named().iter().map(|(_, layout)| layout)
    }

    /// Why nothing can be foretold of what its routers choose; none where it can.
    pub fn no_forecast(&self) -> Option<&str> {
        self.routing.no_forecast.as_deref()
    }

    /// In how many ways it stores experts.
    pub fn storages(&self) -> usize {
        self.experts.len()
    }

    /// Whether its routers have biases for the selection alone.
    pub(crate) fn has_selection_biases(&self) -> bool {
        self.router.bias_of == RouterBias::Selection && !self.router.bias.is_empty()
    }

    /// Those of its model types that can be imported, trained and exported.
    pub fn runs(&self) -> Vec<&str> {
        let types = self.model_types.iter().map(String::as_str);
        types.filter(|name| self.model(name).is_some()).collect()
    }

    /// What is needed to run models of a type; none if they cannot be.
    pub(crate) fn model(&self, model_type: &str) -> Option<&ModelLayout> {
        let is_of = |model: &&ModelLayout| {
            let mut types = model.model_types.iter();
            model.model_types.is_empty() || types.any(|own| own == model_type)
        };
        self.model.as_ref().filter(is_of)
    }

    /// The built-in family of a name, as `upcycle --families` has them, or the family in a TOML file.
    ///
    /// # Errors
    /// If there is neither, or the file has an error.
    pub fn named_or_read(name: &Path) -> Result<Self, HfError> {
        let mut families = Self::named().iter();
        match families.find(|(own, _)| Some(*own) == name.to_str()) {
            Some((_, layout)) => Ok(layout.clone()),
            None => Self::read(name),
        }
    }

    /// The family in a TOML file.
    ///
    /// # Errors
    /// If it cannot be read or has an error.
    pub fn read(path: &Path) -> Result<Self, HfError> {
        let text = fs::read_to_string(path).map_err(FileError::of("read", path))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, HfError> {
        let mut layout: Self = upcycle_files::from_toml(text)
            .map_err(|error| HfError::file(path, error.to_string()))?;
        let also = layout.also.iter_mut().map(|set| &mut set.experts);
        for experts in [&mut layout.experts].into_iter().chain(also) {
            if let Some(problem) = experts.iter().find_map(ExpertLayout::problem) {
                return Err(HfError::file(path, problem));
            }
            // A stacked tensor's name may be the beginning of that of a single expert's.
            experts.sort_by_key(|storage| !storage.tensors.has_expert());
        }
        Ok(layout)
    }

    /// The built-in family of a `model_type`.
    ///
    /// # Errors
    /// If it is none of them; `config` is the file that names it.
    pub fn of(model_type: &str, config: &Path) -> Result<Self, HfError> {
        let is_of = |layout: &&Self| layout.model_types.iter().any(|own| own == model_type);
        if let Some(layout) = Self::built_in().find(is_of) {
            return Ok(layout.clone());
        }
        let known = Self::built_in().flat_map(|layout| &layout.model_types);
        let known: Vec<_> = known.map(String::as_str).collect();
        Err(HfError::file(
            config,
            format!(
                "model_type `{model_type}` is not known; known are {}; for another family give the `layout` of one that it follows (`upcycle --families` lists them), or a file, see docs/huggingface.md",
                known.join(", ")
            ),
        ))
    }

    /// The built-in family that dense models of a `model_type` can become; none if there is none.
    pub(crate) fn of_dense(model_type: &str) -> Option<Self> {
        let is_source = |layout: &&Self| {
            let types = layout.dense_model_types();
            types.iter().any(|own| own == model_type)
        };
        Self::built_in().find(is_source).cloned()
    }

    /// Model types of dense models that can become models of this family.
    pub fn dense_model_types(&self) -> &[String] {
        self.dense.as_ref().map_or(&[], |dense| &dense.model_types)
    }

    /// The sets of experts in a layer, each with its router.
    pub(crate) fn sets(&self) -> Vec<(&[ExpertLayout], &RouterLayout)> {
        let first = (self.experts.as_slice(), &self.router);
        let also = self.also.iter();
        let also = also.map(|set| (set.experts.as_slice(), &set.router));
        [first].into_iter().chain(also).collect()
    }

    /// Parameters in a tensor of this name and so many elements.
    pub(crate) fn parameters(&self, name: &str, elements: u64) -> u64 {
        let storages = self.sets().into_iter().flat_map(|(storages, _)| storages);
        let mut counts = storages.map(|storage| storage.parameters(name, elements));
        let other = counts.find(|&count| count != elements);
        other.unwrap_or(elements)
    }
}

impl ExpertLayout {
    fn problem(&self) -> Option<&'static str> {
        let parts = (&self.gate, &self.up, &self.gate_up, &self.fused);
        match parts {
            _ if self.flat && self.axis != 0 => Some("[experts] `flat` goes with `axis` = 0"),
            (_, Some(_), None, None) | (None, None, Some(_), Some(_)) => None,
            _ => Some(
                "[experts] must name `up`, and `gate` where experts have one, or `gate_up` with `fused`",
            ),
        }
    }

    /// What the tensor of this name is; none for biases, scales and quantised weights.
    pub fn matrix(&self, name: &str) -> Option<Matrix> {
        let is = |part: &Option<String>| part.as_deref() == Some(name);
        if self.down == name {
            Some(Matrix::Down)
        } else if is(&self.gate) {
            Some(Matrix::Gate)
        } else if is(&self.up) {
            Some(Matrix::Up)
        } else if is(&self.gate_up) {
            self.fused.map(Matrix::GateUp)
        } else {
            None
        }
    }

    /// How experts share tensors.
    pub fn stacking(&self) -> Stacking {
        match (self.tensors.has_expert(), self.flat) {
            (true, _) => Stacking::Separate,
            (false, false) => Stacking::Stacked,
            (false, true) => Stacking::Flat,
        }
    }

    /// Axes of a matrix.
    pub fn orientation(&self, matrix: Matrix) -> Orientation {
        match matrix {
            Matrix::Down => self.down_orientation.unwrap_or(self.orientation),
            _ => self.orientation,
        }
    }

    /// What a matrix that has a tensor of its own is called.
    pub fn part(&self, matrix: Matrix) -> Option<&str> {
        self.names().find(|name| self.matrix(name) == Some(matrix))
    }

    /// Names of gate, up (or both in one) and down.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let first = [&self.gate, &self.up, &self.gate_up];
        first
            .into_iter()
            .flatten()
            .chain([&self.down])
            .map(String::as_str)
    }

    /// Whether experts have a gate projection.
    pub fn has_gate(&self) -> bool {
        self.gate.is_some() || self.gate_up.is_some()
    }

    /// Whether a tensor of this name is a scale of quantised weights.
    pub fn is_scale(&self, name: &str) -> bool {
        self.scales.iter().any(|end| name.ends_with(end.as_str()))
    }

    fn parameters(&self, name: &str, elements: u64) -> u64 {
        let packed = |end: &String| name.ends_with(end.as_str());
        if self.is_scale(name) {
            0
        } else if self.packed.iter().any(packed) {
            2 * elements
        } else {
            elements
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_families_are_well_formed_and_distinct() {
        assert_eq!(standard_experts().len(), 2);
        let router = RouterLayout::default();
        assert_eq!((router.weight.len(), router.input_norm.len()), (1, 1));
        assert_eq!(Layout::named().len(), FILES.len());
        let mut types: Vec<_> = Layout::built_in().flat_map(|l| &l.model_types).collect();
        let count = types.len();
        assert!(count > 60, "{count}");
        types.sort();
        types.dedup();
        assert_eq!(types.len(), count);
    }

    #[test]
    fn an_unknown_family_lists_the_known_ones() {
        let error = Layout::of("gpt2", Path::new("config.json")).unwrap_err();
        let text = error.to_string();
        for word in [
            "config.json",
            "gpt2",
            "mixtral",
            "llama4_text",
            "`layout` of one that it follows",
        ] {
            assert!(text.contains(word), "{text}");
        }
    }
}
