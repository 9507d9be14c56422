//! How likely given tokens are.

use burn::tensor::{Int, Tensor, backend::Backend};
use upcycle_kernels::{MoeBackend, Precision};

use crate::model::Lm;

/// Logits that exist at once.
const LOGITS: usize = 1 << 24;

/// How likely tokens are that follow some positions, `N` in number.
#[derive(Debug, Clone)]
pub struct TokenLikelihood<B: Backend> {
    /// Logarithms of their probabilities in nats, `[N]`.
    pub log_probability_n: Tensor<B, 1>,
    /// The largest logit of the position less the token's, `[N]`: 0 where no token is more likely.
    pub deficit_n: Tensor<B, 1>,
}

impl<B: MoeBackend> Lm<B> {
    /// How likely the tokens `next_n` are after the positions `place_n` of `[B, S]` tokens, counted through all `B * S`.
    /// Logits of other positions are not computed.
    ///
    /// # Shapes
    /// `tokens_bs: [B, S]`, `place_n` and `next_n: [N]` with `N >= 1`.
    pub fn likelihood(
        &self,
        tokens_bs: Tensor<B, 2, Int>,
        place_n: Tensor<B, 1, Int>,
        next_n: Tensor<B, 1, Int>,
        precision: Precision,
    ) -> TokenLikelihood<B> {
        let (x_td, _) = self.hidden(tokens_bs, precision);
        let x_nd = x_td.select(0, place_n);
        let [n, d] = x_nd.dims();
        let [v, _] = self.head_vd.dims();
        let rows = (LOGITS / v).max(1);
        let head_dv = self.head_vd.val().transpose();
        let (mut logs, mut deficits) = (Vec::new(), Vec::new());
        for from in (0..n).step_by(rows) {
            let to = n.min(from + rows);
            let x_nd = x_nd.clone().slice([from..to, 0..d]);
            let logits_nv = precision.matmul(x_nd, head_dv.clone());
            let next_n1 = next_n
                .clone()
                .narrow(0, from, to - from)
                .reshape([to - from, 1]);
            let max_n1 = logits_nv.clone().max_dim(1);
            let deficit_n1 = max_n1.clone() - logits_nv.clone().gather(1, next_n1);
            let log_sum_n1 = (logits_nv - max_n1).exp().sum_dim(1).log();
            logs.push((log_sum_n1 + deficit_n1.clone()).neg().reshape([to - from]));
            deficits.push(deficit_n1.reshape([to - from]));
        }
        TokenLikelihood {
            log_probability_n: Tensor::cat(logs, 0),
            deficit_n: Tensor::cat(deficits, 0),
        }
    }
}
