//! One AdamW update in one pass.

use crate::adamw::Update;

use super::{
    memory::LINE,
    parallel::{Disjoint, for_each_range},
};

/// Elements of one task.
const CHUNK: usize = 1 << 15;
/// Elements of a block, for which later ones are fetched together.
const BLOCK: usize = 4 * LINE;
/// Elements from a block to the one that is fetched meanwhile.
const AHEAD: usize = 8 * BLOCK;

/// Updates the parameter and its two moments in place; all slices have the same length.
pub fn step(
    parameter: &mut [f32],
    moment_1: &mut [f32],
    moment_2: &mut [f32],
    gradient: &[f32],
    update: &Update,
) {
    let len = parameter.len();
    assert_eq!(moment_1.len(), len, "first moments of the parameter");
    assert_eq!(moment_2.len(), len, "second moments of the parameter");
    assert_eq!(gradient.len(), len, "gradient of the parameter");
    let [parameter, moment_1, moment_2] = [parameter, moment_1, moment_2].map(Disjoint::new);
    for_each_range(len, CHUNK, |range| {
        // SAFETY: ranges do not overlap.
        let parts = [parameter, moment_1, moment_2].map(|all| unsafe { all.part(range.clone()) });
        step_range(parts, &gradient[range], update);
    });
}

vectorised! {
    fn step_range(parts: [&mut [f32]; 3], gradient: &[f32], update: &Update) {
        let [parameter, moment_1, moment_2] = parts;
        let Update { lr, beta_1, beta_2, epsilon, weight_decay, correction_1, correction_2, gradient_scale } = *update;
        let keep = 1.0 - lr * weight_decay;
        let rate = lr / correction_1;
        let inverse_correction_2 = 1.0 / correction_2;
        let blocks = parameter.chunks_mut(BLOCK).zip(moment_1.chunks_mut(BLOCK));
        let blocks = blocks.zip(moment_2.chunks_mut(BLOCK)).zip(gradient.chunks(BLOCK));
        for (((parameter, moment_1), moment_2), gradient) in blocks {
            for block in [&*parameter, &*moment_1, &*moment_2, gradient] {
                fetch_ahead(block);
            }
            for (((p, m), v), g) in parameter.iter_mut().zip(moment_1).zip(moment_2).zip(gradient) {
                let g = g * gradient_scale;
                *m = *m * beta_1 + g * (1.0 - beta_1);
                *v = *v * beta_2 + g * g * (1.0 - beta_2);
                let root = (*v * inverse_correction_2).sqrt() + epsilon;
                *p = *p * keep - *m / root * rate;
            }
        }
    }
}

/// Fetches what comes [`AHEAD`] of a block into the caches. The processor does so by itself, but too late for the memory's full
/// rate.
#[inline(always)]
fn fetch_ahead(block: &[f32]) {
    for line in 0..BLOCK / LINE {
        let at = block.as_ptr().wrapping_add(AHEAD + line * LINE);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: every x86-64 processor has the instruction, and the address need not exist.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}
