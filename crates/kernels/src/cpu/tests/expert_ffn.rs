use super::{Random, assert_close, same_for_any_threads, wide};
use crate::cpu::expert_ffn::{Inputs, Needs, Shape, backward, forward};

struct Case {
    shape: Shape,
    x: Vec<f32>,
    weights: [Vec<f32>; 3],
    experts: Vec<i32>,
    gates: Vec<f32>,
    dy: Vec<f32>,
}

const ALL: Needs = Needs {
    x: true,
    weights: true,
    gates: true,
};

impl Case {
    /// Distinct random experts a token.
    fn new(random: &mut Random, shape: Shape) -> Self {
        let Shape {
            tokens: t,
            top_k: k,
            model: d,
            hidden: f,
            experts: e,
        } = shape;
        let mut experts = Vec::new();
        for _ in 0..t {
            let mut all: Vec<i32> = (0..e as i32).collect();
            for i in 0..k {
                let other = i + random.below(e - i);
                all.swap(i, other);
            }
            experts.extend(&all[..k]);
        }
        Self {
            shape,
            x: random.values(t * d),
            weights: [(); 3].map(|()| random.values(e * d * f)),
            experts,
            gates: random.values(t * k),
            dy: random.values(t * d),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        let [gate_w, up_w, down_w] = &self.weights;
        Inputs {
            shape: self.shape,
            x: &self.x,
            gate_w,
            up_w,
            down_w,
            experts: &self.experts,
            gates: &self.gates,
        }
    }

    /// `y, dx, dgate_w, dup_w, ddown_w, dgates`.
    fn run(&self) -> Vec<Vec<f32>> {
        let (y, saved) = forward(&self.inputs(), true);
        let all = backward(&self.inputs(), &saved.unwrap(), &self.dy, ALL);
        let weights = all.weights.unwrap();
        vec![
            y,
            all.x.unwrap(),
            weights.gate,
            weights.up,
            weights.down,
            all.gates.unwrap(),
        ]
    }

    fn naive(&self) -> Vec<Vec<f64>> {
        let Shape {
            tokens: t,
            top_k: k,
            model: d,
            hidden: f,
            ..
        } = self.shape;
        let (x, gates, dy) = (wide(&self.x), wide(&self.gates), wide(&self.dy));
        let [gate_w, up_w, down_w] = self.weights.each_ref().map(|w| wide(w));
        let (mut y, mut dx) = (vec![0.0; t * d], vec![0.0; t * d]);
        let (mut dgate_w, mut dup_w, mut ddown_w) = (
            vec![0.0; gate_w.len()],
            vec![0.0; gate_w.len()],
            vec![0.0; gate_w.len()],
        );
        let mut dgates = vec![0.0; t * k];
        for row in 0..t * k {
            let (token, expert) = (row / k, self.experts[row] as usize);
            let x = &x[token * d..(token + 1) * d];
            let dy = &dy[token * d..(token + 1) * d];
            for j in 0..f {
                let at = |i: usize| expert * d * f + i * f + j;
                let gate: f64 = (0..d).map(|i| x[i] * gate_w[at(i)]).sum();
                let up: f64 = (0..d).map(|i| x[i] * up_w[at(i)]).sum();
                let s = 1.0 / (1.0 + (-gate).exp());
                let h = gate * s * up;
                let down = &down_w[expert * d * f + j * d..][..d];
                let dh: f64 = (0..d).map(|i| dy[i] * down[i]).sum();
                dgates[row] += h * dh;
                let dh = dh * gates[row];
                let dup = dh * gate * s;
                let dgate = dh * up * (s + gate * s * (1.0 - s));
                for i in 0..d {
                    y[token * d + i] += gates[row] * h * down[i];
                    ddown_w[expert * d * f + j * d + i] += gates[row] * h * dy[i];
                    dgate_w[at(i)] += x[i] * dgate;
                    dup_w[at(i)] += x[i] * dup;
                    dx[token * d + i] += dgate * gate_w[at(i)] + dup * up_w[at(i)];
                }
            }
        }
        vec![y, dx, dgate_w, dup_w, ddown_w, dgates]
    }

    #[track_caller]
    fn check(&self) {
        let names = ["y", "dx", "dgate_w", "dup_w", "ddown_w", "dgates"];
        for ((name, actual), expected) in names.iter().zip(self.run()).zip(self.naive()) {
            assert_close(name, &actual, &expected);
        }
        let (y, saved) = forward(&self.inputs(), false);
        assert!(saved.is_none() && y == self.run()[0], "without keeping");
    }
}

fn shape(tokens: usize, top_k: usize, model: usize, hidden: usize, experts: usize) -> Shape {
    Shape {
        tokens,
        top_k,
        model,
        hidden,
        experts,
    }
}

#[test]
fn random_shapes() {
    let mut random = Random(2);
    for shape in [
        shape(1, 1, 1, 1, 1),
        shape(50, 2, 12, 20, 5),
        shape(37, 1, 33, 17, 4),
        shape(20, 4, 16, 48, 4),
        shape(9, 3, 40, 35, 64),
        shape(700, 2, 24, 40, 3),
        shape(200, 8, 64, 32, 16),
    ] {
        Case::new(&mut random, shape).check();
    }
}

#[test]
fn one_expert_has_all_rows_but_one() {
    let mut random = Random(3);
    let mut case = Case::new(&mut random, shape(600, 1, 20, 36, 4));
    case.experts.fill(2);
    case.check();
    case.experts[77] = 0;
    case.check();
    assert!(
        case.run()[2][20 * 36..2 * 20 * 36]
            .iter()
            .all(|x| *x == 0.0),
        "an expert without rows"
    );
}

#[test]
fn no_tokens() {
    let case = Case::new(&mut Random(4), shape(0, 2, 8, 8, 4));
    let all = case.run();
    assert!(all[0].is_empty() && all[2].iter().all(|x| *x == 0.0));
}

#[test]
fn only_what_is_asked_for() {
    let case = Case::new(&mut Random(5), shape(60, 2, 12, 20, 5));
    let full = case.run();
    let (_, saved) = forward(&case.inputs(), true);
    for bits in 0..8 {
        let needs = Needs {
            x: bits & 1 != 0,
            weights: bits & 2 != 0,
            gates: bits & 4 != 0,
        };
        let some = backward(&case.inputs(), saved.as_ref().unwrap(), &case.dy, needs);
        assert_eq!(some.x, needs.x.then(|| full[1].clone()));
        assert_eq!(
            some.weights.map(|w| w.up),
            needs.weights.then(|| full[3].clone())
        );
        assert_eq!(some.gates, needs.gates.then(|| full[5].clone()));
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let mut case = Case::new(&mut Random(6), shape(900, 2, 64, 80, 6));
    same_for_any_threads(|| case.run());
    case.experts.iter_mut().for_each(|e| *e = (*e).min(1));
    same_for_any_threads(|| case.run());
}
