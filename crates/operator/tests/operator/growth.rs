//! The operator on records: exactness, what is copied and what is kept, moments, repeated growth, dense sources.

use crate::common::*;
use burn::{
    module::{Module, Param, ParamId},
    optim::{AdamWConfig, GradientsParams, Optimizer},
    tensor::Tensor,
};
use burn_flex::FlexDevice;
use upcycle_kernels::{AdamWRecord, Precision, SoftTargets};
use upcycle_lm::{LayerPattern, Lm, LmConfig};
use upcycle_moe::{GrowthState, MoeModel, ReleaseShape, ScoreFunction};
use upcycle_operator::*;

/// Gradient norms that make greedy selection take experts 1, 6 and 5, and some tokens.
fn gradients() -> Evidence {
    let scores = vec![1.0, 8.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0];
    let layer = LayerEvidence {
        gradients: Some(Norms {
            fc1: scores.clone(),
            fc2: scores,
        }),
        tokens: Some(RoutedTokens {
            inputs: (0..40 * 16).map(|i| (i as f32 * 0.37).sin()).collect(),
            experts: (0..80).map(|i| i % 8).collect(),
            top_k: 2,
        }),
        ..LayerEvidence::NOTHING
    };
    Evidence {
        layers: vec![layer; 2],
    }
}

fn difference(pair: &Pair) -> f32 {
    largest_difference(&logits(&pair.small), &logits(&pair.big))
}

#[test]
fn two_level_selection_is_exact_and_the_plain_copy_is_not() {
    for score in [
        ScoreFunction::Sigmoid,
        ScoreFunction::Softmax,
        ScoreFunction::TopKSoftmax,
    ] {
        for renormalize in [true, false] {
            for top_k in [1, 2, 4, 8] {
                let config = config(score, renormalize, top_k);
                let parent = trained(&config);
                for (selection, target) in [
                    (Selection::Uniform {}, 12),
                    (Selection::Uniform {}, 16),
                    (Selection::Uniform {}, 24),
                    (Selection::Uniform {}, 32),
                    (greedy(), 12),
                    (greedy(), 16),
                    (greedy(), 24),
                    (greedy(), 32),
                ] {
                    let recipe = recipe(selection, exact(0.3), OptimizerPolicy::Copy {});
                    let pair = grow_model(&parent, recipe, target, &gradients());
                    let difference = difference(&pair);
                    assert!(difference < 1e-5, "{config:?} to {target}: {difference}");
                }
                if top_k == 2 {
                    let plain = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Reset {});
                    let pair = grow_model(&parent, plain, 16, &Evidence::default());
                    assert!(difference(&pair) > 1e-2, "{config:?}");
                }
            }
        }
    }
}

#[test]
fn hyperplanes_keep_a_softmax_of_the_selected_and_dormant_replicas_keep_all() {
    let config = config(ScoreFunction::TopKSoftmax, true, 2);
    let parent = trained(&config);
    let grown = |router| {
        let recipe = recipe(Selection::Uniform {}, router, OptimizerPolicy::Reset {});
        difference(&grow_model(&parent, recipe, 16, &Evidence::default()))
    };
    let plain = grown(RouterExtension::Copy {});
    // A token on which the sets nearly agree may still mix them; with these few tokens none does.
    let split = grown(RouterExtension::Hyperplane { strength: 1e3 });
    assert!(plain > 1e-2 && split < 1e-3, "{plain} {split}");
    let dormant = grown(RouterExtension::Dormant { bias: 100.0 });
    assert!(dormant < 1e-5, "{dormant}");
}

