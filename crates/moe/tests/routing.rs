//! Routing, balancing and gradients of the MoE layer on the CPU backend.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::{
    backend::Autodiff,
    module::{Module, Param},
    tensor::{Distribution, Tensor, TensorData, backend::Backend},
};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::{MoeBackend, Precision};
use upcycle_moe::{
    BalancingConfig, ExpertSources, GroupLimit, GroupStrength, Growth, Initializer, MoeLayer,
    MoeLayerConfig, MoeModel, MoeSite, Router, RouterConfig, RoutingCounter, ScoreFunction,
    SharedExpertConfig, TwoLevel,
};

type B = Flex;

const D: usize = 12;
const E: usize = 8;
const K: usize = 3;

fn config(score: ScoreFunction) -> RouterConfig {
    RouterConfig {
        d_model: D,
        experts: E,
        top_k: K,
        score,
        renormalize: true,
        scale: 1.0,
        groups: None,
        two_level: None,
    }
}

fn growth(source_of: &[usize]) -> Growth {
    Growth {
        sources: ExpertSources::new(source_of.to_vec()).unwrap(),
        strength: 0.3,
    }
}

fn two_level(source_of: [usize; E]) -> RouterConfig {
    RouterConfig {
        two_level: Some(TwoLevel {
            growths: vec![growth(&source_of)],
            ..TwoLevel::default()
        }),
        ..config(ScoreFunction::Sigmoid)
    }
}

fn router<B: Backend>(config: &RouterConfig) -> Router<B> {
    config.init("router", &Initializer::new(7), &Default::default())
}

fn tokens<B: Backend>(count: usize) -> Tensor<B, 2> {
    let device = Default::default();
    let weights: Param<Tensor<B, 2>> =
        Initializer::new(3).normal("tokens", [count, D], 1.0, &device);
    weights.val()
}

fn indices<B: Backend, const N: usize>(tensor: Tensor<B, N, burn::tensor::Int>) -> Vec<usize> {
    tensor
        .into_data()
        .iter::<i64>()
        .map(|i| i as usize)
        .collect()
}

fn floats<B: Backend, const N: usize>(tensor: Tensor<B, N>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn every_token_gets_k_distinct_experts_with_gates_that_sum_to_one() {
    for score in [
        ScoreFunction::Sigmoid,
        ScoreFunction::Softmax,
        ScoreFunction::TopKSoftmax,
    ] {
        let routing = router::<B>(&config(score)).forward(tokens(100));
        for chosen in indices(routing.experts_tk).chunks(K) {
            let mut distinct = chosen.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), K, "{score:?}: {chosen:?}");
            assert!(chosen.iter().all(|&expert| expert < E));
        }
        for gates in floats(routing.gates_tk).chunks(K) {
            assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(gates.iter().all(|&gate| gate > 0.0));
        }
    }
}

#[test]
fn without_renormalisation_gates_are_scores() {
    let config = RouterConfig {
        renormalize: false,
        scale: 2.5,
        ..config(ScoreFunction::Softmax)
    };
    let routing = router::<B>(&config).forward(tokens(50));
    let scores = floats(routing.scores_te);
    let gates = floats(routing.gates_tk);
    for (row, expert) in indices(routing.experts_tk).into_iter().enumerate() {
        let score = scores[row / K * E + expert];
        assert!((gates[row] - 2.5 * score).abs() < 1e-6);
    }
}

/// Which experts a token chooses by `scores`, as DeepSeek's papers say it.
fn in_groups(scores: &[f32], group_of: &[usize], top: usize, best: usize) -> Vec<usize> {
    let count = group_of.iter().max().unwrap() + 1;
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let strength = |group: usize| {
        let members = (0..scores.len()).filter(|&expert| group_of[expert] == group);
        let mut values: Vec<f32> = members.map(|expert| scores[expert]).collect();
        values.sort_by(descending);
        values.iter().take(best).sum::<f32>()
    };
    let mut groups: Vec<usize> = (0..count).collect();
    groups.sort_by(|&a, &b| descending(&strength(a), &strength(b)));
    groups.truncate(top);
    let mut open: Vec<usize> = (0..scores.len())
        .filter(|&expert| groups.contains(&group_of[expert]))
        .collect();
    open.sort_by(|&a, &b| descending(&scores[a], &scores[b]));
    open.truncate(K);
    open
}

