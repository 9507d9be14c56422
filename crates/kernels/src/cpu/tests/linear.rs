use super::{Random, assert_close, wide};
use crate::cpu::{
    linear::{matmul, matmul_add, matmul_parallel},
    view::{View, ViewMut},
};

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
    ];
    for [m, k, n] in shapes {
        let (a, b) = (random.values(m * k), random.values(k * n));
        let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
        let expected = naive([m, k, n], &wide(&a), &wide(&b));
        for a in [View::of_rows(&a, k), View::of_rows(&a_t, m).t()] {
            for b in [View::of_rows(&b, n), View::of_rows(&b_t, k).t()] {
                let mut out = vec![f32::NAN; m * n];
                matmul(a, b, ViewMut::of_rows(&mut out, n));
                assert_close("matmul", &out, &expected);
                let mut out = vec![f32::NAN; m * n];
                matmul_parallel(a, b, ViewMut::of_rows(&mut out, n));
                assert_close("matmul_parallel", &out, &expected);
                matmul_add(a, b, ViewMut::of_rows(&mut out, n));
                let twice: Vec<f64> = expected.iter().map(|x| 2.0 * x).collect();
                assert_close("matmul_add", &out, &twice);
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
