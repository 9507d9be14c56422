//! The best experts of every token.

use super::parallel::{Disjoint, for_each_range};

/// Rows of one task.
const ROWS: usize = 128;
/// Scores that are compared at once.
const CHUNK: usize = 16;

/// Indices of the `k` largest of every row of `scores: [T, E]`, best first, `[T, K]`.
///
/// Of equal scores the lower index comes first; NaN counts as lower than everything else.
pub fn select(scores: &[f32], experts: usize, k: usize) -> Vec<i32> {
    assert!(k >= 1 && k <= experts, "1 <= K <= E");
    assert!(scores.len().is_multiple_of(experts), "scores: [T, E]");
    let t = scores.len() / experts;
    let mut out = vec![0; t * k];
    let parts = Disjoint::new(&mut out);
    for_each_range(t, ROWS, |rows| {
        // SAFETY: ranges of rows do not overlap.
        let out = unsafe { parts.part(rows.start * k..rows.end * k) };
        select_rows(
            &scores[rows.start * experts..rows.end * experts],
            experts,
            k,
            out,
        );
    });
    out
}

vectorised! {
    fn select_rows(scores: &[f32], experts: usize, k: usize, out: &mut [i32]) {
        let mut keys = vec![0; k];
        for (scores, out) in scores.chunks_exact(experts).zip(out.chunks_exact_mut(k)) {
            let mut best = Best { keys: &mut keys, indices: out, len: 0 };
            let (chunks, rest) = scores.as_chunks::<CHUNK>();
            for (index, chunk) in chunks.iter().enumerate() {
                let chunk = chunk.map(key);
                let least = best.least();
                let mut any = 0;
                for key in chunk {
                    any |= i32::from(key > least);
                }
                if any != 0 {
                    for (lane, key) in chunk.into_iter().enumerate() {
                        best.offer(key, (index * CHUNK + lane) as i32);
                    }
                }
            }
            for (lane, score) in rest.iter().enumerate() {
                best.offer(key(*score), (chunks.len() * CHUNK + lane) as i32);
            }
        }
    }
}

/// An integer that orders like the score, above `i32::MIN`; NaN is lowest, and both zeros are equal.
#[inline(always)]
fn key(score: f32) -> i32 {
    // Adding zero turns -0 into +0.
    let bits = (score + 0.0).to_bits() as i32;
    let ordered = bits ^ (((bits >> 31) as u32) >> 1) as i32;
    if score.is_nan() {
        i32::MIN + 1
    } else {
        ordered
    }
}

/// The best of the scores so far, best first.
struct Best<'a> {
    keys: &'a mut [i32],
    indices: &'a mut [i32],
    len: usize,
}

impl Best<'_> {
    /// What a score must exceed to be among them.
    #[inline(always)]
    fn least(&self) -> i32 {
        if self.len == self.keys.len() {
            self.keys[self.len - 1]
        } else {
            i32::MIN
        }
    }

    #[inline(always)]
    fn offer(&mut self, key: i32, index: i32) {
        if key <= self.least() {
            return;
        }
        let mut place = self.len.min(self.keys.len() - 1);
        while place > 0 && self.keys[place - 1] < key {
            self.keys[place] = self.keys[place - 1];
            self.indices[place] = self.indices[place - 1];
            place -= 1;
        }
        self.keys[place] = key;
        self.indices[place] = index;
        self.len = (self.len + 1).min(self.keys.len());
    }
}
