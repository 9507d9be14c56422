//! Families of checkpoints, as data: which tensors are experts and routers, and what the configuration calls things.

use std::{fs, path::Path};

use serde::Deserialize;
use upcycle_files::FileError;
use upcycle_lm::QkNorm;
use upcycle_moe::ScoreFunction;

use crate::{error::HfError, pattern::Pattern};

const BUILT_IN: [&str; 7] = [
    include_str!("../layouts/mixtral.toml"),
    include_str!("../layouts/olmoe.toml"),
    include_str!("../layouts/qwen2_moe.toml"),
    include_str!("../layouts/qwen3_moe.toml"),
    include_str!("../layouts/deepseek_v3.toml"),
    include_str!("../layouts/gpt_oss.toml"),
    include_str!("../layouts/llama4.toml"),
];

/// A family of checkpoints, as it stands in a TOML file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Name for people.
    pub name: String,
    /// Values of `model_type` in `config.json` that are of this family.
    pub model_types: Vec<String>,
    pub(crate) experts: ExpertLayout,
    pub(crate) router: RouterLayout,
    pub(crate) routing: RoutingLayout,
    pub(crate) config: ConfigLayout,
    pub(crate) model: Option<ModelLayout>,
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
    /// Gate projections.
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
    pub orientation: Orientation,
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

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouterLayout {
    /// Rows, `[E, D]`.
    pub weight: Pattern,
    /// Biases, `[E]`.
    pub bias: Option<Pattern>,
    /// What the bias is added to.
    #[serde(default)]
    pub bias_of: BiasOf,
    /// Scale of the RMSNorm whose output the router reads.
    pub input_norm: Option<Pattern>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BiasOf {
    /// Logits: it changes scores.
    #[default]
    Logits,
    /// Scores, for selection only.
    Selection,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoutingLayout {
    /// From logits to scores.
    pub score: ScoreFunction,
    /// Gates of a token sum to 1. A softmax over the selected logits is a softmax over all, renormalised.
    pub renormalize: Renormalize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Renormalize {
    Always(bool),
    Field { field: String, default: bool },
}

/// Fields of `config.json`; a dot leads into a section. Of alternatives all that are there are changed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigLayout {
    /// Experts of a layer.
    pub experts: Vec<String>,
    /// Experts of a token.
    pub top_k: Vec<String>,
    /// Groups of experts of which each token uses some.
    pub groups: Option<String>,
    /// Groups that a token uses.
    pub top_groups: Option<String>,
}

/// What is needed to run the family, beside the names that all of Llama's descendants share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelLayout {
    /// Class in transformers.
    pub architecture: String,
    /// Field of the hidden width of an expert.
    pub d_expert: String,
    /// Field of the hidden width of dense layers, where the family has such.
    pub d_ffn: Option<String>,
    /// Normalisation of queries and keys.
    #[serde(default)]
    pub qk_norm: QkNorm,
}

impl Layout {
    /// The built-in families.
    ///
    /// # Errors
    /// Never, but for a broken build.
    pub fn built_in() -> Result<Vec<Self>, HfError> {
        BUILT_IN
            .iter()
            .map(|text| Self::parse(Path::new("built-in layout"), text))
            .collect()
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
        let layout: Self = toml::from_str(text)
            .map_err(|error| HfError::file(path, error.to_string().trim_end()))?;
        let experts = &layout.experts;
        let parts = (&experts.gate, &experts.up, &experts.gate_up, &experts.fused);
        if !matches!(
            parts,
            (Some(_), Some(_), None, None) | (None, None, Some(_), Some(_))
        ) {
            let problem = "[experts] must name `gate` and `up`, or `gate_up` with `fused`";
            return Err(HfError::file(path, problem));
        }
        Ok(layout)
    }

    /// The built-in family of a `model_type`.
    ///
    /// # Errors
    /// If it is none of them; `config` is the file that names it.
    pub fn of(model_type: &str, config: &Path) -> Result<Self, HfError> {
        let mut known = Vec::new();
        for layout in Self::built_in()? {
            if layout.model_types.iter().any(|known| known == model_type) {
                return Ok(layout);
            }
            known.extend(layout.model_types);
        }
        Err(HfError::file(
            config,
            format!(
                "model_type `{model_type}` is not known; known are {}; for another family give a `layout` file, see docs/huggingface.md",
                known.join(", ")
            ),
        ))
    }
}

impl ExpertLayout {
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

    /// Parameters in a tensor of this name and so many elements.
    pub fn parameters(&self, name: &str, elements: u64) -> u64 {
        let is = |ends: &[String]| ends.iter().any(|end| name.ends_with(end.as_str()));
        if is(&self.scales) {
            0
        } else if is(&self.packed) {
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
        let layouts = Layout::built_in().unwrap();
        let mut types: Vec<_> = layouts.iter().flat_map(|l| &l.model_types).collect();
        assert_eq!(types.len(), 8);
        types.sort();
        types.dedup();
        assert_eq!(types.len(), 8);
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
            "`layout` file",
        ] {
            assert!(text.contains(word), "{text}");
        }
    }
}
