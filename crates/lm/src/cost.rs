//! What a model costs: parameters, FLOPs and bytes, exactly where that is possible.

use serde::{Deserialize, Serialize};

use upcycle_kernels::Precision;

use crate::config::{AttentionBias, LayerKind, LmConfig, QkNorm};

/// Costs of a model, from its configuration alone.
#[derive(Debug, Clone, Copy)]
pub struct CostModel<'a> {
    config: &'a LmConfig,
}

/// What computes a training step, as far as its memory depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// A CPU, in f32. What its kernels compute at a time is not worth counting.
    Cpu,
    /// A GPU with the kernels of this project.
    Gpu {
        /// Precision of matrix products.
        precision: Precision,
        /// Logits or scores that are computed at a time.
        block: usize,
    },
}

/// Exact numbers of trained parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterCount {
    /// Input and output embedding.
    pub embeddings: u64,
    /// All attention layers.
    pub attention: u64,
    /// Dense feed-forward layers.
    pub dense: u64,
    /// Routers.
    pub routers: u64,
    /// All experts.
    pub experts: u64,
    /// The experts that one token uses.
    pub active_experts: u64,
    /// Shared experts, with the rows that weight them.
    #[serde(default)]
    pub shared: u64,
    /// Normalisation scales.
    pub norms: u64,
}

/// Estimated peak memory of a training step, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// Parameters in f32.
    pub weights: u64,
    /// Their gradients in f32.
    pub gradients: u64,
    /// Both Adam moments in f32.
    pub moments: u64,
    /// What the backward pass keeps of the forward pass.
    pub activations: u64,
    /// Blocks of logits and scores while they are computed.
    pub blocks: u64,
    /// What several devices send each other, while it is sent; 0 for one device.
    #[serde(default)]
    pub transients: u64,
}

impl MemoryEstimate {
    /// The same, where gradients are added to others.
    #[must_use]
    pub fn with_two_gradients(self) -> Self {
        Self {
            gradients: 2 * self.weights,
            ..self
        }
    }
}

impl ParameterCount {
    /// All parameters.
    pub fn total(&self) -> u64 {
        self.embeddings + self.non_embedding()
    }

    /// All parameters but the embeddings.
    pub fn non_embedding(&self) -> u64 {
        self.attention + self.dense + self.routers + self.experts + self.shared + self.norms
    }

    /// Parameters that one token uses, embeddings included.
    pub fn active(&self) -> u64 {
        self.total() - self.experts + self.active_experts
    }

    /// Parameters that one token uses, without embeddings.
    pub fn active_non_embedding(&self) -> u64 {
        self.active() - self.embeddings
    }
}

impl MemoryEstimate {
    /// The sum, in bytes.
    pub fn total(&self) -> u64 {
        self.weights
            + self.gradients
            + self.moments
            + self.activations
            + self.blocks
            + self.transients
    }
}

impl<'a> CostModel<'a> {
    /// The costs of `config`.
    pub fn new(config: &'a LmConfig) -> Self {
        Self { config }
    }

