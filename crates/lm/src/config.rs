//! Shape of a model, as it stands in configuration files and checkpoints.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use upcycle_moe::{GroupLimit, LayerPattern, RouterConfig, ScoreFunction, SharedExpertConfig};

/// Shape of a decoder-only language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {
    /// Vocabulary, V. In a scale's file 0, or left out, is that of the data.
    #[serde(default)]
    pub vocab: usize,
    /// Longest sequence in tokens, S.
    pub context: usize,
    /// Model width, D.
    pub d_model: usize,
    /// Attention and feed-forward layers.
    pub layers: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key-value heads, G; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Width of a head, C. 0, or left out, is `d_model / heads`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub d_head: usize,
    /// Hidden width of dense layers; unused where every layer is MoE.
    #[serde(default)]
    pub d_ffn: usize,
    /// Which layers are MoE.
    #[serde(default)]
    pub pattern: LayerPattern,
    /// Experts of a MoE layer, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// Hidden width of an expert, F.
    pub d_expert: usize,
    /// From router logits to scores.
    #[serde(default)]
    pub score: ScoreFunction,
    /// Gates of a token sum to 1.
    #[serde(default = "yes")]
    pub renormalize: bool,
    /// Gates are multiplied by this.
    #[serde(default = "one")]
    pub gate_scale: f32,
    /// Groups of experts of which a token may use some (DeepSeek-V3); none, or left out: a token chooses among all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupLimit>,
    /// Hidden width of the expert that every token uses beside those chosen for it. 0, or left out: there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub d_shared: usize,
    /// The shared expert is weighted by a sigmoid of the token (Qwen2-MoE).
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared_gate: bool,
    /// Biases of attention's projections.
    #[serde(default, skip_serializing_if = "AttentionBias::is_none")]
    pub attention_bias: AttentionBias,
    /// RMSNorm of queries and keys before the rotary embedding.
    #[serde(default)]
    pub qk_norm: QkNorm,
    /// Share of a head's channels that the rotary embedding turns, the first ones; 1, or left out: all.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub rotary_share: f32,
    /// Base of the rotary frequencies.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
    /// Epsilon of RMSNorm.
    #[serde(default = "norm_eps")]
    pub norm_eps: f32,
    /// Standard deviation of embeddings at initialisation. Small models route poorly from small embeddings.
    #[serde(default = "embedding_std")]
    pub embedding_std: f32,
}

/// Largest size of anything: far above any model, far below what overflows.
const MOST: usize = 1 << 24;

fn is_zero(value: &usize) -> bool {
    *value == 0
}

fn is_one(value: &f32) -> bool {
    *value == 1.0
}

fn is_false(value: &bool) -> bool {
    !value
}

fn yes() -> bool {
    true
}

fn one() -> f32 {
    1.0
}

fn rope_theta() -> f32 {
    10_000.0
}

fn norm_eps() -> f32 {
    1e-5
}

fn embedding_std() -> f32 {
    0.5
}

/// What RMSNorm of queries and keys is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QkNorm {
    /// There is none (Mixtral).
    #[default]
    None,
    /// Each head, over C (Qwen3-MoE).
    Head,
    /// All heads at once, over `H * C` and `G * C` (OLMoE).
    AllHeads,
}

/// Which of attention's projections add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionBias {
    /// None of them.
    #[default]
    None,
    /// Those of queries, keys and values (Qwen2-MoE, GLM-4.5).
    Inputs,
    /// The output projection too (dots.llm1).
    All,
}

impl AttentionBias {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Kind of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// One feed-forward network for all tokens.
    Dense,
    /// Experts behind a router.
    Moe,
}

/// A model that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("model field `{field}`: {problem}")]
pub struct ConfigError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Default for LmConfig {
    /// A model of 0.1 million parameters that learns within minutes on a laptop: two MoE layers of 8 experts, 2 a token,
    /// sigmoid scores; bytes as tokens.
    fn default() -> Self {
        Self {
            vocab: 257,
            context: 64,
            d_model: 64,
            layers: 2,
            heads: 4,
            kv_heads: 4,
            d_head: 0,
            d_ffn: 0,
            pattern: LayerPattern::default(),
            experts: 8,
            top_k: 2,
            d_expert: 16,
            score: ScoreFunction::default(),
            renormalize: true,
            gate_scale: 1.0,
            groups: None,
            d_shared: 0,
            shared_gate: false,
            attention_bias: AttentionBias::default(),
            qk_norm: QkNorm::default(),
            rotary_share: 1.0,
            rope_theta: rope_theta(),
            norm_eps: norm_eps(),
            embedding_std: embedding_std(),
        }
    }
}