#[test]
fn two_level_models_grow_again_exactly() {
    for selection in [Selection::Uniform {}, greedy(), Selection::Random {}] {
        for score in [ScoreFunction::Sigmoid, ScoreFunction::Softmax] {
            // A random tie-break, and one from tokens.
            let recipe = |router| recipe(selection.clone(), router, OptimizerPolicy::Copy {});
            let centroids = RouterExtension::TwoLevel {
                tie_break: TieBreakKind::Centroids,
                strength: 0.3,
                separation: 0.0,
                release: None,
            };
            let config = config(score, true, 2);
            let first = grow(recipe(centroids), 12, &config, &gradients());
            // Twins drift apart before the second growth.
            let mut parent = (first.big, first.optimizer[1].clone());
            for _ in 0..5 {
                parent = step(parent.0, parent.1);
            }
            let mut evidence = gradients();
            for norms in &mut evidence.layers {
                let norms = norms.gradients.as_mut().unwrap();
                norms.fc1 = (0..12).map(f64::from).collect();
                norms.fc2 = norms.fc1.clone();
            }
            let second = grow_model(&parent, recipe(exact(0.3)), 24, &evidence);
            let difference = difference(&second);
            assert!(difference < 1e-5, "{selection:?}: {difference}");
            let state = second.big.growth_states().swap_remove(0);
            assert_eq!(state.two_level.unwrap().growths.len(), 2);
            assert_eq!(state.lineage.growths().len(), 2);
            assert_eq!(state.lineage.experts(), 24);
            let origins = state.lineage.origins();
            for (expert, &middle) in second.plan.layers[0].source_of().iter().enumerate() {
                let first = first.plan.layers[0].source_of()[middle];
                assert_eq!(origins.source_of()[expert], first);
            }
        }
    }
}

#[test]
fn a_released_model_is_a_plain_top_k_model() {
    let release = ReleaseRecipe {
        shape: ReleaseShape::Linear,
        steps: None,
        over: Some(0.5),
    };
    let router = RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Random,
        strength: 0.3,
        separation: 0.1,
        release: Some(release),
    };
    let recipe = recipe(Selection::Uniform {}, router, OptimizerPolicy::Copy {});
    let pair = grow(recipe.clone(), 16, &default_config(), &Evidence::default());
    // Grown after 100 steps, free after 50 more.
    assert!(difference(&pair) < 1e-5);
    let held = logits(&pair.big);
    let at_step = |step| {
        let mut model = pair.big.clone();
        model.at_step(step);
        model
    };
    assert!(logits(&at_step(100)) == held);
    let nearly_free = logits(&at_step(149));
    assert!(largest_difference(&nearly_free, &held) > 1e-3);
    let free = at_step(150);
    assert!((free.growth_states().iter()).all(|state| state.two_level.is_none()));
    let plain = self::recipe(
        Selection::Uniform {},
        RouterExtension::Copy {},
        OptimizerPolicy::Copy {},
    );
    let plain = grow(plain, 16, &default_config(), &Evidence::default());
    assert!(logits(&free) == logits(&plain.big));

    let again = operator(recipe, 32).check(&pair.big.growth_states());
    let again = again.unwrap_err();
    assert_eq!(again, OperatorError::ReleaseUnderWay { until: 150 });
}

/// The values of all parameters but those of experts and routers.
fn others(model: &Lm<B>) -> Vec<f32> {
    let mut all = values(model.embedding_vd.val());
    all.extend(values(model.head_vd.val()));
    all.extend(values(model.norm.scale_d.val()));
    for block in &model.blocks {
        for weight in [
            &block.attention.query,
            &block.attention.key,
            &block.attention.value,
            &block.attention.output,
        ] {
            all.extend(values(weight.val()));
        }
        all.extend(values(block.attention_norm.scale_d.val()));
        all.extend(values(block.ffn_norm.scale_d.val()));
        if let upcycle_lm::FeedForward::Dense(dense) = &block.ffn {
            all.extend(values(dense.gate_df.val()));
            all.extend(values(dense.up_df.val()));
            all.extend(values(dense.down_fd.val()));
        }
    }
    all
}

