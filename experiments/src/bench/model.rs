//! The models of the benchmark.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::BatchConfig;

use super::cases::Sizes;

/// A model of the benchmark; all layers are MoE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// 4 layers, d 128, 16 experts of width 128, K 2, vocabulary 256, 16 x 128 tokens.
    T,
    /// 6 layers, d 256, 32 experts of width 256, K 4, vocabulary 4096, 8 x 256 tokens.
    S,
    /// 4 layers, d 256, 256 experts of width 384, K 8, vocabulary 8192, 2 x 512 tokens.
    W,
    /// The paper's 154M: W with 8 x 1024 tokens; for a GPU.
    #[value(name = "154m")]
    #[serde(rename = "154m")]
    Paper154M,
}

const WIDE: Sizes = Sizes {
    rows: 2,
    context: 512,
    d_model: 256,
    heads: 2,
    experts: 256,
    top_k: 8,
    d_expert: 384,
    vocab: 8192,
};

impl Model {
    /// Layers, and the sizes of everything else.
    pub fn sizes(self) -> (usize, Sizes) {
        match self {
            Self::T => (
                4,
                Sizes {
                    rows: 16,
                    context: 128,
                    d_model: 128,
                    heads: 4,
                    experts: 16,
                    top_k: 2,
                    d_expert: 128,
                    vocab: 256,
                },
            ),
            Self::S => (
                6,
                Sizes {
                    rows: 8,
                    context: 256,
                    d_model: 256,
                    heads: 8,
                    experts: 32,
                    top_k: 4,
                    d_expert: 256,
                    vocab: 4096,
                },
            ),
            Self::W => (4, WIDE),
            Self::Paper154M => (
                4,
                Sizes {
                    rows: 8,
                    context: 1024,
                    ..WIDE
                },
            ),
        }
    }

    /// The language model.
    pub fn config(self) -> LmConfig {
        let (layers, sizes) = self.sizes();
        LmConfig {
            vocab: sizes.vocab,
            context: sizes.context,
            d_model: sizes.d_model,
            layers,
            heads: sizes.heads,
            kv_heads: sizes.heads,
            d_head: 0,
            d_ffn: 0,
            pattern: Default::default(),
            experts: sizes.experts,
            top_k: sizes.top_k,
            d_expert: sizes.d_expert,
            ..LmConfig::default()
        }
    }

    /// Tokens of one forward pass.
    pub fn batch(self) -> BatchConfig {
        let (_, sizes) = self.sizes();
        BatchConfig {
            rows: sizes.rows,
            context: sizes.context,
            accumulation: 1,
        }
    }

    /// Training FLOPs of a token: 6 an active parameter, head included, and `6 * layers * context * d_model`.
    pub fn flops_per_token(self) -> f64 {
        let (layers, sizes) = self.sizes();
        let config = self.config();
        let cost = CostModel::new(&config);
        let attention = 6 * layers * sizes.context * sizes.d_model;
        6.0 * cost.parameters().active_non_embedding() as f64
            + cost.head_flops_per_token()
            + attention as f64
    }

    /// The sizes as flags of the PyTorch script.
    pub fn torch_flags(self) -> Vec<String> {
        let (layers, sizes) = self.sizes();
        [
            ("--vocab", sizes.vocab),
            ("--d-model", sizes.d_model),
            ("--layers", layers),
            ("--heads", sizes.heads),
            ("--experts", sizes.experts),
            ("--top-k", sizes.top_k),
            ("--d-expert", sizes.d_expert),
            ("--batch", sizes.rows),
            ("--seq", sizes.context),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()])
        .collect()
    }
}
