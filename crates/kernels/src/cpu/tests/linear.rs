use super::{Random, assert_close, wide};
use crate::cpu::{
    linear::{Fetch, Product, matmul, matmul_add, matmul_parallel, multiply, multiply_elsewhere},
    view::{View, ViewMut},
};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{math::Level, panels};

fn naive([m, k, n]: [usize; 3], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
        }
    }
    out
}

fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols)
        .map(|i| x[i % rows * cols + i / rows])
        .collect()
}

#[test]
fn products_of_all_layouts() {
    let mut random = Random(1);
    let shapes = [
        [1, 1, 1],
        [3, 5, 2],
        [17, 33, 19],
        [1, 64, 300],
        [300, 64, 1],
        [130, 300, 150],
        [200, 70, 256],
        [33, 1, 65],
        [5, 1100, 40],
        [61, 48, 64],
    ];
    for [m, k, n] in shapes {
        let (a, b) = (random.values(m * k), random.values(k * n));
        let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
        let expected = naive([m, k, n], &wide(&a), &wide(&b));
        let twice: Vec<f64> = expected.iter().map(|x| 2.0 * x).collect();
        for a in [View::of_rows(&a, k), View::of_rows(&a_t, m).t()] {
            for b in [View::of_rows(&b, n), View::of_rows(&b_t, k).t()] {
                let mut out = vec![f32::NAN; m * n];
                matmul(a, b, ViewMut::of_rows(&mut out, n));
                assert_close("matmul", &out, &expected);
                let mut out = vec![f32::NAN; m * n];
                matmul_parallel(a, b, ViewMut::of_rows(&mut out, n));
                assert_close("matmul_parallel", &out, &expected);
                matmul_add(a, b, ViewMut::of_rows(&mut out, n));
                assert_close("matmul_add", &out, &twice);
                for (name, multiply) in WAYS {
                    let mut out = vec![f32::NAN; m * n];
                    multiply(a, b, ViewMut::of_rows(&mut out, n), Product::default());
                    assert_close(name, &out, &expected);
                    let how = Product {
                        add: true,
                        ..Product::default()
                    };
                    multiply(a, b, ViewMut::of_rows(&mut out, n), how);
                    assert_close(name, &out, &twice);
                }
            }
        }
    }
}

type Multiply = fn(View, View, ViewMut, Product);

/// Products by every instruction set that this processor may have, and by those that all have.
const WAYS: [(&str, Multiply); 4] = [
    ("multiply", multiply),
    ("AVX-512", |a, b, out, how| {
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512 = Level::detect() {
            // SAFETY: the processor has the instructions, and the shapes match.
            return unsafe { panels::avx512::multiply(a, b, out, how) };
        }
        multiply(a, b, out, how);
    }),
    ("AVX2", |a, b, out, how| {
        #[cfg(target_arch = "x86_64")]
        if let Level::Avx512 | Level::Avx2 = Level::detect() {
            // SAFETY: the processor has the instructions, and the shapes match.
            return unsafe { panels::avx2::multiply(a, b, out, how) };
        }
        multiply(a, b, out, how);
    }),
    ("elsewhere", |a, b, out, how| {
        multiply_elsewhere(a, b, out, how.add);
    }),
];

#[test]
fn what_is_fetched_and_how_it_is_written_changes_no_bit() {
    let mut random = Random(2);
    let [m, k, n] = [70, 90, 128];
    let (a, b) = (random.values(k * m), random.values(k * n));
    let (a, b) = (View::of_rows(&a, m).t(), View::of_rows(&b, n));
    let mut expected = vec![f32::NAN; m * n];
    matmul(a, b, ViewMut::of_rows(&mut expected, n));
    let next = random.values(30);
    let next = View::of_rows(&next, 3);
    for stream in [false, true] {
        for fetch in [
            Fetch::Out,
            Fetch::Right(Some(next)),
            Fetch::Right(Some(next.t())),
        ] {
            let how = Product {
                add: false,
                stream,
                fetch,
            };
            // From the start of a cache line, where alone it can be written past the caches, and from elsewhere.
            for offset in [0, 1] {
                let mut memory = vec![f32::NAN; m * n + 32];
                let start = memory.as_ptr().align_offset(64) + offset;
                let out = &mut memory[start..start + m * n];
                multiply(a, b, ViewMut::of_rows(out, n), how);
                assert_eq!(out, expected);
                assert!(memory[..start].iter().all(|x| x.is_nan()));
                assert!(memory[start + m * n..].iter().all(|x| x.is_nan()));
            }
        }
    }
}

#[test]
fn an_empty_sum_is_zero() {
    let mut out = vec![f32::NAN; 6];
    matmul(
        View::new(&[], [2, 0], 0),
        View::new(&[], [0, 3], 3),
        ViewMut::of_rows(&mut out, 3),
    );
    assert_eq!(out, [0.0; 6]);
}

#[test]
fn parts_of_views() {
    let data: Vec<f32> = (0..20).map(|i| i as f32).collect();
    let view = View::of_rows(&data, 5).rows(1..3).cols(2..4);
    let identity = [1.0, 0.0, 0.0, 1.0];
    let mut out = vec![0.0; 4];
    matmul(
        view,
        View::of_rows(&identity, 2),
        ViewMut::of_rows(&mut out, 2),
    );
    assert_eq!(out, [7.0, 8.0, 12.0, 13.0]);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_view_must_fit() {
    View::new(&[0.0; 5], [2, 3], 3);
}