#[test]
fn a_token_chooses_among_the_strongest_groups() {
    for (count, top, by, best) in [
        (4, 2, GroupStrength::TopTwo, 2),
        (2, 1, GroupStrength::TopTwo, 2),
        (4, 2, GroupStrength::Best, 1),
    ] {
        let limit = GroupLimit { count, top, by };
        assert_eq!(limit.problem(E, K), None);
        let config = RouterConfig {
            groups: limit.of_experts(E),
            ..config(ScoreFunction::Sigmoid)
        };
        let group_of = config.groups.clone().unwrap().of;
        let mut router = router::<B>(&config);
        let bias: Vec<f32> = (0..E).map(|expert| 0.1 * (expert % 3) as f32).collect();
        router.selection_bias_e =
            Param::from_tensor(Tensor::from_floats(bias.as_slice(), &FlexDevice));
        let routing = router.forward(tokens(200));
        let scores = floats(routing.scores_te);
        let mut limited = 0;
        for (chosen, scores) in indices(routing.experts_tk).chunks(K).zip(scores.chunks(E)) {
            let by: Vec<f32> = scores.iter().zip(&bias).map(|(s, b)| s + b).collect();
            assert_eq!(chosen, in_groups(&by, group_of.source_of(), top, best));
            limited += usize::from(chosen != in_groups(&by, &[0; E], 1, 1));
        }
        assert!(limited > 20, "{limited}");
    }
}

