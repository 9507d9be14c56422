//! Head and attention block by block against their reference bodies, and what they need of memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Mutex;

use burn::{
    backend::Autodiff,
    tensor::{Distribution, Int, Tensor, TensorData, TensorPrimitive, backend::Backend},
};
use burn_flex::Flex;
use peak_alloc::PeakAlloc;
use upcycle_kernels::{MoeBackend, Precision, SoftTargets, Traced, blocks, reference};

type A = Autodiff<Flex>;

/// One test at a time, since all share the counters.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes that `work` needs beyond those that are there.
fn peak(work: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    ALLOCATOR.peak_usage() - before
}

fn random<B: Backend, const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3_f32, |max, v| max.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-4 * largest, "{what}: {a} {b}");
    }
}

fn float<const D: usize>(tensor: Tensor<Flex, D>) -> burn::tensor::ops::FloatTensor<Flex> {
    tensor.into_primitive().tensor()
}

fn of<const D: usize>(primitive: burn::tensor::ops::FloatTensor<Flex>) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn targets<B: Backend>(t: usize, v: usize, j: usize) -> SoftTargets<B> {
    let device = Default::default();
    let ids: Vec<i32> = (0..t * j).map(|i| (i * 7 % v) as i32).collect();
    let weights: Vec<f32> = (0..t * j).map(|i| (i % 3) as f32 * 0.5).collect();
    SoftTargets {
        ids_tj: Tensor::<B, 2, Int>::from_data(TensorData::new(ids, [t, j]), &device),
        weights_tj: Tensor::from_data(TensorData::new(weights, [t, j]), &device),
    }
}

/// Output and gradients of a traced body, all of them and each alone.
fn run<const N: usize, const D: usize>(
    traced: Traced<Flex, N>,
    dy: &Tensor<Flex, D>,
) -> Vec<Vec<f32>> {
    let mut all = vec![values::<D>(of(traced.output.clone()))];
    let together = (traced.backward)(float(dy.clone()), [true; N]);
    for (index, gradient) in together.into_iter().enumerate() {
        let gradient = gradient.unwrap();
        let mut alone = [false; N];
        alone[index] = true;
        let alone = (traced.backward)(float(dy.clone()), alone);
        for (other, found) in alone.into_iter().enumerate() {
            assert_eq!(found.is_some(), other == index);
            if let Some(found) = found {
                let flat = |it| -> Vec<f32> { Flex::float_into_vec(it) };
                assert_eq!(flat(found), flat(gradient.clone()));
            }
        }
        all.push(Flex::float_into_vec(gradient));
    }
    all
}

/// Values of a primitive of any rank.
trait IntoVec: Backend {
    fn float_into_vec(tensor: burn::tensor::ops::FloatTensor<Self>) -> Vec<f32>;
}

impl IntoVec for Flex {
    fn float_into_vec(tensor: burn::tensor::ops::FloatTensor<Self>) -> Vec<f32> {
        use burn::tensor::TensorMetadata;
        match tensor.shape().num_dims() {
            2 => values::<2>(of(tensor)),
            _ => values::<4>(of(tensor)),
        }
    }
}

#[test]
fn the_head_in_blocks_is_the_reference() {
    let _turn = TURN.lock().unwrap();
    for (t, d, v, j, limit) in [
        (13, 6, 17, 1, 17 * 4),
        (13, 6, 17, 3, 17),
        (8, 5, 9, 2, 1),
        (8, 5, 9, 2, 1 << 20),
    ] {
        let (x, head, dy): (Tensor<A, 2>, Tensor<A, 2>, Tensor<Flex, 1>) =
            (random([t, d]), random([v, d]), random([t]));
        let (x, head) = (x.require_grad(), head.require_grad());
        let loss = reference::linear_cross_entropy(
            x.clone(),
            head.clone(),
            targets(t, v, j),
            Precision::F32,
        );
        let weighted = loss.clone() * Tensor::from_inner(dy.clone());
        let gradients = weighted.sum().backward();
        let expected = [
            values(loss.inner()),
            values(x.grad(&gradients).unwrap()),
            values(head.grad(&gradients).unwrap()),
        ];
        let traced = blocks::linear_cross_entropy(
            x.inner(),
            head.inner(),
            targets(t, v, j),
            Precision::F32,
            limit,
        );
        for (index, found) in run(traced, &dy).iter().enumerate() {
            close(
                found,
                &expected[index],
                &format!("{t} {v} {limit}: {index}"),
            );
        }
    }
}

