//! Experts that are not copies, in the layout of their family.

use crate::{
    experts::transpose,
    layout::{ExpertLayout, Fused, Matrix, Orientation},
};

/// An expert that is not a copy.
pub(crate) struct Replica<'a> {
    pub layer: usize,
    pub expert: usize,
    /// Gate, up and down, `[D, F]`, `[D, F]` and `[F, D]`.
    pub matrices: [Vec<f32>; 3],
    /// D and F.
    pub shape: [usize; 2],
    pub layout: &'a ExpertLayout,
}

impl Replica<'_> {
    /// Values of a tensor of this expert.
    pub fn matrix(&self, matrix: Matrix) -> Vec<f32> {
        let [gate, up, down] = &self.matrices;
        let [d, f] = self.shape;
        let (values, shape) = match matrix {
            Matrix::Gate => (gate.clone(), [d, f]),
            Matrix::Up => (up.clone(), [d, f]),
            Matrix::Down => (down.clone(), [f, d]),
            Matrix::GateUp(fused) => {
                let rows = gate.chunks_exact(f).zip(up.chunks_exact(f));
                let both = rows.flat_map(|(gate, up)| match fused {
                    Fused::Halves => [gate, up].concat(),
                    Fused::Interleaved => gate.iter().zip(up).flat_map(|(&g, &u)| [g, u]).collect(),
                });
                (both.collect(), [d, 2 * f])
            }
        };
        match self.layout.orientation(matrix) {
            Orientation::InOut => values,
            Orientation::OutIn => transpose(&values, shape),
        }
    }
}