#[test]
fn experts_and_router_rows_are_copies_and_all_else_is_kept() {
    let recipe = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Copy {});
    let pair = grow(recipe, 20, &default_config(), &Evidence::default());
    let (model, big) = (&pair.small, &pair.big);
    assert_eq!(others(model), others(big));
    for ((small, grown), plan) in model
        .moe_layers()
        .zip(big.moe_layers())
        .zip(&pair.plan.layers)
    {
        assert_eq!(grown.experts.gate_edf.dims(), [20, 16, 6]);
        assert_eq!(grown.experts.down_efd.dims(), [20, 6, 16]);
        let (rows, grown_rows) = (
            values(small.router.weight_ed.val()),
            values(grown.router.weight_ed.val()),
        );
        let (down, grown_down) = (
            values(small.experts.down_efd.val()),
            values(grown.experts.down_efd.val()),
        );
        let biases = values(small.router.selection_bias_e.val());
        assert!(biases.iter().any(|&bias| bias != 0.0));
        let bias = values(grown.router.selection_bias_e.val());
        for (expert, &source) in plan.source_of().iter().enumerate() {
            assert_eq!(rows[source * 16..][..16], grown_rows[expert * 16..][..16]);
            assert_eq!(down[source * 96..][..96], grown_down[expert * 96..][..96]);
            // Noise is on replicas only.
            let noise = bias[expert] - biases[source];
            assert_eq!(noise != 0.0, expert >= plan.first_replica());
            assert!(noise.abs() <= 1.001e-3);
        }
        assert!(grown.experts.gate_edf.is_require_grad());
        assert!(grown.router.weight_ed.is_require_grad());
        assert!(!grown.router.selection_bias_e.is_require_grad());
    }
}

#[test]
fn every_initialisation_keeps_originals_and_all_else() {
    let inits = [
        ExpertInit::Noise { std: 0.01 },
        ExpertInit::Drop {
            share: 0.5,
            init: Initialization::Xavier,
        },
        ExpertInit::Orthogonal {},
        ExpertInit::SvdPerturb {
            values: 0.1,
            vectors: 0.05,
            drop: 0.0,
        },
        ExpertInit::SparseCode {
            atoms: 16,
            sparsity: 0.1,
            mix: 0.3,
            iterations: 10,
        },
    ];
    for experts in inits {
        let recipe = Recipe {
            experts: experts.clone(),
            ..recipe(Selection::Random {}, NOISE, OptimizerPolicy::Copy {})
        };
        let pair = grow(recipe.clone(), 13, &default_config(), &Evidence::default());
        assert_eq!(others(&pair.small), others(&pair.big));
        let [small, big] = [&pair.small, &pair.big].map(|model| {
            let moe = model.moe_layers().next().unwrap();
            values(moe.experts.up_edf.val())
        });
        assert_eq!(small, big[..small.len()], "{experts:?}");
        assert_ne!(
            small[pair.plan.layers[0].source_of()[8] * 96..][..96],
            big[8 * 96..][..96],
            "{experts:?}"
        );
        // The same seed gives the same model, another seed another.
        let again = grow(recipe.clone(), 13, &default_config(), &Evidence::default());
        assert_eq!(logits(&pair.big), logits(&again.big));
    }
}

fn moments(record: &AdamWRecord<B>, id: ParamId) -> (usize, Vec<f32>, Vec<f32>) {
    let state = Moments::<B, 3>::moments(record, id).unwrap();
    let host = |tensor: Tensor<burn_flex::Flex, 3>| tensor.into_data().iter::<f32>().collect();
    (state.time, host(state.moment_1), host(state.moment_2))
}

#[test]
fn moments_are_where_the_policy_says_and_a_step_is_finite() {
    let parent = trained(&default_config());
    let policies = [
        OptimizerPolicy::Reset {},
        OptimizerPolicy::ResetNew {},
        OptimizerPolicy::Copy {},
        OptimizerPolicy::Scale {
            momentum: 0.5,
            variance: 0.25,
            adaptive: false,
        },
        OptimizerPolicy::Interpolate { weight: 0.25 },
    ];
    for policy in policies {
        let recipe = recipe(Selection::Uniform {}, NOISE, policy);
        let pair = grow_model(&parent, recipe, 16, &Evidence::default());
        let [before, after] = &pair.optimizer;
        if policy == (OptimizerPolicy::Reset {}) {
            assert!(after.is_empty());
        } else {
            assert_eq!(before.len(), after.len());
            for (small, grown) in pair.small.moe_layers().zip(pair.big.moe_layers()) {
                let (time, m1, m2) = moments(before, small.experts.up_edf.id);
                let (new_time, new_m1, new_m2) = moments(after, grown.experts.up_edf.id);
                assert_eq!(time, new_time);
                assert!(m2.iter().any(|&v| v > 0.0));
                let size = m1.len();
                assert_eq!((&m1[..], &m2[..]), (&new_m1[..size], &new_m2[..size]));
                for i in 0..size {
                    let neighbour = (i + 96) % size;
                    let expected = match policy {
                        OptimizerPolicy::Copy {} => (m1[i], m2[i]),
                        OptimizerPolicy::Scale { .. } => (0.5 * m1[i], 0.25 * m2[i]),
                        OptimizerPolicy::Interpolate { .. } => (
                            0.75 * m1[i] + 0.25 * m1[neighbour],
                            0.75 * m2[i] + 0.25 * m2[neighbour],
                        ),
                        _ => (0.0, 0.0),
                    };
                    let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs();
                    assert!(close(new_m1[size + i], expected.0), "{policy:?}");
                    assert!(close(new_m2[size + i], expected.1), "{policy:?}");
                }
            }
        }
        let (stepped, state) = step(pair.big.clone(), after.clone());
        assert!(logits(&stepped).iter().all(|value| value.is_finite()));
        assert!(!state.is_empty());
    }
}

