//! Causal grouped-query attention with rotary positions.

use std::ops::Range;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use upcycle_kernels::{MoeBackend, Precision, RotaryAngles};
use upcycle_moe::Initializer;

use crate::{
    config::{AttentionBias, LmConfig, QkNorm},
    key_values::KeyValues,
    norm::RmsNorm,
};

/// Grouped-query attention ([Ainslie et al., 2023](https://arxiv.org/abs/2305.13245)).
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Query projection, `[D, H * C]`.
    pub query: Param<Tensor<B, 2>>,
    /// Key projection, `[D, G * C]`.
    pub key: Param<Tensor<B, 2>>,
    /// Value projection, `[D, G * C]`.
    pub value: Param<Tensor<B, 2>>,
    /// Output projection, `[H * C, D]`.
    pub output: Param<Tensor<B, 2>>,
    /// Bias of the query projection, `[H * C]`.
    pub query_bias: Option<Param<Tensor<B, 1>>>,
    /// Bias of the key projection, `[G * C]`.
    pub key_bias: Option<Param<Tensor<B, 1>>>,
    /// Bias of the value projection, `[G * C]`.
    pub value_bias: Option<Param<Tensor<B, 1>>>,
    /// Bias of the output projection, `[D]`.
    pub output_bias: Option<Param<Tensor<B, 1>>>,
    /// Norm of queries, over C or `H * C`.
    pub query_norm: Option<RmsNorm<B>>,
    /// Norm of keys, over C or `G * C`.
    pub key_norm: Option<RmsNorm<B>>,
    heads: usize,
    kv_heads: usize,
}

impl<B: Backend> Attention<B> {
    /// Attention named `name`, with fan-in scaled normal weights.
    pub fn init(
        name: &str,
        config: &LmConfig,
        residual_scale: f32,
        initializer: &Initializer,
        device: &B::Device,
    ) -> Self {
        let (d, c) = (config.d_model, config.head_dim());
        let (q, kv) = (config.heads * c, config.kv_heads * c);
        let normal = |part: &str, shape: [usize; 2], scale: f32| {
            let std = scale * (shape[0] as f32).powf(-0.5);
            initializer.normal(&format!("{name}.{part}"), shape, std, device)
        };
        let norm = |width: usize| {
            let over = match config.qk_norm {
                QkNorm::None => return None,
                QkNorm::Head => c,
                QkNorm::AllHeads => width,
            };
            Some(RmsNorm::init(over, config.norm_eps, device))
        };
        let bias = |width: usize, there: bool| {
            there.then(|| Param::from_tensor(Tensor::zeros([width], device)))
        };
        let (inputs, all) = match config.attention_bias {
            AttentionBias::None => (false, false),
            AttentionBias::Inputs => (true, false),
            AttentionBias::All => (true, true),
        };
        Self {
            query_bias: bias(q, inputs),
            key_bias: bias(kv, inputs),
            value_bias: bias(kv, inputs),
            output_bias: bias(d, all),
            query: normal("query", [d, q], 1.0),
            key: normal("key", [d, kv], 1.0),
            value: normal("value", [d, kv], 1.0),
            output: normal("output", [q, d], residual_scale),
            query_norm: norm(q),
            key_norm: norm(kv),
            heads: config.heads,
            kv_heads: config.kv_heads,
        }
    }
}

impl<B: MoeBackend> Attention<B> {
    /// `[B * S, D] -> [B * S, D]` for `B` sequences of `S` tokens.
    pub fn forward(
        &self,
        x_td: Tensor<B, 2>,
        batch: [usize; 2],
        angles: &RotaryAngles<B>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let [q, k, v] = self.inputs(x_td, batch, angles, precision);
        self.merge(B::causal_attention(q, k, v, precision), precision)
    }

