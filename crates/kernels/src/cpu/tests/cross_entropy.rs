use super::{Random, assert_close, same_for_any_threads, wide};
use crate::cpu::cross_entropy::{Inputs, Shape, backward, forward};

struct Case {
    shape: Shape,
    x: Vec<f32>,
    head: Vec<f32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    dloss: Vec<f32>,
}

impl Case {
    fn new(seed: u64, [tokens, model, vocabulary, targets]: [usize; 4]) -> Self {
        let mut random = Random(seed);
        Self {
            shape: Shape {
                tokens,
                model,
                vocabulary,
                targets,
            },
            x: random.values(tokens * model),
            head: random.values(vocabulary * model),
            ids: random.ids(tokens * targets, vocabulary),
            weights: random
                .values(tokens * targets)
                .into_iter()
                .map(|w| if w < -0.8 { 0.0 } else { w + 0.8 })
                .collect(),
            dloss: random.values(tokens),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            shape: self.shape,
            x: &self.x,
            head: &self.head,
            ids: &self.ids,
            weights: &self.weights,
        }
    }

    /// `loss, dx, dhead`.
    fn run(&self) -> Vec<Vec<f32>> {
        let (loss, saved) = forward(&self.inputs(), true);
        let (dx, dhead) = backward(&self.inputs(), &saved.unwrap(), &self.dloss);
        vec![loss, dx, dhead]
    }

    fn naive(&self) -> Vec<Vec<f64>> {
        let Shape {
            tokens: t,
            model: d,
            vocabulary: v,
            targets,
        } = self.shape;
        let (x, head, weights, dloss) = (
            wide(&self.x),
            wide(&self.head),
            wide(&self.weights),
            wide(&self.dloss),
        );
        let (mut loss, mut dx, mut dhead) = (vec![0.0; t], vec![0.0; t * d], vec![0.0; v * d]);
        for token in 0..t {
            let x = &x[token * d..(token + 1) * d];
            let logits: Vec<f64> = (0..v)
                .map(|id| (0..d).map(|i| x[i] * head[id * d + i]).sum())
                .collect();
            let max = logits.iter().fold(f64::MIN, |m, x| m.max(*x));
            let log_sum = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            let mut dlogits = vec![0.0; v];
            let own = token * targets..(token + 1) * targets;
            for (id, weight) in self.ids[own.clone()].iter().zip(&weights[own]) {
                let id = *id as usize;
                loss[token] += weight * (log_sum - logits[id]);
                dlogits[id] -= weight * dloss[token];
                for (dlogit, logit) in dlogits.iter_mut().zip(&logits) {
                    *dlogit += weight * dloss[token] * (logit - log_sum).exp();
                }
            }
            for id in 0..v {
                for i in 0..d {
                    dx[token * d + i] += dlogits[id] * head[id * d + i];
                    dhead[id * d + i] += dlogits[id] * x[i];
                }
            }
        }
        vec![loss, dx, dhead]
    }

    #[track_caller]
    fn check(&self) {
        for ((name, actual), expected) in ["loss", "dx", "dhead"]
            .iter()
            .zip(self.run())
            .zip(self.naive())
        {
            assert_close(&format!("{name} of {:?}", self.shape), &actual, &expected);
        }
        let (loss, saved) = forward(&self.inputs(), false);
        assert!(saved.is_none());
        assert_close("loss without keeping", &loss, &self.naive()[0]);
    }
}

#[test]
fn random_shapes() {
    let shapes = [
        [1, 1, 2, 1],
        [30, 8, 17, 1],
        [300, 20, 257, 3],
        [70, 12, 1100, 2],
        [5, 16, 600, 0],
        [0, 4, 9, 1],
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        Case::new(seed as u64, shape).check();
    }
}

#[test]
fn logits_too_many_to_keep() {
    Case::new(20, [420, 3, 40_000, 1]).check();
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let case = Case::new(21, [600, 40, 700, 2]);
    same_for_any_threads(|| case.run());
}