#[test]
fn more_active_and_wider_experts_keep_the_function_and_copies_part() {
    for score in [ScoreFunction::Sigmoid, ScoreFunction::TopKSoftmax] {
        let parent = trained(&config(score, true, 2));
        for (name, factor, shape) in [
            ("growing-top-k", 2, [16, 4, 6]),
            ("growing-top-k", 3, [24, 6, 6]),
            ("wider", 2, [8, 2, 12]),
            ("wider", 3, [8, 2, 18]),
        ] {
            let named = Recipe::named(name).unwrap();
            let pair = grow_model(&parent, named, 8 * factor, &Evidence::default());
            let after = pair.big.config();
            assert_eq!([after.experts, after.top_k, after.d_expert], shape);
            assert!(difference(&pair) < 2e-5, "{name}: {}", difference(&pair));

            // Halves of what there is are copies of each other, and are none after a step.
            let largest = |model: &Lm<B>| {
                let layer = model.moe_layers().next().unwrap();
                let up = layer.experts.up_edf.val();
                let axis = if name == "wider" { 2 } else { 0 };
                let parts = up.chunk(factor, axis);
                let distance = (parts[0].clone() - parts[1].clone()).abs().max();
                distance.into_scalar()
            };
            assert_eq!(largest(&pair.big), 0.0);
            let (stepped, _) = step(pair.big.clone(), pair.optimizer[1].clone());
            assert!(largest(&stepped) > 1e-4, "{name}");

            // A record of it can be loaded into the model that it came from.
            let mut again: Lm<B> = parent.0.config().init(7, &FlexDevice).unwrap();
            again
                .restore(pair.big.growth_states(), &FlexDevice)
                .unwrap();
            let again = again.load_record(pair.big.clone().into_record());
            assert_eq!(again.config(), after);
            assert_eq!(logits(&again), logits(&pair.big));

            // Further experts of them are of the new shape.
            let next = recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Copy {});
            let twice = operator(next, 2 * after.experts);
            let (mut big, mut optimizer) = (pair.big.clone(), pair.optimizer[1].clone());
            twice
                .grow(&mut big, &mut optimizer, &Evidence::default())
                .unwrap();
            let twice = big.config();
            assert_eq!(
                [twice.experts, twice.top_k, twice.d_expert],
                [2 * shape[0], shape[1], shape[2]]
            );
        }
    }
}

fn dense_parent(top_k: usize) -> LmConfig {
    LmConfig {
        pattern: LayerPattern::AllDense,
        ..config(ScoreFunction::Sigmoid, true, top_k)
    }
}

