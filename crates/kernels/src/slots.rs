//! Equally many slots for every expert, so that the products of all experts are one batched product.

use burn::tensor::{ElementConversion, IndexingUpdateOp, Int, Tensor, backend::Backend};

/// Rounding of slots an expert: few distinct sizes, so that GPU autotuning meets few shapes.
const CAPACITY_STEP: usize = 16;

/// A place for every routed row among equally many slots of every expert.
pub(crate) struct Slots<B: Backend> {
    /// Slots of one expert: the largest load, rounded up.
    pub capacity: usize,
    /// Slot of every routed row, `[R]`, in `0..E * capacity`.
    pub slot_of_row: Tensor<B, 1, Int>,
    /// Token that fills every slot, `[E * capacity]`; empty slots hold token 0, and nobody reads their output.
    pub token_of_slot: Tensor<B, 1, Int>,
}

impl<B: Backend> Slots<B> {
    /// Computed on the device; only the largest load is read back.
    pub fn assign(experts_tk: Tensor<B, 2, Int>, experts: usize) -> Self {
        let device = experts_tk.device();
        let [t, k] = experts_tk.dims();
        let r = t * k;
        let expert_r = experts_tk.reshape([r]);
        let expert_ids_1e = Tensor::arange(0..experts as i64, &device).reshape([1, experts]);
        let chosen_re = expert_r
            .clone()
            .reshape([r, 1])
            .repeat_dim(1, experts)
            .equal(expert_ids_1e.repeat_dim(0, r))
            .int();
        let rank_re = cumulative_sum(chosen_re);
        let load: i64 = rank_re
            .clone()
            .slice([r - 1..r, 0..experts])
            .max()
            .into_scalar()
            .elem();
        let capacity = (load as usize).next_multiple_of(CAPACITY_STEP);

        let rank_r = rank_re
            .gather(1, expert_r.clone().reshape([r, 1]))
            .reshape([r])
            - 1;
        let slot_of_row = expert_r * capacity as i64 + rank_r;
        let token_r = Tensor::arange(0..r as i64, &device) / k as i64;
        let token_of_slot = Tensor::zeros([experts * capacity], &device).scatter(
            0,
            slot_of_row.clone(),
            token_r,
            IndexingUpdateOp::Add,
        );
        Self {
            capacity,
            slot_of_row,
            token_of_slot,
        }
    }
}

/// Cumulative sum over the first axis, in two levels: Burn's GPU kernel is quadratic in the length.
fn cumulative_sum<B: Backend>(x_re: Tensor<B, 2, Int>) -> Tensor<B, 2, Int> {
    let [r, e] = x_re.dims();
    let block = (1..=128).rev().find(|b| r % b == 0).unwrap_or(1);
    let within = x_re.reshape([r / block, block, e]).cumsum(1);
    let totals = within.clone().slice([0..r / block, block - 1..block, 0..e]);
    let before = totals.clone().cumsum(0) - totals;
    (within + before).reshape([r, e])
}
