//! Matrices of experts, and how one moves towards another.

/// The experts of a layer, row-major.
#[derive(Debug, Clone, Copy)]
pub struct ExpertMatrices<'a> {
    /// Gate projections, `[E, D, F]`.
    pub gate: &'a [f32],
    /// Up projections, `[E, D, F]`.
    pub up: &'a [f32],
    /// Down projections, `[E, F, D]`.
    pub down: &'a [f32],
    /// Model width, D.
    pub d: usize,
    /// Hidden width, F.
    pub f: usize,
}

/// One matrix of an expert, row-major.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
}

/// Gate, up and down of one expert.
pub(crate) type Replica<'a> = [&'a mut [f32]; 3];

impl<'a> ExpertMatrices<'a> {
    /// Gate, up and down of expert `e`.
    pub(crate) fn expert(&self, e: usize) -> [Matrix<'a>; 3] {
        let (d, f) = (self.d, self.f);
        let matrix = |values: &'a [f32], rows, columns| Matrix {
            values: &values[e * d * f..][..d * f],
            rows,
            columns,
        };
        [
            matrix(self.gate, d, f),
            matrix(self.up, d, f),
            matrix(self.down, f, d),
        ]
    }

    pub(crate) fn experts(&self) -> usize {
        self.gate.len() / (self.d * self.f).max(1)
    }
}

/// `(1 - weight) * to + weight * other`.
pub(crate) fn blend(to: &mut [f32], other: &[f32], weight: f32) {
    for (to, other) in to.iter_mut().zip(other) {
        *to += weight * (other - *to);
    }
}