#[test]
fn a_dense_model_becomes_a_moe_model_of_the_same_function() {
    let parent = trained(&dense_parent(1));
    for (top_k, shards, target) in [(1, 1, 8), (2, 1, 8), (1, 4, 16), (2, 2, 8)] {
        for policy in [OptimizerPolicy::Reset {}, OptimizerPolicy::Copy {}] {
            let recipe = |experts| Recipe {
                dense: Some(DenseSource {
                    top_k,
                    shards,
                    layers: LayerPattern::Interleaved,
                }),
                experts,
                ..recipe(
                    Selection::Uniform {},
                    RouterExtension::Hyperplane { strength: 1.0 },
                    policy,
                )
            };
            let copy = recipe(ExpertInit::Copy {});
            let pair = grow_model(&parent, copy, target, &Evidence::default());
            assert!(difference(&pair) < 1e-5, "{top_k} {shards}");
            let config = pair.big.config();
            assert_eq!(config.moe_layers(), 1);
            assert_eq!((config.experts, config.top_k), (target, top_k * shards));
            assert_eq!(config.d_expert * shards, 20);
            let (stepped, _) = step(pair.big, pair.optimizer[1].clone());
            assert!(logits(&stepped).iter().all(|value| value.is_finite()));

            let drop = recipe(ExpertInit::Drop {
                share: 0.5,
                init: Initialization::Normal,
            });
            let pair = grow_model(&parent, drop, target, &Evidence::default());
            assert!(difference(&pair) > 1e-2, "{top_k} {shards}");
        }
    }
}

#[test]
fn verification_says_what_changed() {
    let parent = trained(&default_config());
    let verified = |router| {
        let recipe = recipe(Selection::Uniform {}, router, OptimizerPolicy::Reset {});
        let pair = grow_model(&parent, recipe, 16, &Evidence::default());
        let [b, s] = TOKENS;
        let targets = SoftTargets {
            ids_tj: tokens().inner().reshape([b * s, 1]),
            weights_tj: Tensor::ones([b * s, 1], &FlexDevice),
        };
        use burn::module::AutodiffModule;
        let (small, big) = (pair.small.valid(), pair.big.valid());
        let batches = [(tokens().inner(), targets.clone())];
        let verification = verify(
            &pair.plan.sources(),
            batches,
            |tokens| small.logits(tokens, Precision::F32),
            |tokens| big.logits(tokens, Precision::F32),
        );
        // The loss is the model's own.
        let loss = big
            .forward(tokens().inner(), targets, Precision::F32)
            .loss_t;
        let loss: f32 = loss.mean().into_scalar();
        assert!((verification.loss_after - f64::from(loss)).abs() < 1e-5);
        assert!(
            (verification.largest_logit_difference - f64::from(difference(&pair))).abs() < 1e-6
        );
        verification
    };
    let exact = verified(exact(0.3));
    assert!(exact.loss_difference().abs() < 1e-6);
    assert!(exact.relative_logit_difference < 1e-5);
    for layer in &exact.layers {
        assert_eq!(layer.changed_sources, Some(0.0));
        assert_eq!(layer.routing.distinct_sources, 2.0);
        assert_eq!(layer.routing.twin_coselection, 0.0);
        assert_eq!(layer.routing.load.len(), 16);
    }
    let plain = verified(RouterExtension::Copy {});
    assert!(plain.loss_difference().abs() > 1e-4);
    // Twins are chosen together by every token.
    assert_eq!(plain.layers[0].changed_sources, Some(1.0));
    assert_eq!(plain.layers[0].routing.distinct_sources, 1.0);
    assert_eq!(plain.layers[0].routing.twin_coselection, 1.0);
}

/// What a growth changes: the function, and all that the optimizer remembers of it.
fn state((model, optimizer): &(Lm<B>, AdamWRecord<B>)) -> (Vec<f32>, usize, Vec<Vec<f32>>) {
    let layers = model.moe_layers().flat_map(|layer| {
        let id = layer.experts.up_edf.id;
        let found = Moments::<B, 3>::moments(optimizer, id).is_some();
        let of_layer = found.then(|| moments(optimizer, id));
        of_layer.into_iter().flat_map(|(_, m1, m2)| [m1, m2])
    });
    (logits(model), optimizer.len(), layers.collect())
}

#[test]
fn rows_and_experts_that_cannot_be_made_are_told() {
    let mut parent = trained(&default_config());
    for (index, layer) in parent.0.moe_layers_mut().into_iter().enumerate() {
        // Nothing is orthogonal to zero: row 3 of the first layer, all experts of the second.
        if index == 0 {
            let zero = |row_ed: Tensor<B, 2>| {
                row_ed.slice_assign([3..4, 0..16], Tensor::zeros([1, 16], &FlexDevice))
            };
            layer.router.weight_ed = layer.router.weight_ed.clone().map(zero);
        } else {
            let up_edf = &mut layer.experts.up_edf;
            *up_edf = up_edf.clone().map(|up_edf| up_edf.zeros_like());
        }
    }
    let recipe = Recipe {
        experts: ExpertInit::Orthogonal {},
        ..recipe(
            Selection::Uniform {},
            RouterExtension::Orthogonal {},
            OptimizerPolicy::Reset {},
        )
    };
    let grown = try_grow(&mut parent, &operator(recipe, 16), &Evidence::default());
    let deviations = grown.unwrap().deviations;
    let expected = [
        Deviation::CopiedRows {
            layer: 0,
            experts: vec![11],
        },
        Deviation::CopiedExperts {
            layer: 1,
            experts: (8..16).collect(),
        },
    ];
    assert_eq!(deviations, expected);
}

