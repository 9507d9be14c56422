use super::{Random, assert_close, same_for_any_threads, wide};
use crate::cpu::attention::{Inputs, Shape, backward, forward};

struct Case {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new(seed: u64, [batch, positions, heads, groups, width]: [usize; 5], size: f32) -> Self {
        let mut random = Random(seed);
        let (queries, keys) = (
            batch * positions * heads * width,
            batch * positions * groups * width,
        );
        let mut values = |n| random.values(n).into_iter().map(|x| x * size).collect();
        let shape = Shape {
            batch,
            positions,
            heads,
            groups,
            width,
        };
        Self {
            shape,
            q: values(queries),
            k: values(keys),
            v: values(keys),
            dout: values(queries),
        }
    }

    /// `out, log_sum_exp, dq, dk, dv`.
    fn run(&self) -> Vec<Vec<f32>> {
        let inputs = Inputs {
            shape: self.shape,
            q: &self.q,
            k: &self.k,
            v: &self.v,
        };
        let output = forward(&inputs);
        let gradients = backward(&inputs, &output.out, &output.log_sum_exp, &self.dout);
        vec![
            output.out,
            output.log_sum_exp,
            gradients.q,
            gradients.k,
            gradients.v,
        ]
    }

    fn naive(&self) -> Vec<Vec<f64>> {
        let Shape {
            batch,
            positions: s,
            heads,
            groups,
            width: c,
        } = self.shape;
        let (q, k, v, dout) = (
            wide(&self.q),
            wide(&self.k),
            wide(&self.v),
            wide(&self.dout),
        );
        let (mut out, mut dq) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; k.len()]);
        let mut log_sum_exp = vec![0.0; batch * heads * s];
        let scale = 1.0 / (c as f64).sqrt();
        for (b, h, i) in (0..batch * heads * s).map(|n| (n / (heads * s), n / s % heads, n % s)) {
            let g = h / (heads / groups);
            let at = ((b * s + i) * heads + h) * c;
            let key = |j: usize| ((b * s + j) * groups + g) * c;
            let dot = |x: &[f64], y: &[f64]| (0..c).map(|c| x[c] * y[c]).sum::<f64>();
            let scores: Vec<f64> = (0..=i)
                .map(|j| scale * dot(&q[at..], &k[key(j)..]))
                .collect();
            let max = scores.iter().fold(f64::MIN, |m, x| m.max(*x));
            let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
            log_sum_exp[(b * heads + h) * s + i] = max + sum.ln();
            let p: Vec<f64> = scores.iter().map(|x| (x - max).exp() / sum).collect();
            let dp: Vec<f64> = (0..=i).map(|j| dot(&dout[at..], &v[key(j)..])).collect();
            let mean: f64 = (0..=i).map(|j| p[j] * dp[j]).sum();
            for j in 0..=i {
                let ds = p[j] * (dp[j] - mean) * scale;
                for c in 0..c {
                    out[at + c] += p[j] * v[key(j) + c];
                    dv[key(j) + c] += p[j] * dout[at + c];
                    dq[at + c] += ds * k[key(j) + c];
                    dk[key(j) + c] += ds * q[at + c];
                }
            }
        }
        vec![out, log_sum_exp, dq, dk, dv]
    }
}

#[test]
fn random_shapes() {
    let shapes = [
        [1, 1, 1, 1, 1],
        [2, 7, 2, 2, 4],
        [1, 64, 4, 2, 8],
        [3, 65, 3, 1, 6],
        [2, 130, 4, 4, 32],
        [1, 200, 4, 1, 16],
        [1, 33, 2, 1, 128],
        [0, 10, 2, 2, 4],
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        let case = Case::new(seed as u64, shape, 1.5);
        let names = ["out", "log_sum_exp", "dq", "dk", "dv"];
        for ((name, actual), expected) in names.iter().zip(case.run()).zip(case.naive()) {
            // The gradient of the only score is zero, up to rounding.
            if shape[1] > 1 || !["dq", "dk"].contains(name) {
                assert_close(&format!("{name} of {shape:?}"), &actual, &expected);
            } else {
                assert!(actual.iter().all(|x| x.abs() < 1e-5), "{name} of {shape:?}");
            }
        }
    }
}

#[test]
fn large_scores_stay_finite() {
    let case = Case::new(9, [1, 100, 2, 1, 16], 40.0);
    for (actual, expected) in case.run().into_iter().zip(case.naive()).take(2) {
        assert!(actual.iter().all(|x| x.is_finite()));
        for (a, e) in actual.iter().zip(expected) {
            assert!((f64::from(*a) - e).abs() < 0.03, "{a} instead of {e}");
        }
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let case = Case::new(10, [2, 150, 4, 2, 24], 1.0);
    same_for_any_threads(|| case.run());
}
