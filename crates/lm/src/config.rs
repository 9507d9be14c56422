//! Shape of a model, as it stands in configuration files and checkpoints.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use upcycle_moe::{ExpertSources, Growth, RouterConfig, ScoreFunction, TwoLevelConfig};

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
    /// RMSNorm of queries and keys before the rotary embedding.
    #[serde(default)]
    pub qk_norm: QkNorm,
    /// Base of the rotary frequencies.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
    /// Epsilon of RMSNorm.
    #[serde(default = "norm_eps")]
    pub norm_eps: f32,
    /// Standard deviation of embeddings at initialisation. Small models route poorly from small embeddings.
    #[serde(default = "embedding_std")]
    pub embedding_std: f32,
    /// Two-level selection of an upcycled model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub two_level: Option<TwoLevel>,
}

/// Largest size of anything: far above any model, far below what overflows.
const MOST: usize = 1 << 24;

fn is_zero(value: &usize) -> bool {
    *value == 0
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

/// Two-level selection in all MoE layers of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoLevel {
    /// What was grown with it, first growth first.
    pub growths: Vec<TwoLevelGrowth>,
    /// Weight of the loss that teaches the router the split of the tie-breaks, see
    /// [`Router::separation_loss`](upcycle_moe::Router::separation_loss).
    #[serde(default)]
    pub separation: f32,
    /// When it ends; it is kept for good without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
}

/// One growth of all MoE layers of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoLevelGrowth {
    /// Source of every expert among the experts before, for each MoE layer.
    pub sources: Vec<ExpertSources>,
    /// Weight of the tie-break among replicas.
    pub strength: f32,
}

/// How two-level selection becomes a plain top K over some steps of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// How the hold on twins goes from 1 to 0.
    pub shape: ReleaseShape,
    /// Step at which it starts.
    pub from: u64,
    /// Steps until twins are free.
    pub steps: u64,
}

/// How the hold on twins goes from 1 to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseShape {
    /// Entire until the end, then none.
    AtOnce,
    /// In a straight line.
    Linear,
    /// As half a cosine.
    Cosine,
}

impl Release {
    /// Hold on twins at a step, from 1 to 0.
    pub fn hold(&self, step: u64) -> f32 {
        let done = step.saturating_sub(self.from) as f64 / self.steps.max(1) as f64;
        let hold = match self.shape {
            _ if done >= 1.0 => 0.0,
            ReleaseShape::AtOnce => 1.0,
            ReleaseShape::Linear => 1.0 - done,
            ReleaseShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        hold as f32
    }
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

/// Which layers are dense and which are MoE.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerPattern {
    /// Every layer is MoE.
    #[default]
    AllMoe,
    /// Dense and MoE layers alternate, dense first.
    Interleaved,
    /// The first and the last layer are dense, the others MoE.
    DenseEnds,
    /// Every layer is dense.
    AllDense,
    /// These layers are MoE, counted from 0.
    List(Vec<usize>),
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

impl LmConfig {
    /// Kind of layer `index`.
    pub fn layer_kind(&self, index: usize) -> LayerKind {
        let moe = match &self.pattern {
            LayerPattern::AllMoe => true,
            LayerPattern::Interleaved => index % 2 == 1,
            LayerPattern::DenseEnds => index != 0 && index + 1 != self.layers,
            LayerPattern::AllDense => false,
            LayerPattern::List(moe) => moe.contains(&index),
        };
        if moe {
            LayerKind::Moe
        } else {
            LayerKind::Dense
        }
    }

    /// Number of MoE layers.
    pub fn moe_layers(&self) -> usize {
        (0..self.layers)
            .filter(|&index| self.layer_kind(index) == LayerKind::Moe)
            .count()
    }

    /// Width of a head, C.
    pub fn head_dim(&self) -> usize {
        match self.d_head {
            0 => self.d_model / self.heads,
            width => width,
        }
    }

    /// The router of MoE layer `layer` (counted among MoE layers).
    pub fn router(&self, layer: usize) -> RouterConfig {
        RouterConfig {
            d_model: self.d_model,
            experts: self.experts,
            top_k: self.top_k,
            score: self.score,
            renormalize: self.renormalize,
            scale: self.gate_scale,
            two_level: self.two_level.as_ref().map(|two_level| TwoLevelConfig {
                growths: two_level
                    .growths
                    .iter()
                    .map(|growth| Growth {
                        sources: growth.sources[layer].clone(),
                        strength: growth.strength,
                    })
                    .collect(),
                hold: 1.0,
            }),
        }
    }

    /// The shape at a step: a [release](Release) that is over leaves a plain top K.
    pub fn at_step(&self, step: u64) -> Self {
        let mut config = self.clone();
        let release = config.two_level.as_ref().and_then(|it| it.release);
        if release.is_some_and(|release| release.hold(step) == 0.0) {
            config.two_level = None;
        }
        config
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
        }
        if let Some(two_level) = &self.two_level {
            self.validate_two_level(two_level, moe_layers)?;
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

    /// Every growth must start from the experts of the one before, and the last end at this model's.
    fn validate_two_level(
        &self,
        two_level: &TwoLevel,
        moe_layers: usize,
    ) -> Result<(), ConfigError> {
        let fail = |problem| {
            Err(ConfigError {
                field: "two_level",
                problem,
            })
        };
        if two_level.growths.is_empty() {
            return fail("names no growth; leave it out".into());
        }
        for growth in &two_level.growths {
            if growth.sources.len() != moe_layers {
                return fail(format!(
                    "names sources for {} layers, the model has {moe_layers} MoE layers",
                    growth.sources.len()
                ));
            }
        }
        for layer in 0..moe_layers {
            let mut growths = two_level
                .growths
                .iter()
                .map(|growth| &growth.sources[layer]);
            let first = growths.clone().next().map_or(0, ExpertSources::count);
            let last = growths.try_fold(first, |experts, growth| {
                (growth.count() == experts).then(|| growth.experts())
            });
            if last != Some(self.experts) || first < self.top_k {
                return fail(format!(
                    "the growths of MoE layer {layer} do not lead from at least top_k = {} to experts = {}",
                    self.top_k, self.experts
                ));
            }
        }
        Ok(())
    }
}