#[test]
fn what_cannot_be_done_is_said() {
    let config = default_config();
    let apply = |recipe: Recipe, target, config: &LmConfig, record: Option<AdamWRecord<B>>| {
        let mut parent = trained(config);
        if let Some(record) = record {
            parent.1 = record;
        }
        let before = state(&parent);
        let operator = operator(recipe, target);
        let error = try_grow(&mut parent, &operator, &Evidence::default()).unwrap_err();
        assert!(state(&parent) == before, "{error}");
        error
    };
    let uniform = |router| recipe(Selection::Uniform {}, router, OptimizerPolicy::Copy {});
    assert_eq!(
        apply(uniform(NOISE), 8, &config, None),
        OperatorError::TargetNotAbove {
            target: 8,
            experts: 8
        }
    );
    for score in [
        Score::GradientSquared,
        Score::Fisher,
        Score::WeightNorm,
        Score::Load,
    ] {
        let selection = Selection::Proportional {
            score,
            on: Projections::default(),
        };
        let recipe = recipe(selection, NOISE, OptimizerPolicy::Reset {});
        let error = apply(recipe, 16, &config, None);
        assert!(
            matches!(error, OperatorError::MissingEvidence { .. }),
            "{score:?}: {error}"
        );
    }
    // States of another model: the same shapes, other parameters.
    let foreign = trained(&config).1;
    assert!(matches!(
        apply(uniform(NOISE), 16, &config, Some(foreign)),
        OperatorError::OptimizerMismatch(_)
    ));
    assert_eq!(
        apply(uniform(NOISE), 16, &dense_parent(1), None),
        OperatorError::NoMoeLayer
    );
    // Evidence of a model with fewer layers.
    let mut evidence = gradients();
    evidence.layers.pop();
    let by_gradient = recipe(greedy(), NOISE, OptimizerPolicy::Reset {});
    let states = vec![GrowthState::new(8); 2];
    assert!(matches!(
        operator(by_gradient, 16).plan(&states, &evidence),
        Err(OperatorError::EvidenceMismatch { found: 1, .. })
    ));
    // Parameters that are not those of the layer's experts.
    let mut other = trained(&config);
    other.0.moe_layers_mut()[1].set_growth_state(GrowthState::new(6));
    let error = try_grow(&mut other, &operator(uniform(NOISE), 16), &evidence);
    assert!(matches!(
        error,
        Err(OperatorError::UnequalLayers { layer: 1, .. })
    ));
    other.0.moe_layers_mut()[0].set_growth_state(GrowthState::new(6));
    let error = try_grow(
        &mut other,
        &operator(uniform(NOISE), 16),
        &Evidence::default(),
    );
    assert!(matches!(error, Err(OperatorError::ModelMismatch(_))));
    // A release that would last no step.
    let mut brief = exact(0.3);
    if let RouterExtension::TwoLevel { release, .. } = &mut brief {
        *release = Some(ReleaseRecipe {
            shape: ReleaseShape::AtOnce,
            steps: None,
            over: Some(1e-3),
        });
    }
    assert_eq!(
        apply(uniform(brief), 16, &config, None),
        OperatorError::ReleaseWithoutSteps { step: 100 }
    );
    // What a dense model cannot give.
    let dense = |selection, router, experts: usize| {
        let recipe = Recipe {
            dense: Some(DenseSource {
                top_k: 2,
                shards: 2,
                layers: LayerPattern::AllMoe,
            }),
            ..recipe(selection, router, OptimizerPolicy::Reset {})
        };
        let mut parent = trained(&dense_parent(1));
        let before = state(&parent);
        let operator = operator(recipe, experts);
        let Err(error) = try_grow(&mut parent, &operator, &Evidence::default()) else {
            return String::new();
        };
        assert!(state(&parent) == before, "{error}");
        error.to_string()
    };
    let hyperplane = || RouterExtension::Hyperplane { strength: 1.0 };
    assert_eq!(dense(Selection::Uniform {}, hyperplane(), 8), "");
    assert!(dense(Selection::Uniform {}, NOISE, 8).contains("hyperplane"));
    assert!(dense(greedy(), hyperplane(), 8).contains("measured"));
    let two_level = dense(Selection::Uniform {}, exact(0.3), 8);
    assert!(two_level.contains("dense.top_k"), "{two_level}");
    assert!(dense(Selection::Uniform {}, hyperplane(), 7).contains("dense.shards"));
    let uneven = Selection::Explicit {
        counts: vec![vec![1, 3]],
        file: None,
    };
    assert!(dense(uneven, hyperplane(), 4).contains("unevenly"));
    // A target beyond all models, at once.
    let huge = operator(uniform(NOISE), usize::MAX).check(&states);
    assert!(matches!(huge, Err(OperatorError::GrownModel(_))));
    // Moments would be those of other neurons.
    let shuffled = Recipe {
        experts: ExpertInit::Shuffle { share: 1.0 },
        ..uniform(NOISE)
    };
    assert!(matches!(
        operator(shuffled, 16).check(&states),
        Err(OperatorError::Recipe {
            field: "optimizer.kind",
            ..
        })
    ));
    // A plain recipe on a two-level model.
    let pair = grow(uniform(exact(0.3)), 16, &config, &Evidence::default());
    assert!(matches!(
        operator(uniform(NOISE), 32).check(&pair.big.growth_states()),
        Err(OperatorError::TwoLevelModel { .. })
    ));
}

