//! Intermediate neurons that start anew or change places: column i of gate and up, row i of down.

use rand::{
    Rng,
    seq::{SliceRandom, index::sample},
};
use serde::{Deserialize, Serialize};

use super::{
    matrix::{Matrix, Replica},
    noise::{normal, rms},
};

/// Distribution of new weights, all normal with mean 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialization {
    /// Variance `2 / (inputs + outputs)` of the matrix.
    Xavier,
    /// Variance `2 / inputs` of the matrix.
    Kaiming,
    /// The root mean square of the source's matrix.
    Normal,
}

impl Initialization {
    fn std(self, matrix: Matrix) -> f32 {
        let (inputs, outputs) = (matrix.rows as f32, matrix.columns as f32);
        match self {
            Self::Xavier => (2.0 / (inputs + outputs)).sqrt(),
            Self::Kaiming => (2.0 / inputs).sqrt(),
            Self::Normal => rms(matrix.values),
        }
    }
}

pub(super) fn drop_neurons(
    [gate, up, down]: Replica,
    own: [Matrix; 3],
    share: f32,
    init: Initialization,
    rng: &mut impl Rng,
) {
    let f = own[0].columns;
    let neurons = chosen(f, share, rng);
    let [gate_std, up_std, down_std] = own.map(|matrix| init.std(matrix));
    for &neuron in &neurons {
        for (matrix, std) in [(&mut *gate, gate_std), (&mut *up, up_std)] {
            for value in matrix.iter_mut().skip(neuron).step_by(f) {
                *value = std * normal(rng);
            }
        }
        let d = own[2].columns;
        for value in &mut down[neuron * d..][..d] {
            *value = down_std * normal(rng);
        }
    }
}

pub(super) fn shuffle_neurons(
    [gate, up, down]: Replica,
    own: [Matrix; 3],
    share: f32,
    rng: &mut impl Rng,
) {
    let f = own[0].columns;
    let d = own[2].columns;
    let to = chosen(f, share, rng);
    let mut from = to.clone();
    from.shuffle(rng);
    for (&to, &from) in to.iter().zip(&from) {
        for row in 0..d {
            gate[row * f + to] = own[0].values[row * f + from];
            up[row * f + to] = own[1].values[row * f + from];
        }
        down[to * d..][..d].copy_from_slice(&own[2].values[from * d..][..d]);
    }
}

/// A random set of `share` of `count` neurons.
fn chosen(count: usize, share: f32, rng: &mut impl Rng) -> Vec<usize> {
    let amount = (share * count as f32).round() as usize;
    sample(rng, count, amount.min(count)).into_vec()
}