impl LmConfig {
    /// Kind of layer `index`.
    pub fn layer_kind(&self, index: usize) -> LayerKind {
        let moe = self.pattern.is_moe(index, self.layers);
        if moe {
            LayerKind::Moe
        } else {
            LayerKind::Dense
        }
    }

    /// The layers of a kind, in order.
    pub fn layers_of(&self, kind: LayerKind) -> impl Iterator<Item = usize> {
        (0..self.layers).filter(move |&index| self.layer_kind(index) == kind)
    }

    /// Number of MoE layers.
    pub fn moe_layers(&self) -> usize {
        self.layers_of(LayerKind::Moe).count()
    }

    /// Width of a head, C.
    pub fn head_dim(&self) -> usize {
        match self.d_head {
            0 => self.d_model / self.heads,
            width => width,
        }
    }

    /// Channels of a head that the rotary embedding turns.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim() as f32 * self.rotary_share) as usize
    }

    /// The shared expert of a MoE layer; none without.
    pub fn shared_expert(&self) -> Option<SharedExpertConfig> {
        (self.d_shared > 0).then_some(SharedExpertConfig {
            width: self.d_shared,
            gated: self.shared_gate,
        })
    }

    /// The router of a MoE layer.
    pub fn router(&self) -> RouterConfig {
        RouterConfig {
            d_model: self.d_model,
            experts: self.experts,
            top_k: self.top_k,
            score: self.score,
            renormalize: self.renormalize,
            scale: self.gate_scale,
            groups: (self.groups).and_then(|groups| groups.of_experts(self.experts)),
            two_level: None,
        }
    }

    /// Checks everything that building the model takes for granted.
    ///
    /// # Errors
    /// The first field that cannot be, and what would be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, problem: String| Err(ConfigError { field, problem });
        for (field, value) in [
            ("vocab", self.vocab),
            ("context", self.context),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
        ] {
            if value == 0 {
                return fail(field, "must be at least 1".into());
            }
        }
        for (field, value) in [
            ("vocab", self.vocab),
            ("context", self.context),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("d_head", self.d_head),
            ("d_ffn", self.d_ffn),
            ("experts", self.experts),
            ("d_expert", self.d_expert),
            ("d_shared", self.d_shared),
        ] {
            if value > MOST {
                return fail(field, format!("{value} is more than {MOST}"));
            }
        }
        if !self.d_head.is_multiple_of(2) {
            return fail("d_head", format!("{} must be even", self.d_head));
        }
        let whole = self.d_model.is_multiple_of(self.heads) && self.head_dim().is_multiple_of(2);
        if self.d_head == 0 && !whole {
            return fail(
                "heads",
                format!(
                    "d_model {} over {} heads must be an even whole number; or give d_head",
                    self.d_model, self.heads
                ),
            );
        }
        let turned = self.rotary_dim();
        if !(self.rotary_share > 0.0 && self.rotary_share <= 1.0)
            || turned == 0
            || !turned.is_multiple_of(2)
        {
            return fail(
                "rotary_share",
                format!(
                    "{} of {} channels a head must be an even whole number of them, and at most all",
                    self.rotary_share,
                    self.head_dim()
                ),
            );
        }
        if self.shared_gate && self.d_shared == 0 {
            return fail(
                "shared_gate",
                "there is no shared expert; set d_shared".into(),
            );
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail(
                "kv_heads",
                format!(
                    "{} heads are not a multiple of {}",
                    self.heads, self.kv_heads
                ),
            );
        }
        let moe_layers = self.moe_layers();
        if moe_layers < self.layers && self.d_ffn == 0 {
            return fail("d_ffn", "dense layers need a hidden width".into());
        }
        if let LayerPattern::List(list) = &self.pattern
            && let Some(index) = list.iter().find(|&&index| index >= self.layers)
        {
            return fail(
                "pattern",
                format!(
                    "layer {index} does not exist, the last is {}",
                    self.layers - 1
                ),
            );
        }
        if moe_layers > 0 {
            for (field, value) in [("experts", self.experts), ("d_expert", self.d_expert)] {
                if value == 0 {
                    return fail(field, "must be at least 1".into());
                }
            }
            if self.top_k == 0 || self.top_k > self.experts {
                return fail(
                    "top_k",
                    format!(
                        "K = {} must lie between 1 and the number of experts, {}",
                        self.top_k, self.experts
                    ),
                );
            }
            let problem = (self.groups).and_then(|it| it.problem(self.experts, self.top_k));
            if let Some(problem) = problem {
                return fail("groups", problem);
            }
        }
        for (field, value) in [
            ("rope_theta", self.rope_theta),
            ("norm_eps", self.norm_eps),
            ("embedding_std", self.embedding_std),
            ("gate_scale", self.gate_scale),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return fail(field, format!("{value} must be a positive number"));
            }
        }
        Ok(())
    }
}
