//! Parity with numbers made by the published implementation, wherever that is right (f64; ours compute in f32).

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use serde_json::Value;
use upcycle_operator::*;

fn fixtures() -> [Value; 2] {
    [
        include_str!("../fixtures/reference_1.json"),
        include_str!("../fixtures/reference_2.json"),
    ]
    .map(|text| serde_json::from_str(text).unwrap())
}

/// All numbers in nested lists, in order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn size(fixture: &Value, axis: &str) -> usize {
    fixture[axis].as_u64().unwrap() as usize
}

/// Equal to 1e-6 of the inputs' size: they are of order 1, and f32 rounds them before a difference cancels.
fn assert_close(ours: &[f64], published: &[f64], what: &str) {
    assert_eq!(ours.len(), published.len(), "{what}");
    for (ours, published) in ours.iter().zip(published) {
        assert!(
            (ours - published).abs() <= 1e-6 * published.abs().max(1.0),
            "{what}: {ours} against {published}"
        );
    }
}

/// Gate, up and down as ours: fc1 holds rows of gate, then of up, `[2F, D]`; fc2 is `[D, F]`.
fn matrices(fixture: &Value, suffix: &str) -> [Tensor<Flex, 3>; 3] {
    let [e, d, f] = ["E", "D", "F"].map(|axis| size(fixture, axis));
    let tensor = |name: &str, shape: [usize; 3]| {
        let values: Vec<f32> = flat(&fixture[format!("{name}{suffix}")])
            .into_iter()
            .map(|value| value as f32)
            .collect();
        Tensor::<Flex, 3>::from_data(TensorData::new(values, shape), &FlexDevice)
    };
    let fc1 = tensor("fc1", [e, 2 * f, d]);
    let half = |from: usize| fc1.clone().narrow(1, from, f).swap_dims(1, 2);
    [half(0), half(f), tensor("fc2", [e, d, f]).swap_dims(1, 2)]
}

fn evidence(fixture: &Value) -> LayerEvidence {
    LayerEvidence {
        weights: Some(Norms::of(matrices(fixture, ""))),
        gradients: Some(Norms::of(matrices(fixture, "_grad"))),
        second_moments: Some(Norms::of(matrices(fixture, "_exp_avg_sq"))),
        ..LayerEvidence::NOTHING
    }
}

const SCORES: [(&str, Score); 4] = [
    ("gradient_squared", Score::GradientSquared),
    ("weight_grad_product", Score::Saliency),
    ("weight_norm", Score::WeightNorm),
    ("approx_fisher", Score::Fisher),
];

const PROJECTIONS: [(&str, Projections); 6] = [
    ("fc1_only", Projections::Fc1),
    ("fc2_only", Projections::Fc2),
    ("both_average", Projections::Average),
    ("both_product", Projections::Product),
    ("both_max", Projections::Max),
    ("both_min", Projections::Min),
];

fn scores(fixture: &Value, metric: &str, layers: &str) -> Vec<f64> {
    let score = SCORES.iter().find(|(name, _)| *name == metric).unwrap().1;
    let on = PROJECTIONS
        .iter()
        .find(|(name, _)| *name == layers)
        .unwrap()
        .1;
    Utility { score, on }
        .scores(&evidence(fixture), size(fixture, "E"), 0)
        .unwrap()
}

#[test]
fn all_scores_of_all_projections() {
    for fixture in fixtures() {
        for (metric, _) in SCORES {
            for (layers, _) in PROJECTIONS {
                let published = flat(&fixture["scores"][metric][layers]);
                let what = format!("{metric} {layers}");
                let ours = scores(&fixture, metric, layers);
                assert_eq!(ours.len(), published.len());
                for (ours, published) in ours.iter().zip(published) {
                    assert!((ours / published - 1.0).abs() < 1e-6, "{what}");
                }
            }
        }
    }
}

#[test]
fn greedy_orders() {
    for fixture in fixtures() {
        let cases = fixture["greedy"].as_array().unwrap();
        assert_eq!(cases.len(), 96);
        for case in cases {
            let text = |field: &str| case[field].as_str().unwrap();
            let number = |field: &str| case[field].as_u64().unwrap() as usize;
            let mut published = vec![1; 6];
            for expert in flat(&case["selected"]) {
                published[expert as usize] += 1;
            }
            let greedy = Selection::Greedy {
                score: Score::GradientSquared,
                on: Projections::Average,
                cap: number("cap"),
            };
            let scores = scores(&fixture, text("metric"), text("layers"));
            let counts = greedy.counts(0, 6, 6 + number("extra"), &scores, 0);
            assert_eq!(counts.unwrap(), published, "{case}");
        }
    }
}

/// The published order of copies as counts; ours places replicas set by set.
fn plan(order: &[usize]) -> LayerPlan {
    let mut counts = vec![1; 6];
    order.iter().for_each(|&source| counts[source] += 1);
    LayerPlan::from_counts(&counts)
}

