//! The operator on records: exactness, what is copied and what is kept, moments, repeated growth, dense sources.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use burn::{
    module::{Module, ParamId},
    tensor::Tensor,
};
use burn_flex::FlexDevice;
use common::*;
use upcycle_kernels::{AdamWRecord, Precision, SoftTargets, adamw::state_of_rank};
use upcycle_lm::{LayerPattern, Lm, LmConfig, ReleaseShape};
use upcycle_moe::{Lineage, ScoreFunction};
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

fn greedy() -> Selection {
    Selection::Greedy {
        score: Score::GradientSquared,
        on: Projections::Average,
        cap: 3,
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
            let two_level = second.big.config().two_level.clone().unwrap();
            assert_eq!(two_level.growths.len(), 2);

            let lineage = Lineage::new(8)
                .grown(first.plan.layers[0].sources().clone())
                .and_then(|lineage| lineage.grown(second.plan.layers[0].sources().clone()))
                .unwrap();
            assert_eq!(lineage.experts(), 24);
            let origins = lineage.origins();
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
        over: 0.5,
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
    assert!(logits(&pair.big.clone().at_step(100)) == held);
    let nearly_free = logits(&pair.big.clone().at_step(149));
    assert!(largest_difference(&nearly_free, &held) > 1e-3);
    let free = pair.big.clone().at_step(150);
    assert!(free.config().two_level.is_none());
    let plain = self::recipe(
        Selection::Uniform {},
        RouterExtension::Copy {},
        OptimizerPolicy::Copy {},
    );
    let plain = grow(plain, 16, &default_config(), &Evidence::default());
    assert!(logits(&free) == logits(&plain.big));

    let again = operator(recipe, 32)
        .check(pair.big.config(), 100)
        .unwrap_err();
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
    let state = state_of_rank::<B, 3>(record.get(&id).unwrap().clone()).unwrap();
    let host = |tensor: Tensor<burn_flex::Flex, 3>| tensor.into_data().iter::<f32>().collect();
    (
        state.momentum.time,
        host(state.momentum.moment_1),
        host(state.momentum.moment_2),
    )
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
        let verification = verify(&small, &big, &pair.plan, batches, Precision::F32);
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

#[test]
fn what_cannot_be_done_is_said() {
    let config = default_config();
    let apply = |recipe: Recipe, target, config: &LmConfig, record: Option<AdamWRecord<B>>| {
        let mut parent = trained(config);
        if let Some(record) = record {
            parent.1 = record;
        }
        operator(recipe, target)
            .apply(source(&parent), &Evidence::default(), &FlexDevice)
            .err()
            .unwrap()
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
    assert!(matches!(
        operator(by_gradient, 16).plan(&config, &evidence),
        Err(OperatorError::EvidenceMismatch { found: 1, .. })
    ));
    // A checkpoint of another model.
    let mut other = source(&trained(&config));
    other.config.experts = 6;
    assert!(matches!(
        operator(uniform(NOISE), 16).apply(other, &Evidence::default(), &FlexDevice),
        Err(OperatorError::RecordMismatch(_))
    ));
    // A release that would last no step.
    let mut brief = exact(0.3);
    if let RouterExtension::TwoLevel { release, .. } = &mut brief {
        *release = Some(ReleaseRecipe {
            shape: ReleaseShape::AtOnce,
            over: 1e-3,
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
                top_k: 1,
                shards: 2,
                layers: LayerPattern::AllMoe,
            }),
            ..recipe(selection, router, OptimizerPolicy::Reset {})
        };
        let error = operator(recipe, experts).check(&dense_parent(1), 100);
        error
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let hyperplane = || RouterExtension::Hyperplane { strength: 1.0 };
    assert_eq!(dense(Selection::Uniform {}, hyperplane(), 8), "");
    assert!(dense(Selection::Uniform {}, NOISE, 8).contains("hyperplane"));
    assert!(dense(greedy(), hyperplane(), 8).contains("measured"));
    assert!(dense(Selection::Uniform {}, hyperplane(), 7).contains("dense.shards"));
    let uneven = Selection::Explicit {
        counts: vec![vec![1, 3]],
        file: None,
    };
    assert!(dense(uneven, hyperplane(), 4).contains("unevenly"));
    // A target beyond all models, at once.
    let huge = operator(uniform(NOISE), usize::MAX).check(&config, 100);
    assert!(matches!(huge, Err(OperatorError::GrownModel(_))));
    // Moments would be those of other neurons.
    let shuffled = Recipe {
        experts: ExpertInit::Shuffle { share: 1.0 },
        ..uniform(NOISE)
    };
    assert!(matches!(
        operator(shuffled, 16).check(&config, 100),
        Err(OperatorError::Recipe {
            field: "optimizer.kind",
            ..
        })
    ));
    // A plain recipe on a two-level model.
    let pair = grow(uniform(exact(0.3)), 16, &config, &Evidence::default());
    assert!(matches!(
        operator(uniform(NOISE), 32).check(pair.big.config(), 100),
        Err(OperatorError::TwoLevelModel { .. })
    ));
}

const NORMS: [Measurement; 2] = [Measurement::Weights, Measurement::SecondMoments];

#[test]
fn moments_of_a_norm_are_measured_on_both_halves() {
    let parent = trained(&default_config());
    let evidence =
        Evidence::of_records(&parent.0.clone().into_record(), &parent.1, &NORMS).unwrap();
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
    let moments = evidence.layers[0].second_moments.as_ref().unwrap();
    assert!((moments.fc2[0] / norm(down).sqrt() - 1.0).abs() < 1e-5);
    // An optimizer without a step has no moments, and the score that needs them says so.
    let record = parent.0.clone().into_record();
    let evidence = Evidence::of_records(&record, &AdamWRecord::<B>::new(), &NORMS).unwrap();
    assert_eq!(evidence.layers[0].second_moments, None);
}
