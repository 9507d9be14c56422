//! Rotary position embedding.

use std::mem::MaybeUninit;

use super::{
    memory::filled,
    parallel::{Disjoint, for_each_range},
};

/// Sizes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Sequences, `B`.
    pub batch: usize,
    /// Positions of a sequence, `S`.
    pub positions: usize,
    /// Heads, `H`.
    pub heads: usize,
    /// Head width, `C`, even.
    pub width: usize,
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By the angles.
    Forward,
    /// By their negatives: undoes [`Forward`](Self::Forward), and turns its gradients.
    Backward,
}

/// Positions of one task.
const POSITIONS: usize = 64;

/// Turns the pairs of channels `(c, c + C / 2)` of `x: [B, S, H, C]` by angles with `cos` and `sin`, `[S, C / 2]`.
pub fn apply(x: &[f32], cos: &[f32], sin: &[f32], shape: Shape, turn: Turn) -> Vec<f32> {
    let Shape {
        batch,
        positions,
        heads,
        width,
    } = shape;
    assert!(width > 0 && width.is_multiple_of(2), "an even head width");
    assert_eq!(
        x.len(),
        batch * positions * heads * width,
        "x: [B, S, H, C]"
    );
    assert_eq!(cos.len(), positions * width / 2, "cos: [S, C / 2]");
    assert_eq!(sin.len(), positions * width / 2, "sin: [S, C / 2]");
    let (half, row) = (width / 2, heads * width);
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let turn_all = |y: Disjoint<MaybeUninit<f32>>| {
        for_each_range(batch * positions, POSITIONS, |tokens| {
            let at = tokens.start * row..tokens.end * row;
            // SAFETY: ranges of tokens do not overlap.
            let y = unsafe { y.part(at.clone()) };
            let first = tokens.start % positions;
            turn_rows(&x[at], cos, sin, [half, row], first, sign, y);
        });
    };
    // SAFETY: every token's row is turned.
    unsafe { filled(x.len(), turn_all) }
}

vectorised! {
    /// Rows of consecutive tokens, the first at position `first`; `shape` is half a head and a row.
    fn turn_rows(x: &[f32], cos: &[f32], sin: &[f32], shape: [usize; 2], first: usize, sign: f32, y: &mut [MaybeUninit<f32>]) {
        let [half, row] = shape;
        let mut angle = first * half;
        for (x, y) in x.chunks_exact(row).zip(y.chunks_exact_mut(row)) {
            if angle == cos.len() {
                angle = 0;
            }
            let (cos, sin) = (&cos[angle..angle + half], &sin[angle..angle + half]);
            angle += half;
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let (x_low, x_high) = x.split_at(half);
                let (y_low, y_high) = y.split_at_mut(half);
                let channels = x_low.iter().zip(x_high).zip(y_low).zip(y_high).zip(cos).zip(sin);
                for (((((x_low, x_high), y_low), y_high), cos), sin) in channels {
                    let sin = sin * sign;
                    y_low.write(x_low * cos - x_high * sin);
                    y_high.write(x_high * cos + x_low * sin);
                }
            }
        }
    }
}
