//! Keys and values of the positions that attention has seen.

use burn::tensor::{Tensor, backend::Backend};

/// Keys and values of one layer, `[B, S, G, C]` each, of the `S` positions so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValues<B: Backend> {
    seen: Option<[Tensor<B, 4>; 2]>,
}

impl<B: Backend> KeyValues<B> {
    /// Whether there are no positions yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_none()
    }

    /// Adds those of the positions that follow, and gives all.
    pub(crate) fn extend(
        &mut self,
        k_bngc: Tensor<B, 4>,
        v_bngc: Tensor<B, 4>,
    ) -> [Tensor<B, 4>; 2] {
        let all = match self.seen.take() {
            Some([k_bsgc, v_bsgc]) => [
                Tensor::cat(vec![k_bsgc, k_bngc], 1),
                Tensor::cat(vec![v_bsgc, v_bngc], 1),
            ],
            None => [k_bngc, v_bngc],
        };
        self.seen = Some(all.clone());
        all
    }
}
