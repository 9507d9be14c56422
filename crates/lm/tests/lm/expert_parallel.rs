//! Models whose experts are spread over a team against whole ones.

use std::{collections::BTreeMap, ops::Range, thread};

use burn::{
    backend::Autodiff,
    optim::GradientsParams,
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::{MoeBackend, Precision, SoftTargets};
use upcycle_lm::{
    LayerPattern, Lm, LmConfig, Objective, ParameterShape, WeightSink, WeightSource,
    parameter_shapes,
};
use upcycle_moe::{BalancingConfig, MoeModel};
use upcycle_team::Team;

type A = Autodiff<Flex>;

const SEQUENCES: usize = 4;
const LENGTH: usize = 11;
const EXPERTS: usize = 8;

fn config() -> LmConfig {
    LmConfig {
        vocab: 40,
        context: LENGTH,
        d_model: 24,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        d_ffn: 20,
        pattern: LayerPattern::List(vec![1, 2]),
        experts: EXPERTS,
        top_k: 2,
        d_expert: 10,
        d_shared: 6,
        ..LmConfig::default()
    }
}

/// Values by path.
type Values = BTreeMap<String, Vec<f32>>;

/// What every member makes of its place in a team, in the order of ranks.
fn on_team<R: Send>(members: usize, work: impl Fn(&Team) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (Team::threads(members).into_iter())
            .map(|team| {
                scope.spawn(move || {
                    let result = <Flex as MoeBackend>::run(|| work(&team));
                    team.leave();
                    result
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

fn part(team: &Team) -> Lm<A> {
    config().init_sharded(1, team, &FlexDevice).unwrap()
}

/// Gradients of all parameters of some sequences' part of the batch, and the loads of the layers.
fn gradients(model: &Lm<A>, sequences: Range<usize>, recompute: bool) -> Values {
    let positions = SEQUENCES * LENGTH;
    let own = sequences.start * LENGTH..sequences.end * LENGTH;
    let ids = |shift: usize| -> Vec<i32> {
        let id = |position: usize| ((position + shift) * (position + 7) % 40) as i32;
        own.clone().map(id).collect()
    };
    let (b, t) = (sequences.len(), own.len());
    let tokens = TensorData::new(ids(0), [b, LENGTH]);
    let targets = SoftTargets {
        ids_tj: Tensor::from_data(TensorData::new(ids(1), [t, 1]), &FlexDevice),
        weights_tj: Tensor::ones([t, 1], &FlexDevice),
    };
    let objective = Objective {
        scored: positions as f64,
        share: b as f32 / SEQUENCES as f32,
        balancing: &BalancingConfig::default(),
        precision: Precision::F32,
        recompute,
    };
    let tokens = Tensor::<A, 2, Int>::from_data(tokens, &FlexDevice);
    let backward = model.backward(tokens, targets, &objective, GradientsParams::new());
    let gradients = &backward.gradients;
    let of = |shape: &ParameterShape| match shape.dims.len() {
        1 => gradients.get::<Flex, 1>(shape.id).map(values),
        2 => gradients.get::<Flex, 2>(shape.id).map(values),
        _ => gradients.get::<Flex, 3>(shape.id).map(values),
    };
    let shapes = parameter_shapes(model);
    let found = shapes
        .iter()
        .filter_map(|shape| Some((shape.path.clone(), of(shape)?)));
    let loads = backward.loads.into_iter().enumerate();
    let loads = loads.map(|(layer, load_e)| (format!("load {layer}"), values(load_e.inner())));
    found.chain(loads).collect()
}

fn values<const N: usize>(tensor: Tensor<Flex, N>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

/// Blocks of experts one after the other; of all else the sum.
fn together(members: &[Values]) -> Values {
    let of = |path: &String| {
        let parts = members.iter().map(|member| member[path].clone());
        if path.contains(".experts.") {
            return parts.collect::<Vec<_>>().concat();
        }
        let add = |sum: Vec<f32>, part: Vec<f32>| -> Vec<f32> {
            sum.iter().zip(&part).map(|(a, b)| a + b).collect()
        };
        parts.reduce(add).unwrap()
    };
    members[0]
        .keys()
        .map(|path| (path.clone(), of(path)))
        .collect()
}

fn close(found: &Values, expected: &Values, bound: f32) {
    assert!(found.keys().eq(expected.keys()));
    for (path, expected) in expected {
        let found = &found[path];
        assert_eq!(found.len(), expected.len(), "{path}");
        let largest = expected.iter().fold(1e-3_f32, |max, v| max.max(v.abs()));
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < bound * largest, "{path}: {a} {b}");
        }
    }
}

#[test]
fn gradients_of_members_add_up_to_those_of_one_device() {
    for recompute in [false, true] {
        let whole = config().init::<A>(1, &FlexDevice).unwrap();
        let expected = gradients(&whole, 0..SEQUENCES, recompute);
        assert!(expected.keys().any(|path| path.contains(".experts.")));
        for members in [2, 4] {
            let step = || {
                on_team(members, |team| {
                    let each = SEQUENCES / members;
                    let own = team.rank() * each..(team.rank() + 1) * each;
                    gradients(&part(team), own, recompute)
                })
            };
            let found = step();
            close(&together(&found), &expected, 1e-4);
            assert_eq!(found, step());
        }
    }
}

/// Parameters of a model in memory.
#[derive(Debug)]
struct Memory {
    config: LmConfig,
    values: Values,
}

impl WeightSource for Memory {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn read(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, String> {
        let values = self.values[path].clone();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{path}");
        Ok(Some(values))
    }
}

impl WeightSink for Memory {
    fn begin(&mut self, _: &LmConfig, _: &[ParameterShape]) -> Result<(), String> {
        Ok(())
    }

    fn write(&mut self, path: &str, values: &[f32]) -> Result<(), String> {
        self.values.insert(path.to_owned(), values.to_vec());
        Ok(())
    }
}

/// The three matrices of every layer's experts.
fn experts(model: &Lm<A>) -> Vec<Vec<f32>> {
    let of_layers = model.moe_layers().flat_map(|layer| {
        let experts = &layer.experts;
        [&experts.gate_edf, &experts.up_edf, &experts.down_efd]
            .map(|weight| values(weight.val().inner()))
    });
    of_layers.collect()
}

#[test]
fn blocks_are_those_of_the_whole_model() {
    let whole = config().init::<A>(1, &FlexDevice).unwrap();
    let mut memory = Memory {
        config: config(),
        values: Values::new(),
    };
    whole.to_weights(&mut memory).unwrap();
    let of_members = on_team(2, |team| {
        let made = part(team);
        let mut kept = config().init::<A>(1, &FlexDevice).unwrap();
        let ids = |model: &Lm<A>| {
            model
                .moe_layers()
                .flat_map(|it| it.experts.ids())
                .collect::<Vec<_>>()
        };
        let before = ids(&kept);
        kept.shard(team).unwrap();
        assert_eq!(ids(&kept), before);
        assert!(
            kept.shard(team)
                .unwrap_err()
                .to_string()
                .contains("already")
        );
        let read = Lm::<A>::from_weights_sharded(&memory, team, &FlexDevice).unwrap();
        for model in [&made, &kept, &read] {
            assert_eq!(model.config(), config());
            for layer in model.moe_layers() {
                assert_eq!(layer.expert_block(), team.rank() * 4..team.rank() * 4 + 4);
                assert!(layer.experts.up_edf.is_require_grad());
            }
            let mut nowhere = Memory {
                config: config(),
                values: Values::new(),
            };
            assert!(model.to_weights(&mut nowhere).is_err());
        }
        let found = experts(&made);
        assert_eq!(experts(&kept), found);
        assert_eq!(experts(&read), found);
        let products = made.moe_layers().next().unwrap().experts.inner_products();
        (found, values(products.inner()))
    });
    for (index, expected) in experts(&whole).into_iter().enumerate() {
        assert_eq!(
            [&of_members[0].0[index][..], &of_members[1].0[index]].concat(),
            expected
        );
    }
    let expected = whole.moe_layers().next().unwrap().experts.inner_products();
    assert_eq!(of_members[0].1, of_members[1].1);
    for (a, b) in of_members[0].1.iter().zip(values(expected.inner())) {
        assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn experts_that_cannot_be_spread_equally_are_an_error() {
    let teams = Team::threads(3);
    let error = config()
        .init_sharded::<A>(1, &teams[0], &FlexDevice)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("8 experts cannot be spread equally over 3 devices")
    );
    // Growths have to fit the devices, too.
    let mut model = LmConfig {
        experts: 6,
        ..config()
    }
    .init_sharded::<A>(1, &teams[0], &FlexDevice)
    .unwrap();
    let states = model.growth_states();
    let grown = states
        .into_iter()
        .map(|_| upcycle_moe::GrowthState::new(EXPERTS));
    let error = model.restore(grown.collect(), &FlexDevice).unwrap_err();
    assert!(
        error.to_string().contains("MoE layer 0: 8 experts"),
        "{error}"
    );
    let grown = model
        .growth_states()
        .into_iter()
        .map(|_| upcycle_moe::GrowthState::new(12));
    model.restore(grown.collect(), &FlexDevice).unwrap();
    for layer in model.moe_layers() {
        assert_eq!(layer.router.weight_ed.dims(), [12, 24]);
        assert_eq!(layer.experts.down_efd.dims(), [4, 10, 24]);
        assert_eq!(layer.expert_block(), 0..4);
    }
}
