// Every operation of one backend against its reference body.

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use upcycle_kernels::{
    ExpertWeights, MoeBackend, Precision, RotaryAngles, SoftTargets, adamw::Update, reference,
};

/// The backend under test, of the module that includes this file.
type B = Autodiff<Inner>;

const F32: Precision = Precision::F32;

fn random<const D: usize>(rng: &mut StdRng, shape: [usize; D]) -> Tensor<B, D> {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn ints<const D: usize>(values: Vec<i32>, shape: [usize; D]) -> Tensor<B, D, Int> {
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn floats<const D: usize>(tensor: Tensor<Inner, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Largest difference over the largest value, or over 0.01 where all values are smaller.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, f32::max);
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| (a - b).abs()));
    difference / largest(&mut expected.iter().map(|b| b.abs())).max(1e-2)
}

/// Runs `op` on leaves, weights its output at random, and returns the output and the gradients of all leaves, flat.
fn run<const D: usize>(leaves: &[Leaf], op: impl Fn(&[Leaf]) -> Tensor<B, D>) -> Vec<Vec<f32>> {
    let leaves: Vec<Leaf> = leaves.iter().map(Leaf::fresh).collect();
    let output = op(&leaves);
    let weights = random(&mut StdRng::seed_from_u64(99), output.dims());
    let gradients = (output.clone() * weights).sum().backward();
    let mut found = vec![floats(output.inner())];
    for leaf in &leaves {
        found.push(match leaf {
            Leaf::One(t) => floats(t.grad(&gradients).unwrap()),
            Leaf::Two(t) => floats(t.grad(&gradients).unwrap()),
            Leaf::Three(t) => floats(t.grad(&gradients).unwrap()),
            Leaf::Four(t) => floats(t.grad(&gradients).unwrap()),
        });
    }
    found
}

/// A differentiable argument.
#[derive(Clone)]
enum Leaf {
    One(Tensor<B, 1>),
    Two(Tensor<B, 2>),
    Three(Tensor<B, 3>),
    Four(Tensor<B, 4>),
}

impl Leaf {
    fn fresh(&self) -> Self {
        match self {
            Self::One(t) => Self::One(t.clone().detach().require_grad()),
            Self::Two(t) => Self::Two(t.clone().detach().require_grad()),
            Self::Three(t) => Self::Three(t.clone().detach().require_grad()),
            Self::Four(t) => Self::Four(t.clone().detach().require_grad()),
        }
    }

    fn one(&self) -> Tensor<B, 1> {
        let Self::One(t) = self else { panic!("rank") };
        t.clone()
    }

    fn two(&self) -> Tensor<B, 2> {
        let Self::Two(t) = self else { panic!("rank") };
        t.clone()
    }

    fn three(&self) -> Tensor<B, 3> {
        let Self::Three(t) = self else { panic!("rank") };
        t.clone()
    }

    fn four(&self) -> Tensor<B, 4> {
        let Self::Four(t) = self else { panic!("rank") };
        t.clone()
    }
}

fn compare<const D: usize>(
    case: &str,
    leaves: &[Leaf],
    op: impl Fn(&[Leaf]) -> Tensor<B, D>,
    expected: impl Fn(&[Leaf]) -> Tensor<B, D>,
) {
    let (found, expected) = (run(leaves, op), run(leaves, expected));
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = error(found, expected);
        assert!(error < 1e-4, "{case}, {index} (0 is the output): {error}");
    }
}

