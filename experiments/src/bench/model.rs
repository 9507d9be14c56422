//! The models of the benchmark.

use anyhow::{Result, bail};
use upcycle_lab::presets;
use upcycle_lm::{AttentionBias, CostModel, LmConfig};
use upcycle_moe::LayerPattern;
use upcycle_train::BatchConfig;

use super::cases::Sizes;

/// Vocabulary of a scale that takes that of its data.
const VOCAB: usize = 256;

/// A model of the benchmark, and the tokens of one forward pass.
#[derive(Debug, Clone)]
pub struct Model {
    /// For tables.
    pub name: String,
    /// Its shape.
    pub config: LmConfig,
    /// Tokens of a step.
    pub batch: BatchConfig,
}

const T: Sizes = Sizes {
    rows: 16,
    context: 128,
    d_model: 128,
    heads: 4,
    experts: 16,
    top_k: 2,
    d_expert: 128,
    vocab: 256,
};
const S: Sizes = Sizes {
    rows: 8,
    context: 256,
    d_model: 256,
    heads: 8,
    experts: 32,
    top_k: 4,
    d_expert: 256,
    vocab: 4096,
};
const W: Sizes = Sizes {
    rows: 2,
    context: 512,
    d_model: 256,
    heads: 2,
    experts: 256,
    top_k: 8,
    d_expert: 384,
    vocab: 8192,
};
/// The paper's 154M: W with more tokens.
const PAPER: Sizes = Sizes {
    rows: 8,
    context: 1024,
    ..W
};

impl Model {
    /// Model S.
    pub fn s() -> Self {
        Self::of("s", 6, S)
    }

    /// T, S, W or the paper's 154M, in any case, or a scale by name or TOML file.
    ///
    /// # Errors
    /// If there is no such scale, or it has an error.
    pub fn named(name: &str) -> Result<Self> {
        Ok(match name.to_lowercase().as_str() {
            "t" => Self::of("t", 4, T),
            "s" => Self::s(),
            "w" => Self::of("w", 4, W),
            "154m" => Self::of("154m", 4, PAPER),
            _ => {
                let mut scale = presets::scale(name)?;
                if scale.model.vocab == 0 {
                    scale.model.vocab = VOCAB;
                }
                scale.model.validate()?;
                Self {
                    name: scale.name,
                    batch: BatchConfig {
                        rows: scale.training.rows,
                        context: scale.model.context,
                        accumulation: scale.training.accumulation,
                    },
                    config: scale.model,
                }
            }
        })
    }

    /// A model whose layers are all MoE.
    fn of(name: &str, layers: usize, sizes: Sizes) -> Self {
        Self {
            name: name.to_owned(),
            config: LmConfig {
                vocab: sizes.vocab,
                context: sizes.context,
                d_model: sizes.d_model,
                layers,
                heads: sizes.heads,
                kv_heads: sizes.heads,
                d_head: 0,
                d_ffn: 0,
                pattern: LayerPattern::AllMoe,
                experts: sizes.experts,
                top_k: sizes.top_k,
                d_expert: sizes.d_expert,
                ..LmConfig::default()
            },
            batch: BatchConfig {
                rows: sizes.rows,
                context: sizes.context,
                accumulation: 1,
            },
        }
    }

    /// The sizes of its operations.
    pub fn sizes(&self) -> Sizes {
        let config = &self.config;
        Sizes {
            rows: self.batch.rows,
            context: self.batch.context,
            d_model: config.d_model,
            heads: config.heads,
            experts: config.experts,
            top_k: config.top_k,
            d_expert: config.d_expert,
            vocab: config.vocab,
        }
    }

    /// Training FLOPs of a token: 6 an active parameter, head included, and `6 * layers * context * d_model`.
    pub fn flops_per_token(&self) -> f64 {
        let cost = CostModel::new(&self.config);
        let width = self.config.heads * self.config.head_dim();
        let attention = 6 * self.config.layers * self.batch.context * width;
        6.0 * cost.parameters().active_non_embedding() as f64
            + cost.head_flops_per_token()
            + attention as f64
    }

    /// The sizes as flags of the PyTorch script.
    ///
    /// # Errors
    /// If the script's model cannot be of this shape.
    pub fn torch_flags(&self) -> Result<Vec<String>> {
        let config = &self.config;
        let plain = config.pattern == LayerPattern::AllMoe
            && config.kv_heads == config.heads
            && config.d_shared == 0
            && config.attention_bias == AttentionBias::None
            && config.heads * config.head_dim() == config.d_model
            && self.batch.accumulation == 1;
        if !plain {
            bail!(
                "the PyTorch script has MoE layers alone, without shared experts, as many key-value heads as heads, no biases, and one pass a step; the model `{}` has not: leave `--compare-torch` out",
                self.name
            );
        }
        let flags = [
            ("--vocab", config.vocab),
            ("--d-model", config.d_model),
            ("--layers", config.layers),
            ("--heads", config.heads),
            ("--experts", config.experts),
            ("--top-k", config.top_k),
            ("--d-expert", config.d_expert),
            ("--batch", self.batch.rows),
            ("--seq", self.batch.context),
        ];
        Ok(flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()])
            .collect())
    }
}