    /// Exact parameter counts. Selection biases and tie-breaks are state, not parameters.
    pub fn parameters(&self) -> ParameterCount {
        let config = self.config;
        let (d, c) = (config.d_model as u64, config.head_dim() as u64);
        let layers = config.layers as u64;
        let moe_layers = config.moe_layers() as u64;
        let expert = 3 * d * config.d_expert as u64;
        let qk_norms = match config.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => 2 * c,
            QkNorm::AllHeads => c * (config.heads + config.kv_heads) as u64,
        };
        let (heads, kv_heads) = (config.heads as u64, config.kv_heads as u64);
        let biases = match config.attention_bias {
            AttentionBias::None => 0,
            AttentionBias::Inputs => c * (heads + 2 * kv_heads),
            AttentionBias::All => c * (heads + 2 * kv_heads) + d,
        };
        let shared_gate = if config.shared_gate { d } else { 0 };
        ParameterCount {
            embeddings: 2 * config.vocab as u64 * d,
            attention: layers * (2 * d * c * (heads + kv_heads) + biases),
            dense: (layers - moe_layers) * 3 * d * config.d_ffn as u64,
            routers: moe_layers * d * config.experts as u64,
            experts: moe_layers * config.experts as u64 * expert,
            active_experts: moe_layers * config.top_k as u64 * expert,
            shared: moe_layers * (3 * d * config.d_shared as u64 + shared_gate),
            norms: layers * (2 * d + qk_norms) + d,
        }
    }

    /// Bytes of the largest tensor in f32: a matrix of all experts of a layer, of a dense network, or of the vocabulary.
    pub fn largest_tensor(&self) -> u64 {
        self.largest_tensor_with(self.config.experts)
    }

    /// The same where so many experts of a layer are in one tensor.
    pub fn largest_tensor_with(&self, experts: usize) -> u64 {
        let config = self.config;
        let experts = match config.moe_layers() {
            0 => 0,
            _ => experts * config.d_expert,
        };
        let width = config.heads * config.head_dim();
        let rows = [experts, config.d_ffn, config.d_shared, config.vocab, width];
        4 * (rows.into_iter().max().unwrap_or(0) * config.d_model) as u64
    }

    /// Training FLOPs of one token, forward and backward, without the vocabulary head (as the paper counts):
    /// `6 * active + 6 * layers * context * d_model`, and 8 for each router weight.
    ///
    /// The first two terms are the paper's stated formula; its four published totals are met to all printed digits
    /// only with the third, which is small (0.7 to 1.4 %).
    pub fn train_flops_per_token(&self, context: usize) -> f64 {
        let parameters = self.parameters();
        let width = self.config.heads * self.config.head_dim();
        let attention = self.config.layers * context * width;
        6.0 * parameters.active_non_embedding() as f64
            + 6.0 * attention as f64
            + 8.0 * parameters.routers as f64
    }

    /// Training FLOPs of one token in the vocabulary head.
    pub fn head_flops_per_token(&self) -> f64 {
        3.0 * self.parameters().embeddings as f64
    }

    /// Peak memory of a training step over `tokens` tokens in sequences of `context`, with AdamW, on one device.
    ///
    /// Without [`copies`](Self::copies). Attention keeps no scores and the head no logits; a GPU computes them in blocks, of which four are alive at a time. Weights,
    /// gradients and moments are exact, the rest is an estimate. With `recompute` layers keep their inputs, and the rest of one
    /// layer at a time.
    pub fn memory(
        &self,
        tokens: usize,
        context: usize,
        processor: Processor,
        recompute: bool,
    ) -> MemoryEstimate {
        let config = self.config;
        let parameters = self.parameters();
        let weights = 4 * parameters.total();
        let d = config.d_model;
        let layers = (0..config.layers).map(|index| self.kept(config.layer_kind(index), processor));
        let bytes = match recompute {
            // Beside them are the gradients of a layer's input and output.
            true => 4 * (config.layers * d + 2 * d) + layers.max().unwrap_or(0),
            false => 4 * d + layers.sum::<usize>(),
        };
        let block = match processor {
            Processor::Cpu => 0,
            Processor::Gpu { block, .. } => block,
        };
        let largest = tokens.saturating_mul(config.vocab.max(config.heads * context));
        MemoryEstimate {
            weights,
            gradients: weights,
            moments: 2 * weights,
            activations: (tokens * bytes) as u64,
            blocks: 4 * 4 * block.min(largest) as u64,
            transients: 0,
        }
    }

    /// Bytes that a layer keeps of every token for the backward pass.
    fn kept(&self, kind: LayerKind, processor: Processor) -> usize {
        let config = self.config;
        let (d, k) = (config.d_model, config.top_k);
        let [queries, keys] =
            [config.heads, config.kv_heads].map(|heads| heads * config.head_dim());
        let in_bf16 = matches!(
            processor,
            Processor::Gpu {
                precision: Precision::Bf16,
                ..
            }
        );
        // Of what products take, each keeps a copy in bf16; in f32 they share it.
        let operand = |width: usize, products: usize| match in_bf16 {
            true => 2 * products * width,
            false => 4 * width,
        };
        let network = |width: usize| match processor {
            // Beside what is kept, its gradients on the way back are most of a step's peak.
            Processor::Cpu => 4 * 6 * width,
            Processor::Gpu { .. } => 4 * 4 * width + operand(width, 1),
        };
        let input = 4 * d;
        // Queries, keys, values, and the result, which is kept in f32 beside what the projection takes.
        let result = if in_bf16 { 4 * queries } else { 0 };
        let norms = match config.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head | QkNorm::AllHeads => 4 * (queries + keys),
        };
        let heads = 2 * operand(queries, 1) + 2 * operand(keys, 1) + result + norms;
        let attention = input + operand(d, 3) + heads;
        let ffn = match kind {
            LayerKind::Dense => operand(d, 2) + network(config.d_ffn),
            LayerKind::Moe => {
                let expert = match processor {
                    Processor::Cpu => 4 * (d + 3 * config.d_expert),
                    Processor::Gpu { .. } => 4 * (2 * config.d_expert + 6),
                };
                // The router computes in f32.
                let own = if in_bf16 { operand(d, 1) } else { 0 };
                let shared = match (config.d_shared, in_bf16) {
                    (0, _) => 0,
                    (width, true) => operand(d, 2) + network(width),
                    (width, false) => network(width),
                };
                4 * d + own + 4 * 3 * config.experts + k * expert + shared
            }
        };
        attention + input + ffn
    }

    /// Bytes of the weights in bf16 that a pass keeps beside the activations, on a device that holds one of `blocks` equal blocks of
    /// the experts.
    pub fn copies(&self, processor: Processor, recompute: bool, blocks: u64) -> u64 {
        let Processor::Gpu {
            precision: Precision::Bf16,
            ..
        } = processor
        else {
            return 0;
        };
        let count = self.parameters();
        let moe_layers = self.config.moe_layers() as u64;
        let dense_layers = self.config.layers as u64 - moe_layers;
        let moe = count.shared + count.experts / blocks;
        let head = count.embeddings / 2;
        if !recompute {
            return 2 * (count.attention + count.dense + moe + head);
        }
        // Those of one layer at a time, or of the head.
        let each = |all: u64, layers: u64| all / layers.max(1);
        let attention = each(count.attention, dense_layers + moe_layers);
        let network = each(count.dense, dense_layers).max(each(moe, moe_layers));
        2 * head.max(attention + network)
    }
}
