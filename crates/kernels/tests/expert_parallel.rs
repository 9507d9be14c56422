//! Experts that are spread over a team against the same experts on one device.

#![allow(clippy::unwrap_used)]

use std::{ops::Range, thread};

use burn::{
    backend::Autodiff,
    tensor::{Int, Tensor, TensorData, TensorPrimitive, ops::FloatTensor},
};
use burn_flex::{Flex, FlexDevice};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::index};
use upcycle_kernels::{ExpertWeights, MoeBackend, Precision, padded, reference};
use upcycle_team::Team;

type A = Autodiff<Flex>;

const D: usize = 13;
const F: usize = 7;
const E: usize = 12;

/// Arguments of the experts for the tokens of all members, and a gradient of their output.
struct Case {
    x_td: Tensor<Flex, 2>,
    weights: ExpertWeights<Flex>,
    experts_tk: Tensor<Flex, 2, Int>,
    gates_tk: Tensor<Flex, 2>,
    dy_td: Tensor<Flex, 2>,
}

/// The output, then the gradients of `x`, gate, up and down weights, and gates.
type Results = [Vec<f32>; 6];

impl Case {
    /// Each token has `k` of the experts in `used`.
    fn new(tokens: usize, k: usize, used: &[usize]) -> Self {
        let mut rng = StdRng::seed_from_u64((tokens * 10 + k) as u64);
        let experts: Vec<i32> = (0..tokens)
            .flat_map(|_| index::sample(&mut rng, used.len(), k).into_vec())
            .map(|place| used[place] as i32)
            .collect();
        let experts = TensorData::new(experts, [tokens, k]);
        Self {
            x_td: random(&mut rng, [tokens, D]),
            weights: ExpertWeights {
                gate_edf: random(&mut rng, [E, D, F]),
                up_edf: random(&mut rng, [E, D, F]),
                down_efd: random(&mut rng, [E, F, D]),
            },
            experts_tk: Tensor::from_data(experts, &FlexDevice),
            gates_tk: random(&mut rng, [tokens, k]),
            dy_td: random(&mut rng, [tokens, D]),
        }
    }

    /// What a member finds for its tokens and its experts.
    fn run(&self, tokens: Range<usize>, team: &Team, precision: Precision) -> Results {
        let block = E / team.size();
        let own = |weight: &Tensor<Flex, 3>| {
            let own = weight.clone().narrow(0, team.rank() * block, block);
            Tensor::<A, 3>::from_inner(own).require_grad()
        };
        let rows = |rows: &Tensor<Flex, 2>| {
            let rows = rows.clone().narrow(0, tokens.start, tokens.len());
            Tensor::<A, 2>::from_inner(rows)
        };
        let weights = ExpertWeights {
            gate_edf: own(&self.weights.gate_edf),
            up_edf: own(&self.weights.up_edf),
            down_efd: own(&self.weights.down_efd),
        };
        let experts_tk = self.experts_tk.clone();
        let experts_tk = experts_tk.narrow(0, tokens.start, tokens.len());
        let [x_td, gates_tk] = [&self.x_td, &self.gates_tk].map(|it| rows(it).require_grad());
        let y_td = A::expert_ffn_of_team(
            x_td.clone(),
            weights.clone(),
            Tensor::from_inner(experts_tk),
            gates_tk.clone(),
            precision,
            team,
        );
        let gradients = (y_td.clone() * rows(&self.dy_td)).sum().backward();
        [
            values(y_td.inner()),
            values(x_td.grad(&gradients).unwrap()),
            values(weights.gate_edf.grad(&gradients).unwrap()),
            values(weights.up_edf.grad(&gradients).unwrap()),
            values(weights.down_efd.grad(&gradients).unwrap()),
            values(gates_tk.grad(&gradients).unwrap()),
        ]
    }

    /// What one device finds.
    fn alone(&self, precision: Precision) -> Results {
        let [tokens, _] = self.x_td.dims();
        self.run(0..tokens, &Team::alone(), precision)
    }

    /// What members find who have so many of the tokens each, one after the other.
    fn spread(&self, shares: &[usize], precision: Precision) -> Results {
        let mut first = 0;
        let mut members = Vec::new();
        for (team, share) in Team::threads(shares.len()).into_iter().zip(shares) {
            members.push((team, first..first + share));
            first += share;
        }
        let found: Vec<Results> = thread::scope(|scope| {
            let work = |(team, tokens): (Team, Range<usize>)| {
                scope.spawn(move || {
                    let found = <Flex as MoeBackend>::run(|| self.run(tokens, &team, precision));
                    team.leave();
                    found
                })
            };
            let threads: Vec<_> = members.into_iter().map(work).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        std::array::from_fn(|index| {
            let parts: Vec<Vec<f32>> = found.iter().map(|member| member[index].clone()).collect();
            parts.concat()
        })
    }
}

fn random<const N: usize>(rng: &mut StdRng, shape: [usize; N]) -> Tensor<Flex, N> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), &FlexDevice)
}

