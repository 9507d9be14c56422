use super::{Random, assert_close, same_for_any_threads, wide};
use crate::cpu::{adamw, embedding, math, rms_norm, rotary, top_k};

#[test]
fn exponentials() {
    let mut x: Vec<f32> = (-8_733_000..=8_830_000)
        .step_by(37)
        .map(|i| i as f32 * 1e-5)
        .collect();
    let expected: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
    math::exp_in_place(&mut x);
    let worst = x
        .iter()
        .zip(&expected)
        .map(|(a, e)| (f64::from(*a) / e - 1.0).abs())
        .fold(0.0, f64::max);
    assert!(worst < 2e-7, "{worst:e}");

    let mut special = [
        f32::NEG_INFINITY,
        -1e30,
        -88.0,
        0.0,
        f32::NAN,
        1e9,
        f32::INFINITY,
    ];
    math::exp_in_place(&mut special);
    assert_eq!(special[..4], [0.0, 0.0, 0.0, 1.0]);
    assert!(special[4].is_nan() && special[5] > 2e38 && special[6] > 2e38);
}

#[test]
fn logarithms() {
    let mut x: Vec<f32> = (-300..300).map(|i| 1.25f32.powi(i)).collect();
    x.extend((0..100_000).map(|i| 0.5 + i as f32 * 2e-5));
    let expected: Vec<f64> = x.iter().map(|&x| f64::from(x).ln()).collect();
    math::ln_in_place(&mut x);
    for (a, e) in x.iter().zip(expected) {
        assert!(
            (f64::from(*a) - e).abs() <= 3e-7 * e.abs(),
            "{a} instead of {e}"
        );
    }
}

#[test]
fn silu() {
    let mut x: Vec<f32> = (-1000..1000).map(|i| i as f32 * 0.1).collect();
    let expected: Vec<f64> = wide(&x).iter().map(|x| x / (1.0 + (-x).exp())).collect();
    math::silu_in_place(&mut x);
    assert_close("silu", &x, &expected);
}

#[test]
fn rms_norm_forward_and_backward() {
    for (t, d) in [(1, 1), (5, 7), (130, 64), (65, 100), (0, 3)] {
        let mut random = Random(t as u64);
        let (x, scale, dy) = (random.values(t * d), random.values(d), random.values(t * d));
        let eps = 1e-3;
        let run = || {
            let (y, inverse) = rms_norm::forward(&x, &scale, eps);
            let (dx, dscale) = rms_norm::backward(&x, &scale, &inverse, &dy);
            vec![y, inverse, dx, dscale]
        };
        let (wide_x, wide_scale, wide_dy) = (wide(&x), wide(&scale), wide(&dy));
        let (mut y, mut inverses, mut dx, mut dscale) = (vec![], vec![], vec![], vec![0.0; d]);
        for row in 0..t {
            let (x, dy) = (
                &wide_x[row * d..(row + 1) * d],
                &wide_dy[row * d..(row + 1) * d],
            );
            let mean = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
            let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
            let sum: f64 = (0..d).map(|i| x[i] * dy[i] * wide_scale[i]).sum();
            inverses.push(inverse);
            for i in 0..d {
                y.push(x[i] * inverse * wide_scale[i]);
                dx.push(inverse * dy[i] * wide_scale[i] - x[i] * inverse.powi(3) * sum / d as f64);
                dscale[i] += dy[i] * x[i] * inverse;
            }
        }
        let actual = run();
        assert_close("y", &actual[0], &y);
        assert_close("inverse_rms", &actual[1], &inverses);
        // Of a single channel the gradient nearly vanishes.
        if d > 1 {
            assert_close("dx", &actual[2], &dx);
        }
        assert_close("dscale", &actual[3], &dscale);
        same_for_any_threads(run);
    }
}