/// A recipe that is chosen by this score, and what it needs of a model.
fn measured(score: Score, (model, optimizer): &(Lm<B>, AdamWRecord<B>)) -> Evidence {
    let selection = Selection::Proportional {
        score,
        on: Projections::default(),
    };
    let recipe = recipe(selection, NOISE, OptimizerPolicy::Reset {});
    let nothing = |_: &Lm<B>, _| {
        Ok::<_, OperatorError>(ForwardPass {
            loss: Tensor::zeros([1], &FlexDevice),
            routing: Vec::new(),
        })
    };
    // No batch is needed.
    Evidence::gather(&recipe, model, optimizer, 0, nothing).unwrap()
}

#[test]
fn moments_of_a_norm_are_measured_on_both_halves() {
    let parent = trained(&default_config());
    let evidence = measured(Score::WeightNorm, &parent);
    assert_eq!(evidence.layers.len(), 2);
    let moe = parent.0.moe_layers().next().unwrap();
    let norm = |values: Vec<f32>| {
        let squares = values[..96].iter().map(|&v| f64::from(v).powi(2));
        squares.sum::<f64>()
    };
    let gate = norm(values(moe.experts.gate_edf.val()));
    let up = norm(values(moe.experts.up_edf.val()));
    let weights = evidence.layers[0].weights.as_ref().unwrap();
    assert!((weights.fc1[0] - (gate + up).sqrt()).abs() < 1e-6);
    let (_, _, down) = moments(&parent.1, moe.experts.down_efd.id);
    let evidence = measured(Score::Fisher, &parent);
    let moments = evidence.layers[0].second_moments.as_ref().unwrap();
    assert!((moments.fc2[0] / norm(down).sqrt() - 1.0).abs() < 1e-5);
    // An optimizer without a step has no moments, and the score that needs them says so.
    let evidence = measured(Score::Fisher, &(parent.0, AdamWRecord::new()));
    assert_eq!(evidence.layers[0].second_moments, None);
}