    /// The same for `B` sequences of `N` tokens that follow those in `seen`, where their keys and values are added.
    pub(crate) fn extend(
        &self,
        x_td: Tensor<B, 2>,
        batch: [usize; 2],
        angles: &RotaryAngles<B>,
        seen: &mut KeyValues<B>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let [q, k, v] = self.inputs(x_td, batch, angles, precision);
        let is_first = seen.is_empty();
        let [k, v] = seen.extend(k, v);
        let y = match is_first {
            true => B::causal_attention(q, k, v, precision),
            false => B::cached_attention(q, k, v, precision),
        };
        self.merge(y, precision)
    }

    /// Queries, keys and values, `[B, S, H, C]` and twice `[B, S, G, C]`.
    fn inputs(
        &self,
        x_td: Tensor<B, 2>,
        [b, s]: [usize; 2],
        angles: &RotaryAngles<B>,
        precision: Precision,
    ) -> [Tensor<B, 4>; 3] {
        let heads = |weight, bias: &Bias<B>, n: usize, norm: &Option<RmsNorm<B>>| {
            let flat = project(x_td.clone(), weight, bias, precision);
            let [t, width] = flat.dims();
            let c = width / n;
            let flat = match norm {
                Some(norm) => {
                    let [over] = norm.scale_d.dims();
                    let rows = flat.reshape([t * width / over, over]);
                    norm.forward(rows).reshape([t, width])
                }
                None => flat,
            };
            flat.reshape([b, s, n, c])
        };
        let q = heads(&self.query, &self.query_bias, self.heads, &self.query_norm);
        let k = heads(&self.key, &self.key_bias, self.kv_heads, &self.key_norm);
        let v = heads(&self.value, &self.value_bias, self.kv_heads, &None);
        [turn(q, angles), turn(k, angles), v]
    }

    /// What the heads found, `[B, S, H, C] -> [B * S, D]`.
    fn merge(&self, y_bshc: Tensor<B, 4>, precision: Precision) -> Tensor<B, 2> {
        let [b, s, h, c] = y_bshc.dims();
        let y_td = y_bshc.reshape([b * s, h * c]);
        project(y_td, &self.output, &self.output_bias, precision)
    }
}

type Bias<B> = Option<Param<Tensor<B, 1>>>;

/// `x w`, and a bias where there is one.
fn project<B: MoeBackend>(
    x_td: Tensor<B, 2>,
    weight: &Param<Tensor<B, 2>>,
    bias: &Bias<B>,
    precision: Precision,
) -> Tensor<B, 2> {
    let y = B::project(x_td, weight.val(), precision);
    match bias {
        Some(bias) => y + bias.val().unsqueeze(),
        None => y,
    }
}

/// The rotary embedding of the first channels of every head, as many as there are angles for.
fn turn<B: MoeBackend>(x_bshc: Tensor<B, 4>, angles: &RotaryAngles<B>) -> Tensor<B, 4> {
    let (c, turned) = (x_bshc.dims()[3], 2 * angles.cos_sc.dims()[1]);
    if turned == c {
        return B::rotary(x_bshc, angles.clone());
    }
    let first = x_bshc.clone().narrow(3, 0, turned);
    let rest = x_bshc.narrow(3, turned, c - turned);
    Tensor::cat(vec![B::rotary(first, angles.clone()), rest], 3)
}

/// Rotary angles of some positions for so many channels of a head: `position / theta^(2 i / C)`.
pub(crate) fn rotary_angles<B: Backend>(
    positions: Range<usize>,
    head_dim: usize,
    theta: f32,
    device: &B::Device,
) -> RotaryAngles<B> {
    let (s, half) = (positions.len(), head_dim / 2);
    let (mut cos, mut sin) = (Vec::with_capacity(s * half), Vec::with_capacity(s * half));
    for position in positions {
        for i in 0..half {
            // In f64: at long contexts an f32 angle is off by more than a kernel may be.
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            cos.push(cosine as f32);
            sin.push(sine as f32);
        }
    }
    let tensor = |values| Tensor::from_data(TensorData::new(values, [s, half]), device);
    RotaryAngles {
        cos_sc: tensor(cos),
        sin_sc: tensor(sin),
    }
}