#[test]
fn router_extensions() {
    for fixture in fixtures() {
        let d = size(&fixture, "D");
        let floats = |value: &Value| flat(value).into_iter().map(|v| v as f32).collect();
        let source = RouterRows {
            weight: floats(&fixture["router_weight"]),
            bias: floats(&fixture["router_bias"]),
            d,
            input_rms: 1.0,
        };
        for case in fixture["router"].as_array().unwrap() {
            let option = |name: &str| case["options"][name].as_f64().unwrap() as f32;
            let method = case["method"].as_str().unwrap();
            let order: Vec<usize> = flat(&case["order"]).iter().map(|&v| v as usize).collect();
            let extension = match method {
                "copy" => RouterExtension::Copy {},
                "scaled_copy" => RouterExtension::Scale {
                    factor: option("scale_factor"),
                },
                "temperature_scaled" => RouterExtension::Scale {
                    factor: option("temperature_factor"),
                },
                "interpolate" => RouterExtension::Interpolate {
                    weight: option("interp_alpha"),
                    circular: case["options"]["interp_circular"].as_bool().unwrap(),
                },
                "adversarial" => RouterExtension::Adversarial {
                    strength: option("adversarial_strength"),
                },
                "bias_only" => RouterExtension::BiasNoise {
                    half_width: option("bias_noise_scale"),
                    shift: option("bias_shift"),
                },
                other => panic!("unknown method {other}"),
            };
            let plan = plan(&order);
            let (ours, _) = extension.extend(&source, &plan, 0);
            let (weight, bias) = (flat(&case["weight"]), flat(&case["bias"]));
            for (expert, &from) in plan.source_of().iter().enumerate() {
                let row = if expert < 6 {
                    expert
                } else {
                    6 + order.iter().position(|&source| source == from).unwrap()
                };
                let our_row: Vec<f64> = ours.weight[expert * d..][..d]
                    .iter()
                    .map(|&value| value.into())
                    .collect();
                assert_close(&our_row, &weight[row * d..][..d], method);
                assert_close(&[ours.bias[expert].into()], &[bias[row]], method);
            }
        }
    }
}

/// The published "adversarial" router copies the wrong sources for orders that are not uniform; right is that every
/// replica starts from its own source.
#[test]
fn adversarial_rows_start_from_their_own_source() {
    let fixture = &fixtures()[0];
    let d = size(fixture, "D");
    let weight: Vec<f32> = flat(&fixture["router_weight"])
        .into_iter()
        .map(|v| v as f32)
        .collect();
    let source = RouterRows {
        bias: vec![0.0; 6],
        weight,
        d,
        input_rms: 1.0,
    };
    let plan = plan(&[3, 3, 1, 0, 1, 3]);
    let (grown, _) = RouterExtension::Adversarial { strength: 0.25 }.extend(&source, &plan, 0);
    for (expert, &from) in plan.source_of().iter().enumerate().skip(6) {
        for i in 0..d {
            let mean = source.weight.iter().skip(i).step_by(d).sum::<f32>() / 6.0;
            let expected = 0.75 * source.weight[from * d + i] + 0.25 * mean;
            assert!((grown.weight[expert * d + i] - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn expert_initialisations() {
    for fixture in fixtures() {
        let [d, f] = ["D", "F"].map(|axis| size(&fixture, axis));
        let host = |tensor: Tensor<Flex, 3>| -> Vec<f32> { tensor.into_data().iter().collect() };
        let [gate, up, down] = matrices(&fixture, "").map(host);
        let source = ExpertMatrices {
            gate: &gate,
            up: &up,
            down: &down,
            d,
            f,
        };
        let plan = plan(&[0, 1, 2, 3, 4, 5]);
        for case in fixture["expert"].as_array().unwrap() {
            let option = |name: &str| case["options"][name].as_f64().unwrap() as f32;
            let method = case["method"].as_str().unwrap();
            let init = match method {
                "copy" => ExpertInit::Copy {},
                "scaled_copy" => ExpertInit::Scale {
                    factor: option("scale_factor"),
                },
                "interpolate" => ExpertInit::Interpolate {
                    weight: option("interp_alpha"),
                },
                other => panic!("unknown method {other}"),
            };
            let ([gate, up, _], _) = init.grow(source, &plan, 0);
            let published = flat(&case["fc1_new"]);
            for e in 0..6 {
                for column in 0..f {
                    for row in 0..d {
                        let ours = |matrix: &[f32]| matrix[((6 + e) * d + row) * f + column].into();
                        let at = |half: usize| published[(e * 2 * f + half * f + column) * d + row];
                        assert_close(&[ours(&gate), ours(&up)], &[at(0), at(1)], method);
                    }
                }
            }
        }
    }
}