/// What Burn's own optimizer remembers grows as ours does.
#[test]
fn the_state_of_burns_adamw_grows() {
    let mut model: Lm<B> = default_config().init(5, &FlexDevice).unwrap();
    let [b, s] = TOKENS;
    let gradients = |model: &Lm<B>| {
        let targets = SoftTargets {
            ids_tj: tokens().reshape([b * s, 1]),
            weights_tj: Tensor::ones([b * s, 1], &FlexDevice),
        };
        let loss = model.forward(tokens(), targets, Precision::F32).loss_t;
        GradientsParams::from_grads(loss.mean().backward(), model)
    };
    // With the largest second moment of each parameter.
    let mut optimizer = AdamWConfig::new().with_amsgrad(true).init::<B, Lm<B>>();
    let grads = gradients(&model);
    model = optimizer.step(1e-2, model, grads);
    let before = logits(&model);

    let mut state = optimizer.to_record();
    let recipe = recipe(Selection::Uniform {}, exact(0.3), OptimizerPolicy::Copy {});
    let grown = operator(recipe, 16).grow(&mut model, &mut state, &Evidence::default());
    assert!(grown.unwrap().deviations.is_empty());
    assert!(largest_difference(&before, &logits(&model)) < 1e-5);
    let id = model.moe_layers().next().unwrap().experts.up_edf.id;
    let moments = Moments::<B, 3>::moments(&state, id).unwrap();
    assert_eq!(moments.moment_1.dims(), [16, 16, 6]);
    assert_eq!(moments.max_moment_2.unwrap().dims(), [16, 16, 6]);
    optimizer = optimizer.load_record(state);
    let grads = gradients(&model);
    model = optimizer.step(1e-2, model, grads);
    assert!(logits(&model).iter().all(|value| value.is_finite()));
}

/// A hyperplane's strength is in logits: where the norm before the router lets large inputs through, rows need less.
#[test]
fn the_norm_before_the_router_sets_the_scale_of_a_hyperplane() {
    let offsets = |scale: f32| {
        let mut parent = trained(&default_config());
        for block in &mut parent.0.blocks {
            let norm = &mut block.ffn_norm.scale_d;
            *norm = Param::initialized(
                norm.id,
                (norm.val().ones_like() * scale).detach().require_grad(),
            );
        }
        let split = RouterExtension::Hyperplane { strength: 1.0 };
        let recipe = recipe(Selection::Uniform {}, split, OptimizerPolicy::Reset {});
        let pair = grow_model(&parent, recipe, 16, &Evidence::default());
        let [small, big] = [&pair.small, &pair.big]
            .map(|model| values(model.moe_layers().next().unwrap().router.weight_ed.val()));
        big[0] - small[0]
    };
    let (one, four) = (offsets(1.0), offsets(4.0));
    assert!(
        one != 0.0 && (four / one - 0.25).abs() < 1e-3,
        "{one} {four}"
    );
}

#[test]
fn what_could_not_be_done_is_told() {
    let mut parent = trained(&default_config());
    let up = &mut parent.0.moe_layers_mut()[1].experts.up_edf;
    let broken = up.val().inner() * f32::NAN;
    *up = Param::initialized(up.id, Tensor::from_inner(broken).require_grad());
    let perturbed = Recipe {
        experts: ExpertInit::SvdPerturb {
            values: 0.1,
            vectors: 0.0,
            drop: 0.0,
        },
        ..recipe(Selection::Uniform {}, NOISE, OptimizerPolicy::Reset {})
    };
    let grown = try_grow(&mut parent, &operator(perturbed, 10), &Evidence::default()).unwrap();
    let experts = vec![8, 9];
    assert_eq!(
        grown.deviations,
        [Deviation::CopiedExperts { layer: 1, experts }]
    );

    // All tokens go to experts 0 and 1, so the replicas of others share none that could be told apart.
    let mut evidence = gradients();
    for layer in &mut evidence.layers {
        layer.tokens.as_mut().unwrap().experts = (0..80).map(|i| i % 2).collect();
    }
    let centroids = RouterExtension::TwoLevel {
        tie_break: TieBreakKind::Centroids,
        strength: 0.3,
        separation: 0.0,
        release: None,
    };
    let recipe = recipe(Selection::Uniform {}, centroids, OptimizerPolicy::Reset {});
    let mut parent = trained(&default_config());
    let grown = try_grow(&mut parent, &operator(recipe, 16), &evidence).unwrap();
    let told = grown.deviations[0].to_string();
    assert!(told.contains("sources [2, 3, 4, 5, 6, 7]"), "{told}");
}