#[test]
fn expert_ffn() {
    let mut rng = StdRng::seed_from_u64(1);
    for (t, e, k, d, f) in [
        (37, 5, 2, 12, 7),
        (1, 4, 1, 8, 16),
        (300, 3, 3, 33, 20),
        (64, 70, 8, 16, 24),
    ] {
        for skewed in [false, true] {
            // Skewed: the first K experts take all tokens, the others none.
            let chosen: Vec<i32> = (0..t)
                .flat_map(|_| {
                    let all = if skewed { k } else { e };
                    rand::seq::index::sample(&mut rng, all, k).into_vec()
                })
                .map(|expert| expert as i32)
                .collect();
            let experts = ints(chosen, [t, k]);
            let leaves = [
                Leaf::Two(random(&mut rng, [t, d])),
                Leaf::Three(random(&mut rng, [e, d, f])),
                Leaf::Three(random(&mut rng, [e, d, f])),
                Leaf::Three(random(&mut rng, [e, f, d])),
                Leaf::Two(random(&mut rng, [t, k])),
            ];
            let weights = |l: &[Leaf]| ExpertWeights {
                gate_edf: l[1].three(),
                up_edf: l[2].three(),
                down_efd: l[3].three(),
            };
            compare(
                &format!("T {t} E {e} K {k} skewed {skewed}"),
                &leaves,
                |l| B::expert_ffn(l[0].two(), weights(l), experts.clone(), l[4].two(), F32),
                |l| reference::expert_ffn(l[0].two(), weights(l), experts.clone(), l[4].two(), F32),
            );
        }
    }
}

#[test]
fn causal_attention() {
    let mut rng = StdRng::seed_from_u64(2);
    for (b, s, h, g, c) in [
        (2, 5, 2, 1, 6),
        (1, 1, 1, 1, 4),
        (1, 130, 4, 2, 16),
        (2, 67, 3, 3, 10),
    ] {
        let leaves = [
            Leaf::Four(random(&mut rng, [b, s, h, c])),
            Leaf::Four(random(&mut rng, [b, s, g, c])),
            Leaf::Four(random(&mut rng, [b, s, g, c])),
        ];
        compare(
            &format!("B {b} S {s} H {h} G {g} C {c}"),
            &leaves,
            |l| B::causal_attention(l[0].four(), l[1].four(), l[2].four(), F32),
            |l| reference::causal_attention(l[0].four(), l[1].four(), l[2].four(), F32),
        );
    }
}

#[test]
fn add_and_logistic() {
    let mut rng = StdRng::seed_from_u64(30);
    // The larger one is above the size from which sums of gradients are this crate's, too.
    for shape in [[3, 7], [600, 257]] {
        let leaves = [(); 2].map(|()| Leaf::Two(random(&mut rng, shape)));
        compare(
            "x + logistic(x + y)",
            &leaves,
            |l| {
                let (x, y) = (l[0].two(), l[1].two());
                B::add(x.clone(), B::logistic(B::add(x, y)))
            },
            |l| {
                let (x, y) = (l[0].two(), l[1].two());
                reference::add(x.clone(), reference::logistic(reference::add(x, y)))
            },
        );
    }
}

#[test]
fn rms_norm() {
    let mut rng = StdRng::seed_from_u64(3);
    for shape in [[7, 5], [1, 1], [200, 64]] {
        let leaves = [
            Leaf::Two(random(&mut rng, shape)),
            Leaf::One(random(&mut rng, [shape[1]])),
        ];
        compare(
            &format!("{shape:?}"),
            &leaves,
            |l| B::rms_norm(l[0].two(), l[1].one(), 1e-5),
            |l| reference::rms_norm(l[0].two(), l[1].one(), 1e-5),
        );
    }
}

#[test]
fn rotary() {
    let mut rng = StdRng::seed_from_u64(4);
    for [b, s, h, c] in [[2, 7, 3, 8], [1, 1, 1, 2], [2, 100, 2, 16]] {
        let angles = RotaryAngles {
            cos_sc: random(&mut rng, [s, c / 2]),
            sin_sc: random(&mut rng, [s, c / 2]),
        };
        let leaves = [Leaf::Four(random(&mut rng, [b, s, h, c]))];
        compare(
            &format!("{:?}", [b, s, h, c]),
            &leaves,
            |l| B::rotary(l[0].four(), angles.clone()),
            |l| reference::rotary(l[0].four(), angles.clone()),
        );
    }
}