fn values<const N: usize>(tensor: Tensor<Flex, N>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn close(found: &Results, expected: &Results, bound: f32, case: &str) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{case}, {index}");
        let largest = expected.iter().fold(1e-2_f32, |max, v| max.max(v.abs()));
        for (a, b) in found.iter().zip(expected) {
            let error = (a - b).abs() / largest;
            assert!(error < bound, "{case}, {index} (0 is the output): {a} {b}");
        }
    }
}

const SHARES: [&[usize]; 2] = [&[5, 8], &[3, 1, 6, 2]];

#[test]
fn spread_experts_are_those_of_one_device() {
    let all: Vec<usize> = (0..E).collect();
    // Some experts without tokens, some members without; all rows to the last member.
    for used in [&all[..], &[0, 5, 7], &[9, 10, 11]] {
        for k in 1..=3 {
            for shares in SHARES {
                let case = Case::new(shares.iter().sum(), k, used);
                let found = case.spread(shares, Precision::F32);
                let name = format!("K {k}, {used:?}, {shares:?}");
                close(&found, &case.alone(Precision::F32), 1e-5, &name);
                assert_eq!(found, case.spread(shares, Precision::F32), "{name}");
            }
        }
    }
}

/// The CPU has no kernels for bf16: the experts of a member are computed in padded batches.
#[test]
fn spread_experts_without_kernels_are_those_of_one_device() {
    for shares in SHARES {
        let case = Case::new(shares.iter().sum(), 2, &[0, 1, 4, 7, 11]);
        let found = case.spread(shares, Precision::Bf16);
        let name = format!("{shares:?}");
        close(&found, &case.alone(Precision::Bf16), 0.02, &name);
        assert_eq!(found, case.spread(shares, Precision::Bf16), "{name}");
    }
}

#[test]
fn padded_batches_are_the_reference() {
    for (tokens, k) in [(1, 1), (21, 2), (40, 3)] {
        let case = Case::new(tokens, k, &[0, 1, 4, 7, 11]);
        let weights = &case.weights;
        let leaves = [&weights.gate_edf, &weights.up_edf, &weights.down_efd]
            .map(|weight| Tensor::<A, 3>::from_inner(weight.clone()).require_grad());
        let [x_td, gates_tk] = [&case.x_td, &case.gates_tk]
            .map(|rows| Tensor::<A, 2>::from_inner(rows.clone()).require_grad());
        let [gate_edf, up_edf, down_efd] = leaves.clone();
        let y_td = reference::expert_ffn(
            x_td.clone(),
            ExpertWeights {
                gate_edf,
                up_edf,
                down_efd,
            },
            Tensor::from_inner(case.experts_tk.clone()),
            gates_tk.clone(),
            Precision::F32,
        );
        let dy_td = Tensor::from_inner(case.dy_td.clone());
        let gradients = (y_td.clone() * dy_td).sum().backward();
        let [gate, up, down] = leaves.map(|leaf| values(leaf.grad(&gradients).unwrap()));
        let expected = [
            values(y_td.inner()),
            values(x_td.grad(&gradients).unwrap()),
            gate,
            up,
            down,
            values(gates_tk.grad(&gradients).unwrap()),
        ];

        let traced = padded::expert_ffn(
            case.x_td.clone(),
            weights.clone(),
            case.experts_tk.clone(),
            case.gates_tk.clone(),
            Precision::F32,
        );
        let dy = case.dy_td.clone().into_primitive().tensor();
        let [x, gate, up, down, gates] = (traced.backward)(dy, [true; 5]).map(Option::unwrap);
        let found = [
            values(tensor::<2>(traced.output)),
            values(tensor::<2>(x)),
            values(tensor::<3>(gate)),
            values(tensor::<3>(up)),
            values(tensor::<3>(down)),
            values(tensor::<2>(gates)),
        ];
        close(&found, &expected, 1e-5, &format!("T {tokens} K {k}"));
    }
}

fn tensor<const N: usize>(primitive: FloatTensor<Flex>) -> Tensor<Flex, N> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A backward pass cannot return an error: the team keeps it.
#[test]
fn without_a_member_results_are_zeros() {
    let mut teams = Team::threads(2);
    drop(teams.pop());
    let team = teams.pop().unwrap();
    let case = Case::new(5, 2, &[0, 3, 8]);
    let found = case.run(0..5, &team, Precision::F32);
    assert!(team.fault().is_some());
    let half = E / 2 * D * F;
    let lengths = [5 * D, 5 * D, half, half, half, 5 * 2];
    for (found, length) in found.iter().zip(lengths) {
        assert_eq!(*found, vec![0.0; length]);
    }
}
