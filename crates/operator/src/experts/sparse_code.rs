//! Neurons as sparse combinations of dictionary entries ("atoms").
//!
//! A neuron is the vector of its gate and up columns and its down row, of length `3 D`.

use faer::{Mat, MatRef};
use rand::seq::index::sample;

use super::matrix::{ExpertMatrices, Matrix, Replica};
use crate::seed;

/// Neurons that a dictionary is learned from.
const SAMPLE: usize = 4096;

/// Entries learned from the neurons of a layer, and how sparse codes over them are.
pub(super) struct Dictionary {
    /// Entries of norm 1, `[atoms, 3 D]`.
    atoms: Mat<f32>,
    /// Weight of the L1 norm.
    penalty: f32,
    iterations: usize,
}

impl Dictionary {
    /// Learns a dictionary from a sample of the layer's neurons: steps on the codes (iterative soft thresholding) and
    /// on the entries (gradient, then norm 1) in turn, from entries that are neurons.
    pub(super) fn learn(
        layer: ExpertMatrices,
        atoms: usize,
        sparsity: f32,
        iterations: usize,
        seed: u64,
    ) -> Self {
        let mut rng = seed::rng(seed);
        let total = layer.experts() * layer.f;
        let drawn = sample(&mut rng, total, SAMPLE.min(total)).into_vec();
        let mut neurons = Mat::<f32>::zeros(drawn.len(), 3 * layer.d);
        for (row, &neuron) in drawn.iter().enumerate() {
            let expert = layer.expert(neuron / layer.f);
            for column in 0..3 * layer.d {
                neurons[(row, column)] = element(&expert, neuron % layer.f, column);
            }
        }
        let atoms = Mat::from_fn(atoms.min(drawn.len()), 3 * layer.d, |row, column| {
            neurons[(row, column)]
        });
        let mut dictionary = Self {
            atoms,
            penalty: 0.0,
            iterations,
        };
        dictionary.normalise();
        let correlations = &neurons * dictionary.atoms.transpose();
        dictionary.penalty = sparsity * mean_largest(correlations.as_ref());

        let mut codes = Mat::<f32>::zeros(drawn.len(), dictionary.atoms.nrows());
        for _ in 0..iterations {
            dictionary.step(&mut codes, neurons.as_ref(), dictionary.rate());
            let rest = &neurons - &codes * &dictionary.atoms;
            let rate = 1.0 / largest_row_sum((codes.transpose() * &codes).as_ref()).max(1e-12);
            dictionary.atoms += faer::Scale(rate) * (codes.transpose() * rest);
            dictionary.normalise();
        }
        dictionary
    }

    /// Moves the code of every neuron of a copy of `own` towards that of the neighbour's neuron in the same place.
    pub(super) fn mix(
        &self,
        [gate, up, down]: Replica,
        own: [Matrix; 3],
        neighbour: [Matrix; 3],
        mix: f32,
    ) {
        let (d, f) = (own[0].rows, own[0].columns);
        let rate = self.rate();
        let codes = [&own, &neighbour].map(|expert| {
            let neurons = Mat::from_fn(f, 3 * d, |neuron, column| element(expert, neuron, column));
            let mut codes = Mat::<f32>::zeros(f, self.atoms.nrows());
            for _ in 0..self.iterations {
                self.step(&mut codes, neurons.as_ref(), rate);
            }
            codes
        });
        let change = faer::Scale(mix) * (&codes[1] - &codes[0]) * &self.atoms;
        for neuron in 0..f {
            for i in 0..d {
                gate[i * f + neuron] += change[(neuron, i)];
                up[i * f + neuron] += change[(neuron, d + i)];
                down[neuron * d + i] += change[(neuron, 2 * d + i)];
            }
        }
    }

    /// One step of iterative soft thresholding on `|x - z A|^2 / 2 + penalty * |z|_1` of all codes `z`.
    fn step(&self, codes: &mut Mat<f32>, neurons: MatRef<f32>, rate: f32) {
        let rest = neurons - &*codes * &self.atoms;
        let towards = rest * self.atoms.transpose();
        let threshold = rate * self.penalty;
        for column in 0..codes.ncols() {
            for row in 0..codes.nrows() {
                let value = codes[(row, column)] + rate * towards[(row, column)];
                codes[(row, column)] = value.signum() * (value.abs() - threshold).max(0.0);
            }
        }
    }

    /// A rate at which the steps converge.
    fn rate(&self) -> f32 {
        1.0 / largest_row_sum((&self.atoms * self.atoms.transpose()).as_ref()).max(1e-12)
    }

    fn normalise(&mut self) {
        for mut atom in self.atoms.row_iter_mut() {
            let norm = atom.norm_l2();
            if norm > 0.0 {
                atom *= faer::Scale(1.0 / norm);
            }
        }
    }
}

/// Value `column` of a neuron: its gate column, its up column, its down row.
fn element(expert: &[Matrix; 3], neuron: usize, column: usize) -> f32 {
    let (d, f) = (expert[0].rows, expert[0].columns);
    match column / d {
        0 => expert[0].values[column * f + neuron],
        1 => expert[1].values[(column - d) * f + neuron],
        _ => expert[2].values[neuron * d + column - 2 * d],
    }
}

/// An upper bound of the largest eigenvalue of a symmetric matrix.
fn largest_row_sum(matrix: MatRef<f32>) -> f32 {
    matrix
        .row_iter()
        .map(|row| row.iter().map(|value| value.abs()).sum())
        .fold(0.0, f32::max)
}

/// Mean over rows of the largest magnitude.
fn mean_largest(matrix: MatRef<f32>) -> f32 {
    let largest = matrix
        .row_iter()
        .map(|row| row.iter().fold(0.0_f32, |max, value| max.max(value.abs())));
    largest.sum::<f32>() / matrix.nrows().max(1) as f32
}