/// Of a grown layer, sources are chosen as before: the group of a replica is its source's, and twins count once.
#[test]
fn replicas_stay_in_the_group_of_their_source() {
    let limit = GroupLimit {
        count: 2,
        top: 1,
        by: GroupStrength::TopTwo,
    };
    let sources = ExpertSources::new(vec![0, 1, 2, 3, 0, 1, 2, 3]).unwrap();
    let groups = limit.of_experts(4).unwrap();
    let top_k = 2;
    let before = RouterConfig {
        experts: 4,
        top_k,
        groups: Some(groups.clone()),
        ..config(ScoreFunction::Sigmoid)
    };
    let small = router::<B>(&before);
    let chosen = indices(small.forward(tokens(200)).experts_tk);
    let groups = groups.grown(&sources);
    assert_eq!(groups.of.source_of(), [0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(groups.order(), [0, 1, 4, 5, 2, 3, 6, 7]);
    for hold in [1.0, 0.3] {
        let after = RouterConfig {
            top_k,
            groups: Some(groups.clone()),
            two_level: Some(TwoLevel {
                hold,
                ..two_level([0, 1, 2, 3, 0, 1, 2, 3]).two_level.unwrap()
            }),
            ..config(ScoreFunction::Sigmoid)
        };
        let mut big = router::<B>(&after);
        let rows = small.weight_ed.val();
        big.weight_ed = Param::from_tensor(Tensor::cat(vec![rows.clone(), rows], 0));
        let grown = indices(big.forward(tokens(200)).experts_tk);
        let mut groups_kept = 0;
        for (old, new) in chosen.chunks(top_k).zip(grown.chunks(top_k)) {
            let new: Vec<usize> = new.iter().map(|&it| sources.source_of()[it]).collect();
            if hold == 1.0 {
                assert_eq!(old, new);
            }
            assert_eq!(new[0] / 2, new[1] / 2, "one group: {new:?}");
            groups_kept += usize::from(old[0] / 2 == new[0] / 2);
        }
        assert!(groups_kept > 150, "{hold}: {groups_kept}");
    }
}

#[test]
fn a_shared_expert_is_added_and_may_be_weighted() {
    let config = |gated| MoeLayerConfig {
        shared: Some(SharedExpertConfig { width: 5, gated }),
        ..MoeLayerConfig::new(D, E, K, 6)
    };
    for gated in [false, true] {
        let mut layer: MoeLayer<B> = config(gated).init("layer", &Initializer::new(1), &FlexDevice);
        let x = tokens(20);
        let (with, _) = layer.forward(x.clone(), Precision::F32);
        let shared = layer.shared.take().unwrap();
        let (without, _) = layer.forward(x.clone(), Precision::F32);
        let mut expected = shared.network.forward(x.clone(), Precision::F32);
        if let Some(row) = &shared.gate_1d {
            let weight = burn::tensor::activation::sigmoid(x.matmul(row.val().transpose()));
            expected = expected * weight;
        }
        assert_eq!(shared.gate_1d.is_some(), gated);
        for (a, b) in floats(with).into_iter().zip(floats(without + expected)) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}

#[test]
fn the_selection_bias_changes_the_choice_and_never_a_gate() {
    let mut router = router::<B>(&config(ScoreFunction::Sigmoid));
    let before = router.forward(tokens(100));
    let mut bias = [0.0; E];
    bias[5] = 10.0;
    router.selection_bias_e = Param::from_tensor(Tensor::from_floats(bias, &FlexDevice));
    let after = router.forward(tokens(100));

    assert_eq!(
        floats(before.scores_te.clone()),
        floats(after.scores_te.clone())
    );
    let chosen = indices(after.experts_tk);
    assert!(chosen.chunks(K).all(|chosen| chosen.contains(&5)));
    assert_ne!(indices(before.experts_tk), chosen);
    let (scores, gates) = (floats(after.scores_te), floats(after.gates_tk));
    for (t, (chosen, gates)) in chosen.chunks(K).zip(gates.chunks(K)).enumerate() {
        let selected: Vec<f32> = chosen.iter().map(|e| scores[t * E + e]).collect();
        let total: f32 = selected.iter().sum();
        for (gate, score) in gates.iter().zip(selected) {
            assert!((gate - score / total).abs() < 1e-6);
        }
    }
}

#[test]
fn two_level_selection_takes_distinct_sources_by_their_best_score() {
    // Uneven groups: source 0 has four replicas, source 3 one.
    let source_of = [0, 1, 2, 3, 0, 0, 0, 1];
    let config = two_level(source_of);
    let routing = router::<B>(&config).forward(tokens(200));
    let scores = floats(routing.scores_te);
    for (t, chosen) in indices(routing.experts_tk).chunks(K).enumerate() {
        let best = |source: usize| {
            (0..E)
                .filter(|&e| source_of[e] == source)
                .map(|e| scores[t * E + e])
                .fold(f32::MIN, f32::max)
        };
        let mut sources: Vec<usize> = (0..4).collect();
        sources.sort_by(|&a, &b| best(b).total_cmp(&best(a)));
        let chosen: Vec<usize> = chosen.iter().map(|&e| source_of[e]).collect();
        assert_eq!(chosen, sources[..K], "token {t}");
    }
}

#[test]
fn the_tie_break_sends_tokens_of_a_source_to_all_of_its_replicas() {
    let source_of = [0, 1, 2, 3, 0, 1, 2, 3];
    let mut router = router::<B>(&two_level(source_of));
    // Replicas of equal rows differ by their tie-break alone.
    let rows = router.weight_ed.val().slice([0..4, 0..D]);
    router.weight_ed = Param::from_tensor(rows.repeat_dim(0, 2));
    let tie_break = &mut router.tie_breaks[0];
    let device = FlexDevice;
    tie_break.direction_ed = Initializer::new(1).normal("direction", [E, D], 0.3, &device);
    let routing = router.forward(tokens(400));
    let mut load = [0; E];
    for expert in indices(routing.experts_tk) {
        load[expert] += 1;
    }
    assert!(load.iter().all(|&load| load > 40), "{load:?}");
}

#[test]
fn a_layer_grown_twice_picks_a_replica_at_every_level() {
    // Experts 0..4 come from sources 0, 1, 0, 1; experts 4..8 are copies of experts 0..4.
    let mut config = two_level([0, 1, 2, 3, 0, 1, 2, 3]);
    config.top_k = 2;
    let two_level = config.two_level.as_mut().unwrap();
    two_level.growths.insert(0, growth(&[0, 1, 0, 1]));
    let origins = two_level.origins().unwrap();
    assert_eq!(origins.source_of(), [0, 1, 0, 1, 0, 1, 0, 1]);
    let mut router = router::<B>(&config);
    let rows = router.weight_ed.val().slice([0..4, 0..D]);
    router.weight_ed = Param::from_tensor(rows.clone().repeat_dim(0, 2));
    for (seed, tie_break) in router.tie_breaks.iter_mut().enumerate() {
        let shape = tie_break.direction_ed.dims();
        tie_break.direction_ed =
            Initializer::new(seed as u64).normal("direction", shape, 0.3, &FlexDevice);
    }
    // The same layer before its second growth.
    let mut before = config.clone();
    before.experts = 4;
    before.two_level.as_mut().unwrap().growths.pop();
    let mut small = self::router::<B>(&before);
    small.weight_ed = Param::from_tensor(rows);
    small.tie_breaks[0].direction_ed = router.tie_breaks[0].direction_ed.clone();

    let big = indices(router.forward(tokens(400)).experts_tk);
    let parents: Vec<usize> = big.iter().map(|expert| expert % 4).collect();
    assert_eq!(parents, indices(small.forward(tokens(400)).experts_tk));
    assert!((0..8).all(|expert| big.contains(&expert)), "{big:?}");
}

#[test]
fn a_released_router_is_a_plain_top_k() {
    for score in [
        ScoreFunction::Sigmoid,
        ScoreFunction::Softmax,
        ScoreFunction::TopKSoftmax,
    ] {
        let mut held = two_level([0, 1, 2, 3, 0, 0, 0, 1]);
        held.score = score;
        let mut router = router::<B>(&held);
        router.selection_bias_e = Param::from_tensor(Tensor::from_floats(
            [0.1, -0.2, 0.0, 0.05, 0.1, 0.1, 0.1, -0.2],
            &FlexDevice,
        ));
        router.tie_breaks[0].replica_bias_e = Param::from_tensor(Tensor::from_floats(
            [0.0, 0.1, 0.0, 0.0, -0.1, 0.2, 0.0, -0.1],
            &FlexDevice,
        ));
        let choice = |router: &Router<B>| {
            let mut experts = indices(router.forward(tokens(200)).experts_tk);
            experts.chunks_mut(K).for_each(<[_]>::sort_unstable);
            experts
        };
        let released = |hold| {
            let mut router = router.clone();
            router.release(hold);
            router
        };
        let free = released(0.0);
        assert!(free.config().two_level.is_none() && free.tie_breaks.is_empty());
        // A hold close to 1 selects as 1 does, and close to 0 as the free router.
        assert_eq!(choice(&released(0.9999)), choice(&router));
        assert_eq!(choice(&released(1e-6)), choice(&free));
        assert_ne!(choice(&router), choice(&free));
    }
}

#[test]
fn the_separation_loss_is_the_mean_sigmoid_of_logit_differences() {
    for source_of in [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 0, 0, 1]] {
        let router = router::<B>(&two_level(source_of));
        let routing = router.forward(tokens(50));
        let logits = floats(routing.logits_te.clone());
        let (mut sum, mut pairs) = (0.0, 0);
        for (t, chosen) in indices(routing.experts_tk.clone()).chunks(K).enumerate() {
            for &chosen in chosen {
                for other in (0..E).filter(|&e| source_of[e] == source_of[chosen]) {
                    let difference = logits[t * E + other] - logits[t * E + chosen];
                    sum += 1.0 / (1.0 + (-difference).exp());
                    pairs += 1;
                }
            }
        }
        let loss = floats(router.separation_loss(&routing).unwrap())[0];
        assert!((loss - sum / pairs as f32).abs() < 1e-5);
    }
}

#[test]
fn loss_free_balancing_evens_out_a_skewed_stream() {
    let mut router = router::<B>(&config(ScoreFunction::Sigmoid));
    // All tokens lean the same way, so that few experts win.
    let skew = tokens::<B>(1).repeat_dim(0, 512) * 2.0;
    let x_td = tokens::<B>(512) * 0.5 + skew;
    let violation = |router: &Router<B>| {
        let load = floats(router.forward(x_td.clone()).load_e());
        let mean = load.iter().sum::<f32>() / E as f32;
        load.iter().fold(0.0_f32, |max, &l| max.max(l)) / mean - 1.0
    };
    let before = violation(&router);
    for _ in 0..1000 {
        let load_e = router.forward(x_td.clone()).load_e();
        router.balance(load_e, 1e-3);
    }
    let after = violation(&router);
    assert!(before > 1.0, "the stream is not skewed: {before}");
    assert!(after < 0.1, "violation {before} -> {after}");
}

#[test]
fn two_level_balancing_evens_out_sources_and_replicas_apart() {
    let mut router = router::<B>(&two_level([0, 1, 2, 3, 0, 0, 0, 1]));
    let load = [10.0, 0.0, 10.0, 10.0, 10.0, 0.0, 0.0, 10.0];
    router.balance(Tensor::from_floats(load, &FlexDevice), 1.0);
    // Sources have 20, 10, 10 and 10 tokens, 12.5 on average.
    let source_bias = floats(router.selection_bias_e.val());
    assert_eq!(source_bias, [-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]);
    // Replicas of source 0 have 5 on average, of source 1 also.
    let replica_bias = floats(router.tie_breaks[0].replica_bias_e.val());
    assert_eq!(replica_bias, [-1.0, 1.0, 0.0, 0.0, -1.0, 1.0, 1.0, -1.0]);
}

#[test]
fn auxiliary_losses_have_their_known_values() {
    let balancing = BalancingConfig {
        bias_rate: 0.0,
        auxiliary_loss: 2.0,
        z_loss: 0.0,
    };
    // Equal logits: probabilities are 1/E whatever the choice, so the auxiliary loss is its weight.
    let mut router = router::<B>(&config(ScoreFunction::Softmax));
    router.weight_ed = Param::from_tensor(Tensor::zeros([E, D], &FlexDevice));
    let routing = router.forward(tokens(64));
    let loss = floats(balancing.loss(&routing, ScoreFunction::Softmax).unwrap());
    assert!((loss[0] - 2.0).abs() < 1e-5);
    // z-loss of zero logits is (ln E)^2.
    let balancing = BalancingConfig {
        auxiliary_loss: 0.0,
        z_loss: 1.0,
        ..balancing
    };
    let loss = floats(balancing.loss(&routing, ScoreFunction::Softmax).unwrap());
    assert!((loss[0] - (E as f32).ln().powi(2)).abs() < 1e-5);
}

#[test]
fn statistics_count_loads_sources_and_twins() {
    let sources = ExpertSources::new(vec![0, 1, 2, 0]).unwrap();
    let mut counter = RoutingCounter::new(sources);
    counter.add(&[0, 3, 0, 1], 2);
    let stats = counter.stats();
    assert_eq!(stats.load, [0.5, 0.25, 0.0, 0.25]);
    assert_eq!(stats.max_violation, 1.0);
    assert_eq!(stats.dead_experts, 1);
    assert_eq!(stats.distinct_sources, 1.5);
    assert_eq!(stats.twin_coselection, 0.5);
    assert!((stats.normalized_entropy - 0.75).abs() < 1e-12);
}

#[test]
fn a_bad_index_does_not_shift_later_tokens() {
    let sources = ExpertSources::new(vec![0, 1, 2, 0]).unwrap();
    let mut counter = RoutingCounter::new(sources);
    // The second token's experts are twins; the first has one that does not exist.
    counter.add(&[1, 9, 0, 3], 2);
    let stats = counter.stats();
    assert_eq!(stats.twin_coselection, 0.5);
    assert_eq!(stats.distinct_sources, 1.0);
}

fn layer<B: Backend>() -> MoeLayer<B> {
    let config = MoeLayerConfig {
        router: config(ScoreFunction::Sigmoid),
        d_expert: 6,
        shared: None,
        residual_scale: 1.0,
    };
    config.init("layer", &Initializer::new(11), &Default::default())
}

#[test]
fn experts_are_what_the_formula_says() {
    let layer = layer::<B>();
    let x = tokens::<B>(5);
    let (y, routing) = layer.forward(x.clone(), Precision::F32);
    let (gates, experts) = (floats(routing.gates_tk), indices(routing.experts_tk));
    let (x, y) = (floats(x), floats(y));
    let gate_w = floats(layer.experts.gate_edf.val());
    let up_w = floats(layer.experts.up_edf.val());
    let down_w = floats(layer.experts.down_efd.val());
    let f = 6;
    for t in 0..5 {
        let mut expected = [0.0_f64; D];
        for k in 0..K {
            let e = experts[t * K + k];
            for h in 0..f {
                let dot = |w: &[f32]| -> f64 {
                    (0..D)
                        .map(|i| f64::from(x[t * D + i]) * f64::from(w[(e * D + i) * f + h]))
                        .sum()
                };
                let gate = dot(&gate_w);
                let hidden = gate / (1.0 + (-gate).exp()) * dot(&up_w);
                for i in 0..D {
                    expected[i] += f64::from(gates[t * K + k])
                        * hidden
                        * f64::from(down_w[(e * f + h) * D + i]);
                }
            }
        }
        for i in 0..D {
            assert!((f64::from(y[t * D + i]) - expected[i]).abs() < 1e-5);
        }
    }
}

/// Directional derivatives of `sum(y * c)` along random directions of the input and of each parameter, against central
/// differences. Selection is constant in a small neighbourhood, so the loss is smooth there.
#[test]
fn gradients_match_finite_differences() {
    type A = Autodiff<Flex>;
    let device = FlexDevice;
    let layer = layer::<A>();
    let x: Tensor<A, 2> = tokens::<A>(9).require_grad();
    let c: Tensor<A, 2> = Tensor::random([9, D], Distribution::Default, &device);
    let loss = |layer: &MoeLayer<A>, x: Tensor<A, 2>| {
        let (y, _) = layer.forward(x, Precision::F32);
        (y * c.clone()).sum()
    };
    let grads = loss(&layer, x.clone()).backward();

    // Every value is perturbed by +-step, with signs from a fixed pattern.
    fn signs<const N: usize>(shape: [usize; N], step: f32) -> Tensor<A, N> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|i| if (i * 7919) % 13 < 6 { step } else { -step })
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &FlexDevice)
    }
    let step = 2e-3;
    let check = |name: &str, analytic: f32, plus: Tensor<A, 1>, minus: Tensor<A, 1>| {
        let numeric = (floats(plus)[0] - floats(minus)[0]) / (2.0 * step);
        let error = (analytic - numeric).abs() / (analytic.abs() + 0.1);
        assert!(
            error < 1e-2,
            "{name}: {analytic} analytic, {numeric} numeric"
        );
    };
    let along = |gradient: Tensor<Flex, 3>, signs: Tensor<A, 3>| {
        floats((gradient * signs.inner() / step).sum())[0]
    };

    let direction = signs([9, D], step);
    let gradient = x.grad(&grads).unwrap();
    check(
        "input",
        floats((gradient * direction.clone().inner() / step).sum())[0],
        loss(&layer, x.clone() + direction.clone()),
        loss(&layer, x.clone() - direction),
    );
    for name in ["gate", "up", "down"] {
        let weight = match name {
            "gate" => layer.experts.gate_edf.val(),
            "up" => layer.experts.up_edf.val(),
            _ => layer.experts.down_efd.val(),
        };
        let direction = signs(weight.dims(), step);
        let moved = |direction: Tensor<A, 3>| {
            let mut moved = layer.clone();
            let value = Param::from_tensor(Tensor::from_inner(
                weight.clone().inner() + direction.inner(),
            ));
            match name {
                "gate" => moved.experts.gate_edf = value,
                "up" => moved.experts.up_edf = value,
                _ => moved.experts.down_efd = value,
            }
            loss(&moved, x.clone())
        };
        check(
            name,
            along(weight.grad(&grads).unwrap(), direction.clone()),
            moved(direction.clone()),
            moved(-direction),
        );
    }
    let rows = layer.router.weight_ed.val();
    let direction = signs(rows.dims(), step);
    let moved = |direction: Tensor<A, 2>| {
        let mut moved = layer.clone();
        moved.router.weight_ed =
            Param::from_tensor(Tensor::from_inner(rows.clone().inner() + direction.inner()));
        loss(&moved, x.clone())
    };
    check(
        "router",
        floats((rows.grad(&grads).unwrap() * direction.clone().inner() / step).sum())[0],
        moved(direction.clone()),
        moved(-direction),
    );
}