#[test]
fn attention_in_blocks_is_the_reference() {
    let _turn = TURN.lock().unwrap();
    for (b, s, h, g, c, limit) in [
        (2, 13, 4, 2, 6, 4 * 13 * 5),
        (3, 7, 2, 2, 4, 1),
        (3, 140, 3, 1, 4, 2 * 3 * 140 * 128),
        (1, 9, 4, 1, 2, 1 << 20),
    ] {
        let query = [b, s, h, c];
        let key = [b, s, g, c];
        let inputs: [Tensor<A, 4>; 3] = [random(query), random(key), random(key)];
        let [q, k, v] = inputs.map(Tensor::require_grad);
        let dy: Tensor<Flex, 4> = random(query);
        let y = reference::causal_attention(q.clone(), k.clone(), v.clone(), Precision::F32);
        let gradients = (y.clone() * Tensor::from_inner(dy.clone()))
            .sum()
            .backward();
        let expected = [
            values(y.inner()),
            values(q.grad(&gradients).unwrap()),
            values(k.grad(&gradients).unwrap()),
            values(v.grad(&gradients).unwrap()),
        ];
        let [q, k, v] = [q, k, v].map(Tensor::inner);
        let traced = blocks::causal_attention(q, k, v, Precision::F32, limit);
        for (index, found) in run(traced, &dy).iter().enumerate() {
            close(
                found,
                &expected[index],
                &format!("{b} {s} {limit}: {index}"),
            );
        }
    }
}

#[test]
fn attention_of_the_last_positions_is_a_part_of_that_of_all() {
    let _turn = TURN.lock().unwrap();
    let (b, s, h, g, c) = (2, 13, 4, 2, 6);
    let q: Tensor<Flex, 4> = random([b, s, h, c]);
    let [k, v]: [Tensor<Flex, 4>; 2] = [random([b, s, g, c]), random([b, s, g, c])];
    let all = Flex::causal_attention(q.clone(), k.clone(), v.clone(), Precision::F32);
    for n in [1, 2, 12, 13] {
        let last = q.clone().narrow(1, s - n, n);
        let found = Flex::cached_attention(last, k.clone(), v.clone(), Precision::F32);
        let expected = all.clone().narrow(1, s - n, n);
        close(&values(found), &values(expected), &format!("last {n}"));
    }
}

/// Of twice the tokens, what is needed in addition is some rows of width D a token, and no logits.
#[test]
fn the_heads_memory_has_no_term_in_tokens_times_vocabulary() {
    let _turn = TURN.lock().unwrap();
    let (d, v, limit) = (16, 20_000, 1 << 20);
    let need = |t: usize| {
        let (x, head, dy) = (
            random::<Flex, 2>([t, d]),
            random([v, d]),
            random::<Flex, 1>([t]),
        );
        peak(|| {
            let traced =
                blocks::linear_cross_entropy(x, head, targets(t, v, 1), Precision::F32, limit);
            (traced.backward)(float(dy), [true; 2]);
        })
    };
    need(64);
    let (once, twice) = (need(512), need(1024));
    let logits = 4 * 512 * v;
    assert!(twice < once + 512 * 4 * (6 * d + 64), "{once} {twice}");
    assert!(once < 8 * 4 * limit && once < logits, "{once} of {logits}");
}

/// Of twice the sequence, what is needed in addition is some rows of width H C a token, and no scores.
#[test]
fn attentions_memory_is_linear_in_the_sequence() {
    let _turn = TURN.lock().unwrap();
    let (h, c, limit) = (2, 8, 1 << 18);
    let need = |s: usize| {
        let q = || random::<Flex, 4>([1, s, h, c]);
        let (q, k, v, dy) = (q(), q(), q(), q());
        peak(|| {
            let traced = blocks::causal_attention(q, k, v, Precision::F32, limit);
            (traced.backward)(float(dy), [true; 3]);
        })
    };
    need(64);
    let (once, twice) = (need(4096), need(8192));
    let row = 4 * h * c;
    assert!(twice < once + 4096 * 24 * row, "{once} {twice}");
    assert!(twice < 4 * h * 8192 * 8192 / 16, "{twice}");
}

#[test]
fn bf16_operands_are_close() {
    let _turn = TURN.lock().unwrap();
    let (x, head) = (random::<Flex, 2>([20, 8]), random::<Flex, 2>([30, 8]));
    let dy: Tensor<Flex, 1> = random([20]);
    let [exact, rough] = [Precision::F32, Precision::Bf16].map(|precision| {
        let targets = targets(20, 30, 1);
        let traced = blocks::linear_cross_entropy(x.clone(), head.clone(), targets, precision, 90);
        run(traced, &dy)
    });
    for (exact, rough) in exact.iter().zip(&rough) {
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|it| it * it).sum::<f32>().sqrt();
        let apart = norm(&mut exact.iter().zip(rough).map(|(a, b)| a - b));
        let whole = norm(&mut exact.iter().copied());
        assert!(apart > 0.0 && apart < 0.02 * whole, "{apart} of {whole}");
    }
}
