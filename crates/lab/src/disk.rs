//! What stages leave on the disk.

use upcycle_lm::CostModel;

use crate::graph::Stage;

/// Bytes of a parameter in a checkpoint: its value and Adam's two moments in f32.
const BYTES_A_PARAMETER: u64 = 12;

/// Bytes of a step in `metrics.jsonl`: a line of some 150, and the evaluations between.
const BYTES_A_STEP: u64 = 200;

/// Bytes that a stage leaves: its last checkpoint and metrics.
pub fn stage_bytes(stage: &Stage) -> u64 {
    let parameters = CostModel::new(&stage.model).parameters().total();
    BYTES_A_PARAMETER * parameters + BYTES_A_STEP * stage.steps()
}
