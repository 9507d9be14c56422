//! Each initialisation of experts, and the router extensions that share its mathematics, keep what they promise.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use upcycle_operator::*;

const E: usize = 3;
const D: usize = 10;
const F: usize = 16;
const SIZE: usize = D * F;

struct Layer {
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

fn layer() -> Layer {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut matrix = || {
        (0..E * SIZE)
            .map(|_| rng.random_range(-0.3..0.3))
            .collect::<Vec<f32>>()
    };
    Layer {
        gate: matrix(),
        up: matrix(),
        down: matrix(),
    }
}

/// Two replicas of expert 0 and one of expert 2, as gate, up and down, after a copy of the layer.
fn grow(init: &ExpertInit, seed: u64) -> [Vec<f32>; 3] {
    let layer = layer();
    let source = ExpertMatrices {
        gate: &layer.gate,
        up: &layer.up,
        down: &layer.down,
        d: D,
        f: F,
    };
    let plan = LayerPlan::from_counts(&[3, 1, 2]);
    assert_eq!(plan.source_of()[E..], [0, 2, 0]);
    let (grown, copied) = init.grow(source, &plan, seed);
    assert!(copied.is_empty());
    for (grown, source) in grown.iter().zip([&layer.gate, &layer.up, &layer.down]) {
        assert_eq!(grown.len(), 6 * SIZE);
        assert_eq!(&grown[..E * SIZE], &source[..]);
    }
    assert_eq!(grown, init.grow(source, &plan, seed).0);
    grown
}

/// Every replica beside its source, matrix by matrix.
fn pairs(grown: &[Vec<f32>; 3]) -> Vec<(&[f32], &[f32])> {
    let sources = [0, 2, 0];
    grown
        .iter()
        .flat_map(|matrix| {
            (0..3).map(move |replica| {
                (
                    &matrix[sources[replica] * SIZE..][..SIZE],
                    &matrix[(E + replica) * SIZE..][..SIZE],
                )
            })
        })
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// Norm of the difference over the norm of the source.
fn change(source: &[f32], replica: &[f32]) -> f64 {
    let difference: Vec<f32> = source.iter().zip(replica).map(|(a, b)| b - a).collect();
    norm(&difference) / norm(source)
}

/// `down(silu(x gate) * (x up))` of one expert.
fn output(grown: &[Vec<f32>; 3], expert: usize, x: &[f32]) -> Vec<f32> {
    let [gate, up, down] = grown
        .each_ref()
        .map(|matrix| &matrix[expert * SIZE..][..SIZE]);
    let hidden: Vec<f32> = (0..F)
        .map(|neuron| {
            let column = |matrix: &[f32]| -> f32 {
                (0..D).map(|row| x[row] * matrix[row * F + neuron]).sum()
            };
            let g = column(gate);
            g / (1.0 + (-g).exp()) * column(up)
        })
        .collect();
    (0..D)
        .map(|i| {
            (0..F)
                .map(|neuron| hidden[neuron] * down[neuron * D + i])
                .sum()
        })
        .collect()
}

#[test]
fn noise_has_the_size_that_it_says_and_replicas_differ() {
    let grown = grow(&ExpertInit::Noise { std: 0.05 }, 3);
    for (source, replica) in pairs(&grown) {
        assert!((change(source, replica) / 0.05 - 1.0).abs() < 0.3);
    }
    let [gate, ..] = &grown;
    assert_ne!(gate[3 * SIZE..4 * SIZE], gate[5 * SIZE..]);
}

#[test]
fn orthogonal_experts_have_no_part_along_their_source() {
    let grown = grow(&ExpertInit::Orthogonal {}, 3);
    for (source, replica) in pairs(&grown) {
        assert!(dot(source, replica).abs() < 1e-5 * norm(source) * norm(replica));
        assert!((norm(replica) / norm(source) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn dropped_neurons_are_the_same_in_all_matrices() {
    for init in [
        Initialization::Xavier,
        Initialization::Kaiming,
        Initialization::Normal,
    ] {
        let grown = grow(&ExpertInit::Drop { share: 0.25, init }, 3);
        let [gate, up, down] = &grown;
        for (expert, source) in [(3, 0), (4, 2), (5, 0)] {
            let changed = |matrix: &[f32], at: &dyn Fn(usize, usize) -> usize| -> Vec<usize> {
                (0..F)
                    .filter(|&neuron| {
                        let differ = (0..D).filter(|&i| {
                            matrix[expert * SIZE + at(neuron, i)]
                                != matrix[source * SIZE + at(neuron, i)]
                        });
                        match differ.count() {
                            0 => false,
                            D => true,
                            part => panic!("{part} of {D} weights of a neuron changed"),
                        }
                    })
                    .collect()
            };
            let column = |neuron: usize, i: usize| i * F + neuron;
            let row = |neuron: usize, i: usize| neuron * D + i;
            let neurons = changed(gate, &column);
            assert_eq!(neurons.len(), F / 4);
            assert_eq!(neurons, changed(up, &column));
            assert_eq!(neurons, changed(down, &row));
        }
    }
}

#[test]
fn all_neurons_dropped_have_the_deviation_of_their_distribution() {
    let deviation = |init| {
        let [gate, _, down] = grow(&ExpertInit::Drop { share: 1.0, init }, 3);
        [gate, down].map(|matrix| norm(&matrix[E * SIZE..]) / (3.0 * SIZE as f64).sqrt())
    };
    let close = |[gate, down]: [f64; 2], expected: [f64; 2]| {
        assert!((gate / expected[0] - 1.0).abs() < 0.15, "{gate}");
        assert!((down / expected[1] - 1.0).abs() < 0.15, "{down}");
    };
    let xavier = (2.0_f64 / (D + F) as f64).sqrt();
    close(deviation(Initialization::Xavier), [xavier; 2]);
    let kaiming = [D, F].map(|inputs| (2.0 / inputs as f64).sqrt());
    close(deviation(Initialization::Kaiming), kaiming);
    let source = 0.3 / 3.0_f64.sqrt();
    close(deviation(Initialization::Normal), [source; 2]);
}

#[test]
fn shuffled_neurons_keep_the_function() {
    let grown = grow(&ExpertInit::Shuffle { share: 1.0 }, 3);
    let x: Vec<f32> = (0..D).map(|i| (i as f32 * 0.7).sin()).collect();
    for (expert, source) in [(3, 0), (4, 2), (5, 0)] {
        let (own, shuffled) = (output(&grown, source, &x), output(&grown, expert, &x));
        assert!(change(&own, &shuffled) < 1e-5);
    }
    assert!(pairs(&grown).iter().all(|(a, b)| change(a, b) > 0.1));
}

#[test]
fn a_perturbation_of_nothing_is_the_identity() {
    let nothing = ExpertInit::SvdPerturb {
        values: 0.0,
        vectors: 0.0,
        drop: 0.0,
    };
    for (source, replica) in pairs(&grow(&nothing, 3)) {
        assert!(change(source, replica) < 1e-5);
    }
    let unmixed = ExpertInit::SvdMix { weight: 0.0 };
    for (source, replica) in pairs(&grow(&unmixed, 3)) {
        assert!(change(source, replica) < 1e-5);
    }
}

#[test]
fn small_perturbations_are_small_and_rotations_keep_the_norm() {
    let perturbed = |values, vectors| {
        let init = ExpertInit::SvdPerturb {
            values,
            vectors,
            drop: 0.0,
        };
        grow(&init, 3)
    };
    // Unlike the published code, which does not fix the signs of re-orthonormalised vectors, a small rotation
    // leaves the expert close to its source.
    for (source, replica) in pairs(&perturbed(0.0, 0.02)) {
        let change = change(source, replica);
        assert!((0.005..0.06).contains(&change), "{change}");
        assert!((norm(replica) / norm(source) - 1.0).abs() < 1e-4);
    }
    for (source, replica) in pairs(&perturbed(0.1, 0.0)) {
        let change = change(source, replica);
        assert!((0.02..0.25).contains(&change), "{change}");
    }
}

#[test]
fn dropped_components_are_the_smallest() {
    let init = |drop| ExpertInit::SvdPerturb {
        values: 0.0,
        vectors: 0.0,
        drop,
    };
    let mut before = 0.0;
    // Each tenth that is dropped loses more than the tenth before.
    for drop in [0.1, 0.2, 0.3, 0.4] {
        let grown = grow(&init(drop), 3);
        let (source, replica) = pairs(&grown)[0];
        let lost = change(source, replica).powi(2);
        assert!(lost > 2.0 * before, "{drop}: {lost} after {before}");
        // What is left is the projection, so the squares of lost and left add up.
        let left = (norm(replica) / norm(source)).powi(2);
        assert!((lost + left - 1.0).abs() < 1e-4);
        before = lost;
    }
}

#[test]
fn a_mix_of_singular_components_has_both_experts() {
    let grown = grow(&ExpertInit::SvdMix { weight: 0.5 }, 3);
    let neighbours = [1, 0, 1];
    for matrix in &grown {
        for (replica, (source, neighbour)) in [0, 2, 0].into_iter().zip(neighbours).enumerate() {
            let mixed = &matrix[(E + replica) * SIZE..][..SIZE];
            let [own, other] = [source, neighbour].map(|e| &matrix[e * SIZE..][..SIZE]);
            let cosine = |a: &[f32]| dot(a, mixed) / norm(a) / norm(mixed);
            assert!(cosine(own) > 0.7, "{}", cosine(own));
            assert!(cosine(other) > 0.1, "{}", cosine(other));
        }
    }
    let all = grow(&ExpertInit::SvdMix { weight: 1.0 }, 3);
    assert!(change(&all[0][SIZE..2 * SIZE], &all[0][3 * SIZE..4 * SIZE]) < 1e-5);
}

#[test]
fn sparse_codes_move_a_replica_towards_its_neighbour() {
    let coded = |sparsity, mix| {
        let init = ExpertInit::SparseCode {
            atoms: 48,
            sparsity,
            mix,
            iterations: 200,
        };
        grow(&init, 3)
    };
    for (source, replica) in pairs(&coded(0.05, 0.0)) {
        assert_eq!(source, replica);
    }
    let distance = |grown: &[Vec<f32>; 3]| {
        let [gate, ..] = grown;
        change(&gate[SIZE..2 * SIZE], &gate[3 * SIZE..4 * SIZE])
    };
    let (none, half, all) = (
        distance(&coded(0.01, 0.0)),
        distance(&coded(0.01, 0.5)),
        distance(&coded(0.01, 1.0)),
    );
    assert!(
        all < half && half < none && all < 0.3 * none,
        "{none} {half} {all}"
    );
    // A sparser code explains, and so moves, less.
    assert!(distance(&coded(0.5, 1.0)) > all);
}

#[test]
fn router_rows_keep_their_promises() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let source = RouterRows {
        weight: (0..4 * D).map(|_| rng.random_range(-1.0..1.0)).collect(),
        bias: vec![0.5, -0.25, 4.75, 0.0],
        d: D,
        input_rms: 1.0,
    };
    let plan = LayerPlan::from_counts(&[2, 3, 1, 2]);
    let extend = |extension: RouterExtension| {
        let (grown, copied) = extension.extend(&source, &plan, 7);
        assert!(copied.is_empty());
        assert_eq!(grown, extension.extend(&source, &plan, 7).0);
        grown
    };
    let row = |rows: &RouterRows, expert: usize| rows.weight[expert * D..][..D].to_vec();
    let replicas = || plan.source_of().iter().copied().enumerate().skip(4);

    let orthogonal = extend(RouterExtension::Orthogonal {});
    for (expert, from) in replicas() {
        let (own, new) = (row(&source, from), row(&orthogonal, expert));
        assert!(dot(&own, &new).abs() < 1e-5);
        assert!((norm(&new) / norm(&own) - 1.0).abs() < 1e-5);
    }
    let svd = extend(RouterExtension::Svd {
        values: 0.0,
        vectors: 0.0,
    });
    for (expert, from) in replicas() {
        assert!(change(&row(&source, from), &row(&svd, expert)) < 1e-5);
    }
    for on in [Rows::Replicas, Rows::All] {
        let noisy = extend(RouterExtension::Noise { std: 0.01, on });
        let kept = noisy.weight[..4 * D] == source.weight[..];
        assert_eq!(kept, on == Rows::Replicas);
        for (expert, from) in replicas() {
            let change = change(&row(&source, from), &row(&noisy, expert));
            assert!((0.003..0.05).contains(&change));
        }
    }
    // New experts have rows of the usual size that look like no source's, and no bias.
    let new = extend(RouterExtension::New {});
    assert_eq!(new.weight[..4 * D], source.weight[..]);
    assert_eq!(new.bias[..4], source.bias[..]);
    assert_eq!(new.bias[4..], [0.0; 4]);
    for (expert, from) in replicas() {
        let (own, new) = (row(&source, from), row(&new, expert));
        assert!((0.3..3.0).contains(&(norm(&new) / norm(&own))));
        assert!(change(&own, &new) > 0.5);
    }
    // All experts of a replica set share one offset, and the offsets of all sets sum to zero.
    let split = extend(RouterExtension::Hyperplane { strength: 2.0 });
    let offset = |expert: usize| -> Vec<f32> {
        let own = row(&source, plan.source_of()[expert]);
        let new = row(&split, expert);
        new.iter().zip(own).map(|(a, b)| a - b).collect()
    };
    let mut sum = vec![0.0; D];
    for set in 0..plan.sets() {
        let first = offset(plan.set(set).start);
        assert!(norm(&first) > 0.1);
        for expert in plan.set(set) {
            assert!(change(&first, &offset(expert)) < 1e-5);
        }
        sum.iter_mut().zip(first).for_each(|(sum, v)| *sum += v);
    }
    assert!(norm(&sum) < 1e-5);
    // Biases of balancing are copied, never zeroed.
    for (expert, from) in replicas() {
        assert_eq!(split.bias[expert], source.bias[from]);
    }
    let dormant = extend(RouterExtension::Dormant { bias: 8.0 });
    let noisy = extend(RouterExtension::BiasNoise {
        half_width: 1e-3,
        shift: 0.0,
    });
    assert_eq!(dormant.bias[..4], source.bias[..]);
    assert_eq!(noisy.bias[..4], source.bias[..]);
    for (expert, from) in replicas() {
        assert_eq!(dormant.bias[expert], source.bias[from] - 8.0);
        let noise = noisy.bias[expert] - source.bias[from];
        assert!(noise != 0.0 && noise.abs() <= 1.1e-3);
    }
}