#[test]
fn rotary_turns_and_turns_back() {
    for [batch, positions, heads, width] in
        [[1, 1, 1, 2], [2, 9, 3, 6], [3, 70, 2, 32], [0, 4, 2, 8]]
    {
        let mut random = Random(width as u64);
        let n = batch * positions * heads * width;
        let (x, half) = (random.values(n), width / 2);
        let angles = random.values(positions * half);
        let cos: Vec<f32> = angles.iter().map(|x| x.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|x| x.sin()).collect();
        let shape = rotary::Shape {
            batch,
            positions,
            heads,
            width,
        };
        let y = rotary::apply(&x, &cos, &sin, shape, rotary::Turn::Forward);
        let expected: Vec<f64> = (0..n)
            .map(|i| {
                let (channel, position) = (i % width, i / (width * heads) % positions);
                let at = position * half + channel % half;
                let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                if channel < half {
                    f64::from(x[i]) * cos - f64::from(x[i + half]) * sin
                } else {
                    f64::from(x[i]) * cos + f64::from(x[i - half]) * sin
                }
            })
            .collect();
        assert_close("turned", &y, &expected);
        let back = rotary::apply(&y, &cos, &sin, shape, rotary::Turn::Backward);
        assert_close("turned back", &back, &wide(&x));
    }
}

#[test]
fn adamw_steps() {
    for n in [0, 1, 37, 70_000] {
        let mut random = Random(n as u64);
        let (mut p, mut m, mut v) = (random.values(n), random.values(n), random.values(n));
        v.iter_mut().for_each(|v| *v = v.abs());
        let g = random.values(n);
        let u = crate::adamw::Update {
            lr: 0.01,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            correction_1: 0.1,
            correction_2: 0.05,
            gradient_scale: 0.25,
        };
        let f = |x: f32| f64::from(x);
        let (mut ep, mut em, mut ev) = (vec![], vec![], vec![]);
        for i in 0..n {
            let g = f(g[i]) * f(u.gradient_scale);
            let m = f(m[i]) * f(u.beta_1) + g * (1.0 - f(u.beta_1));
            let v = f(v[i]) * f(u.beta_2) + g * g * (1.0 - f(u.beta_2));
            let root = (v / f(u.correction_2)).sqrt() + f(u.epsilon);
            ep.push(
                f(p[i]) * (1.0 - f(u.lr) * f(u.weight_decay))
                    - m / root * f(u.lr) / f(u.correction_1),
            );
            em.push(m);
            ev.push(v);
        }
        adamw::step(&mut p, &mut m, &mut v, &g, &u);
        assert_close("parameter", &p, &ep);
        assert_close("moment 1", &m, &em);
        assert_close("moment 2", &v, &ev);
    }
}

#[test]
fn top_k_with_ties_and_nan() {
    let mut random = Random(7);
    for (t, e, k) in [
        (3, 1, 1),
        (100, 8, 8),
        (200, 16, 2),
        (50, 100, 16),
        (20, 512, 8),
        (0, 4, 2),
        (30, 33, 33),
    ] {
        // Few distinct values: many ties.
        let values = [
            f32::NAN,
            f32::NEG_INFINITY,
            -1.5,
            -0.0,
            0.0,
            0.5,
            2.0,
            f32::INFINITY,
        ];
        for ties in [false, true] {
            let scores: Vec<f32> = if ties {
                (0..t * e)
                    .map(|_| values[random.below(values.len())])
                    .collect()
            } else {
                random.values(t * e)
            };
            let actual = top_k::select(&scores, e, k);
            for (row, actual) in scores.chunks(e).zip(actual.chunks(k)) {
                let mut order: Vec<usize> = (0..e).collect();
                order.sort_by(|&a, &b| {
                    let (a, b) = (row[a], row[b]);
                    a.is_nan()
                        .cmp(&b.is_nan())
                        .then(b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal))
                });
                let expected: Vec<i32> = order[..k].iter().map(|&i| i as i32).collect();
                assert_eq!(actual, expected, "{row:?}");
            }
        }
    }
}

#[test]
fn embedding_gradients() {
    for (t, v, d) in [(0, 5, 3), (1, 1, 1), (300, 90, 20), (50, 1000, 33)] {
        let mut random = Random(v as u64);
        let (dy, ids) = (random.values(t * d), random.ids(t, v));
        let mut expected = vec![0.0; v * d];
        for (i, x) in dy.iter().enumerate() {
            expected[ids[i / d] as usize * d + i % d] += f64::from(*x);
        }
        assert_close("table", &embedding::backward(&dy, &ids, v, d), &expected);
        same_for_any_threads(|| vec![embedding::backward(&dy, &ids, v, d)]);
    }
}