/// MoE layers and nothing else.
#[derive(Module, Debug)]
struct Stack<B: Backend> {
    layers: Vec<MoeLayer<B>>,
}

impl<B: MoeBackend> MoeModel<B> for Stack<B> {
    fn moe_sites(&self) -> Vec<MoeSite<'_, B>> {
        self.layers.iter().map(MoeSite::without_norm).collect()
    }

    fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>> {
        self.layers.iter_mut().collect()
    }
}

/// So a weight means the same in models of any depth.
#[test]
fn losses_of_routing_are_means_over_layers() {
    let layer: MoeLayer<B> =
        MoeLayerConfig::new(D, E, K, 5).init("layer", &Initializer::new(1), &Default::default());
    let (_, routing) = layer.forward(tokens(40), Precision::F32);
    let balancing = BalancingConfig {
        auxiliary_loss: 0.5,
        z_loss: 0.1,
        ..BalancingConfig::default()
    };
    let loss = |depth: usize| -> f32 {
        let stack = Stack {
            layers: vec![layer.clone(); depth],
        };
        let loss = stack.routing_loss(&vec![routing.clone(); depth], &balancing);
        loss.unwrap().into_scalar()
    };
    assert!(loss(1) > 0.1);
    assert!((loss(4) - loss(1)).abs() < 1e-5);
}