#[test]
fn linear_cross_entropy() {
    let mut rng = StdRng::seed_from_u64(5);
    for (t, d, v, j) in [(9, 5, 11, 1), (70, 16, 300, 4), (1, 3, 2, 1)] {
        let ids = (0..t * j).map(|_| rng.random_range(0..v as i32)).collect();
        let targets = SoftTargets {
            ids_tj: ints(ids, [t, j]),
            weights_tj: random(&mut rng, [t, j]).abs(),
        };
        let leaves = [
            Leaf::Two(random(&mut rng, [t, d])),
            Leaf::Two(random(&mut rng, [v, d])),
        ];
        compare(
            &format!("T {t} D {d} V {v} J {j}"),
            &leaves,
            |l| B::linear_cross_entropy(l[0].two(), l[1].two(), targets.clone(), F32),
            |l| reference::linear_cross_entropy(l[0].two(), l[1].two(), targets.clone(), F32),
        );
    }
}

#[test]
fn project() {
    let mut rng = StdRng::seed_from_u64(9);
    for (t, d, o) in [(7, 5, 3), (1, 1, 1), (300, 33, 130), (2, 70, 64)] {
        let leaves = [
            Leaf::Two(random(&mut rng, [t, d])),
            Leaf::Two(random(&mut rng, [d, o])),
        ];
        compare(
            &format!("T {t} D {d} O {o}"),
            &leaves,
            |l| B::project(l[0].two(), l[1].two(), F32),
            |l| reference::project(l[0].two(), l[1].two(), F32),
        );
    }
}

#[test]
fn sums() {
    let mut rng = StdRng::seed_from_u64(10);
    for shape in [[1, 1], [3, 41], [257, 300]] {
        let (a, b) = (
            random(&mut rng, shape).inner(),
            random(&mut rng, shape).inner(),
        );
        let norm = floats(Inner::squared_norm(a.clone()));
        let expected = floats(reference::squared_norm(a.clone()));
        assert!(error(&norm, &expected) < 1e-5, "{shape:?}");

        let (held, before) = (a.clone(), floats(a.clone()));
        let sum = floats(Inner::add(a.clone(), b.clone()));
        assert_eq!(sum, floats(reference::add(a, b)), "{shape:?}");
        // Somebody else's copy of the sum is not touched.
        assert_eq!(floats(held), before);
    }
}

#[test]
fn embed() {
    let mut rng = StdRng::seed_from_u64(6);
    let ids = ints((0..50).map(|_| rng.random_range(0..9)).collect(), [50]);
    compare(
        "50 of 9 rows",
        &[Leaf::Two(random(&mut rng, [9, 12]))],
        |l| B::embed(l[0].two(), ids.clone()),
        |l| reference::embed(l[0].two(), ids.clone()),
    );
}

#[test]
fn top_k() {
    let mut rng = StdRng::seed_from_u64(7);
    for (t, e, k) in [(40, 9, 3), (5, 4, 4), (3, 1, 1), (20, 300, 16)] {
        let scores = random(&mut rng, [t, e]).inner();
        let chosen = |indices: Tensor<Inner, 2, Int>| -> Vec<i64> {
            indices.into_data().iter::<i64>().collect()
        };
        assert_eq!(
            chosen(Inner::top_k(scores.clone(), k)),
            chosen(reference::top_k(scores, k))
        );
    }
}

#[test]
fn adamw() {
    let mut rng = StdRng::seed_from_u64(8);
    let update = Update {
        lr: 0.1,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-6,
        weight_decay: 0.05,
        correction_1: 0.4,
        correction_2: 0.2,
        gradient_scale: 0.7,
    };
    let shape = [3, 41];
    let mut draw = || random(&mut rng, shape).inner();
    let (p, g, m, v) = (draw(), draw(), draw(), draw().abs());
    let held = p.clone();
    let before = floats(p.clone());
    let found = Inner::adamw(p.clone(), g.clone(), (m.clone(), v.clone()), update);
    let expected = reference::adamw(p, g, (m, v), update);
    for (found, expected) in [
        (found.0, expected.0),
        (found.1, expected.1),
        (found.2, expected.2),
    ] {
        assert!(error(&floats(found), &floats(expected)) < 1e-5);
    }
    // Somebody else's copy of the parameter is not touched.
    assert_eq!(floats(held), before);
}
