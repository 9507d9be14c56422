//! A model whose experts are spread over a team grows as on one device, to the bit, and is measured as there.

use std::{ops::Range, thread};

use crate::common::*;
use burn::{module::Module, tensor::Tensor};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::{AdamWRecord, Precision, SoftTargets};
use upcycle_lm::{LayerPattern, Lm};
use upcycle_moe::{GrowthState, MoeLayer, MoeModel};
use upcycle_operator::*;
use upcycle_team::Team;

type Parent = (Lm<B>, AdamWRecord<B>);

/// What every member of a team makes of its own part of a model, in the order of ranks; experts are spread over groups of
/// `group` members.
fn on_team<R: Send>(
    [members, group]: [usize; 2],
    parent: &Parent,
    work: impl Fn(&Team, Parent) -> R + Sync,
) -> Vec<R> {
    thread::scope(|scope| {
        let threads: Vec<_> = (Team::threads(members).into_iter())
            .map(|team| {
                let (model, optimizer) = parent.clone();
                let work = &work;
                scope.spawn(move || {
                    // A graph of its own, so that no thread waits for another's backward pass.
                    let mut own = (model.fork(&FlexDevice), optimizer);
                    let first = team.rank() / group * group;
                    shard(&mut own, &team.subteam(first..first + group));
                    let result = work(&team, own);
                    team.leave();
                    result
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

/// Leaves the member its block of the experts and of their moments.
fn shard((model, optimizer): &mut Parent, team: &Team) {
    model.shard(team).unwrap();
    for layer in model.moe_layers() {
        let Range { start, end } = layer.expert_block();
        for id in matrices(layer).map(|(id, _)| id) {
            let mut moments = Moments::<B, 3>::moments(optimizer, id).unwrap();
            moments.moment_1 = moments.moment_1.narrow(0, start, end - start);
            moments.moment_2 = moments.moment_2.narrow(0, start, end - start);
            Moments::<B, 3>::set_moments(optimizer, id, moments);
        }
    }
}

fn matrices(layer: &MoeLayer<B>) -> [(burn::module::ParamId, Tensor<Flex, 3>); 3] {
    let experts = &layer.experts;
    [&experts.gate_edf, &experts.up_edf, &experts.down_efd]
        .map(|matrix| (matrix.id, matrix.val().inner()))
}

fn bits<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<u32> {
    let values = tensor.into_data();
    values.iter::<f32>().map(f32::to_bits).collect()
}

/// All that a growth makes of a layer, to the bit.
#[derive(Debug, Clone, PartialEq)]
struct Layer {
    state: GrowthState,
    /// Rows, biases, directions of tie-breaks, and moments of the rows.
    router: Vec<Vec<u32>>,
    /// Weights and moments of the experts, matrix by matrix.
    experts: Vec<Vec<u32>>,
    /// Step counts of all moments.
    times: Vec<usize>,
}

fn layers((model, optimizer): &Parent) -> Vec<Layer> {
    let of_layer = |layer: &MoeLayer<B>| {
        let router = &layer.router;
        let mut found = Layer {
            state: layer.growth_state(),
            router: vec![
                bits(router.weight_ed.val().inner()),
                bits(router.selection_bias_e.val().inner()),
            ],
            experts: Vec::new(),
            times: Vec::new(),
        };
        for tie_break in &router.tie_breaks {
            found
                .router
                .push(bits(tie_break.direction_ed.val().inner()));
        }
        if let Some(moments) = Moments::<B, 2>::moments(optimizer, router.weight_ed.id) {
            found.times.push(moments.time);
            (found.router).extend([bits(moments.moment_1), bits(moments.moment_2)]);
        }
        for (id, weight) in matrices(layer) {
            found.experts.push(bits(weight));
            if let Some(moments) = Moments::<B, 3>::moments(optimizer, id) {
                found.times.push(moments.time);
                (found.experts).extend([bits(moments.moment_1), bits(moments.moment_2)]);
            }
        }
        found
    };
    model.moe_layers().map(of_layer).collect()
}

/// The layers of members that hold a block each.
fn together(members: Vec<Vec<Layer>>) -> Vec<Layer> {
    let mut members = members.into_iter();
    let mut whole = members.next().unwrap();
    for member in members {
        for (whole, layer) in whole.iter_mut().zip(member) {
            assert_eq!(whole.state, layer.state);
            assert_eq!(whole.router, layer.router);
            assert_eq!(whole.times, layer.times);
            for (whole, block) in whole.experts.iter_mut().zip(layer.experts) {
                whole.extend(block);
            }
        }
    }
    whole
}

/// Growth on teams of 2 and 4 against growth on one device.
fn assert_grows_alike(
    parent: &Parent,
    recipe: &Recipe,
    target: usize,
    evidence: &Evidence,
) -> Vec<Grown> {
    let operator = operator(recipe.clone(), target);
    let mut alone = parent.clone();
    let expected = try_grow(&mut alone, &operator, evidence).unwrap();
    let mut all = Vec::new();
    for members in [2, 4] {
        let grown = on_team([members; 2], parent, |_, mut own| {
            let grown = try_grow(&mut own, &operator, evidence).unwrap();
            (layers(&own), grown)
        });
        let (blocks, grown): (Vec<_>, Vec<_>) = grown.into_iter().unzip();
        assert!(grown.iter().all(|grown| *grown == expected), "{recipe:?}");
        let same = together(blocks) == layers(&alone);
        assert!(same, "{members} devices, to {target}: {recipe:?}");
        all.extend(grown);
    }
    all
}

fn norms_that_differ() -> Evidence {
    let scores: Vec<f64> = [1.0, 8.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0].into();
    let layer = LayerEvidence {
        gradients: Some(Norms {
            fc1: scores.clone(),
            fc2: scores,
        }),
        ..LayerEvidence::NOTHING
    };
    Evidence {
        layers: vec![layer; 2],
    }
}

#[test]
fn every_initialisation_and_policy_grows_in_blocks_as_on_one_device() {
    let parent = trained(&default_config());
    let perturb = ExpertInit::SvdPerturb {
        values: 0.1,
        vectors: 0.05,
        drop: 0.2,
    };
    let sparse = ExpertInit::SparseCode {
        atoms: 16,
        sparsity: 0.1,
        mix: 0.3,
        iterations: 5,
    };
    let drop = ExpertInit::Drop {
        share: 0.5,
        init: Initialization::Normal,
    };
    let inits = [
        ExpertInit::Copy {},
        ExpertInit::Noise { std: 0.1 },
        drop,
        ExpertInit::Shuffle { share: 0.5 },
        ExpertInit::Interpolate { weight: 0.3 },
        ExpertInit::Orthogonal {},
        ExpertInit::Scale { factor: 0.9 },
        perturb,
        ExpertInit::SvdMix { weight: 0.5 },
        sparse,
    ];
    let policies = [
        OptimizerPolicy::Reset {},
        OptimizerPolicy::ResetNew {},
        OptimizerPolicy::Copy {},
        OptimizerPolicy::Scale {
            momentum: 0.5,
            variance: 0.25,
            adaptive: true,
        },
        OptimizerPolicy::Interpolate { weight: 0.25 },
    ];
    let selections = [
        (Selection::Uniform {}, 16),
        (greedy(), 12),
        (Selection::Random {}, 20),
    ];
    let routers = [NOISE, exact(0.3), RouterExtension::Orthogonal {}];
    let mut case = 0;
    for init in &inits {
        for policy in policies {
            let moved = matches!(init, ExpertInit::Shuffle { .. });
            if moved && !matches!(policy, OptimizerPolicy::Reset {}) {
                continue;
            }
            // Three selections in turn, so that each meets every initialisation and policy.
            let (selection, target) = selections[case % 3].clone();
            let router = routers[case % 3].clone();
            case += 1;
            let recipe = Recipe {
                experts: init.clone(),
                ..recipe(selection, router, policy)
            };
            assert_grows_alike(&parent, &recipe, target, &norms_that_differ());
        }
    }
}

#[test]
fn wider_experts_more_experts_of_a_token_and_a_second_growth_are_as_on_one_device() {
    let parent = trained(&default_config());
    for grows in [Grows::Width, Grows::ExpertsAndTopK] {
        let recipe = Recipe {
            grows,
            ..recipe(
                Selection::Uniform {},
                RouterExtension::Copy {},
                OptimizerPolicy::ResetNew {},
            )
        };
        assert_grows_alike(&parent, &recipe, 16, &Evidence::default());
    }
    let twice = |own: &mut Parent| {
        for target in [12, 24] {
            let recipe = recipe(Selection::Random {}, exact(0.3), OptimizerPolicy::Copy {});
            try_grow(own, &operator(recipe, target), &Evidence::default()).unwrap();
        }
        layers(own)
    };
    let blocks = on_team([4, 4], &parent, |_, mut own| twice(&mut own));
    assert!(together(blocks) == twice(&mut parent.clone()));
}

#[test]
fn what_could_not_be_done_is_told_by_all() {
    let mut parent = trained(&default_config());
    let up_edf = &mut parent.0.moe_layers_mut()[1].experts.up_edf;
    *up_edf = up_edf.clone().map(|up_edf| up_edf.zeros_like());
    let recipe = Recipe {
        experts: ExpertInit::Orthogonal {},
        ..recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Reset {})
    };
    for grown in assert_grows_alike(&parent, &recipe, 16, &Evidence::default()) {
        let experts = (8..16).collect();
        let expected = Deviation::CopiedExperts { layer: 1, experts };
        assert_eq!(grown.deviations, [expected]);
    }
    // 10 experts are not evenly held by 4 devices, and nothing is changed.
    let before = layers(&parent);
    let refused = on_team([4, 4], &parent, |_, mut own| {
        let error = try_grow(
            &mut own,
            &operator(recipe.clone(), 10),
            &Evidence::default(),
        );
        (layers(&own), error.unwrap_err())
    });
    let (blocks, errors): (Vec<_>, Vec<_>) = refused.into_iter().unzip();
    assert!(together(blocks) == before);
    let uneven = OperatorError::UnevenBlocks {
        target: 10,
        members: 4,
    };
    assert!(errors.iter().all(|error| *error == uneven));
}

/// A member gets the rows of the experts that it lacks, and no others.
#[test]
fn a_growth_sends_only_rows_that_are_lacking() {
    let parent = trained(&default_config());
    let recipe = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Reset {});
    let sent = on_team([2, 2], &parent, |team, mut own| {
        let before = team.sent_bytes();
        try_grow(
            &mut own,
            &operator(recipe.clone(), 16),
            &Evidence::default(),
        )
        .unwrap();
        team.sent_bytes() - before
    });
    // Of 8 experts each member holds 4, and becomes the holder of 8: copies of all. Two layers of three matrices.
    let rows = 2 * 3 * 4 * (16 * 6) * 4;
    assert!(
        sent.iter()
            .all(|&sent| (rows..rows * 5 / 4).contains(&sent)),
        "{sent:?}"
    );
}

#[test]
fn networks_of_a_dense_model_become_blocks_of_experts() {
    let dense = upcycle_lm::LmConfig {
        pattern: LayerPattern::AllDense,
        ..default_config()
    };
    let parent = trained(&dense);
    for policy in [OptimizerPolicy::Reset {}, OptimizerPolicy::Copy {}] {
        let source = DenseSource {
            top_k: 2,
            shards: 1,
            layers: LayerPattern::Interleaved,
        };
        let split = RouterExtension::Hyperplane { strength: 1.0 };
        let recipe = Recipe {
            dense: Some(source),
            experts: ExpertInit::Drop {
                share: 0.5,
                init: Initialization::Normal,
            },
            ..recipe(Selection::Uniform {}, split, policy)
        };
        let operator = operator(recipe, 8);
        let mut alone = parent.clone();
        operator.grow_dense(&mut alone.0, &mut alone.1).unwrap();
        let blocks = on_team([2, 2], &parent, |team, (mut model, mut optimizer)| {
            let grown = operator.grow_dense_in_team(team, &mut model, &mut optimizer);
            grown.unwrap();
            for layer in model.moe_layers() {
                assert_eq!(layer.expert_team().size(), 2);
                assert_eq!(layer.expert_block().len(), 4);
            }
            layers(&(model, optimizer))
        });
        assert!(together(blocks) == layers(&alone), "{policy:?}");
    }
}

/// What a recipe that is chosen by this score, with a tie-break from tokens, needs of a model.
fn measured(team: &Team, score: Score, (model, optimizer): &Parent) -> Evidence {
    let selection = Selection::Proportional {
        score,
        on: Projections::default(),
    };
    let centroids = RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Centroids,
        strength: 0.3,
        separation: 0.0,
        release: None,
    };
    let recipe = recipe(selection, centroids, OptimizerPolicy::Reset {});
    let forward = |model: &Lm<B>, index: u64| {
        let [b, s] = TOKENS;
        let rows = b / team.size();
        let inputs = (tokens() + index as i32) % VOCAB as i32;
        let inputs = inputs.narrow(0, team.rank() * rows, rows);
        let targets = SoftTargets {
            ids_tj: inputs.clone().reshape([rows * s, 1]),
            weights_tj: Tensor::ones([rows * s, 1], &FlexDevice),
        };
        let output = model.forward(inputs, targets, Precision::F32);
        let pass = ForwardPass {
            loss: output.loss_t.sum() / (b * s) as f32,
            routing: output.routing,
        };
        Ok::<_, OperatorError>(Share { pass, counts: true })
    };
    Evidence::gather_in_team(team, &recipe, model, optimizer, 3, forward).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1e-3));
    }
}

#[test]
fn a_team_measures_what_one_device_measures() {
    let parent = trained(&default_config());
    for score in [Score::Fisher, Score::Saliency, Score::OutputNorm] {
        let alone = measured(&Team::alone(), score, &parent);
        for spread in [[2, 2], [4, 4], [4, 2]] {
            let found = on_team(spread, &parent, |team, own| measured(team, score, &own));
            assert!(found.iter().all(|evidence| *evidence == found[0]));
            for (found, alone) in found[0].layers.iter().zip(&alone.layers) {
                assert_eq!(found.weights, alone.weights);
                assert_eq!(found.second_moments, alone.second_moments);
                let gradients = [&found.gradients, &alone.gradients].map(Option::as_ref);
                if let [Some(found), Some(alone)] = gradients {
                    assert_close(&found.fc1, &alone.fc1);
                    assert_close(&found.fc2, &alone.fc2);
                }
                assert_eq!(found.gradients.is_some(), alone.gradients.is_some());
                let routing = [&found.routing, &alone.routing].map(Option::as_ref);
                if let [Some(found), Some(alone)] = routing {
                    assert_eq!(found.load, alone.load);
                    assert_close(&found.gate_mass, &alone.gate_mass);
                    assert_close(&found.output_norm, &alone.output_norm);
                }
                assert_eq!(found.routing.is_some(), alone.routing.is_some());
                let [found, alone] = [found, alone].map(|it| it.tokens.as_ref().unwrap());
                assert_eq!(found.experts, alone.experts);
                assert!(largest_difference(&found.inputs, &alone.inputs) < 1e-5);
                assert_eq!(found.inputs.len(), alone.inputs.len());
            }
        }
    }
    // One device alone cannot measure what is spread over two.
    let recipe = recipe(
        Selection::Proportional {
            score: Score::WeightNorm,
            on: Projections::default(),
        },
        NOISE,
        OptimizerPolicy::Reset {},
    );
    let refused = on_team([2, 2], &parent, |_, (model, optimizer)| {
        let forward = |_: &Lm<B>, _| unreachable!("nothing is measured");
        let found =
            Evidence::gather::<B, _, _, OperatorError>(&recipe, &model, &optimizer, 1, forward);
        found.unwrap_err()
    });
    assert!((refused.iter()).all(|error| matches!(error, OperatorError::ModelMismatch(_))));
}
