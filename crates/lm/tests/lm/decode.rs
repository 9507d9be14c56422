//! Decoding with kept keys and values: the logits and the routing of the whole forward pass.

use burn::{
    module::Param,
    tensor::{Int, Tensor, TensorData},
};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::Precision;
use upcycle_lm::{AttentionBias, DecodeError, LayerPattern, Lm, LmConfig, QkNorm};
use upcycle_moe::{
    ExpertSources, GroupLimit, GroupStrength, Growth, GrowthState, Lineage, MoeModel, Routing,
    ScoreFunction, TwoLevel,
};

const SEQUENCES: usize = 2;
const CONTEXT: usize = 16;

fn config() -> LmConfig {
    LmConfig {
        vocab: 40,
        context: CONTEXT,
        d_model: 24,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        d_ffn: 20,
        pattern: LayerPattern::DenseEnds,
        experts: 6,
        top_k: 2,
        d_expert: 10,
        qk_norm: QkNorm::Head,
        ..LmConfig::default()
    }
}

fn model(config: &LmConfig) -> Lm<Flex> {
    let mut model = config.init::<Flex>(1, &FlexDevice).unwrap();
    // New biases are zero, and would go unnoticed.
    for block in &mut model.blocks {
        let attention = &mut block.attention;
        let biases = [
            &mut attention.query_bias,
            &mut attention.key_bias,
            &mut attention.value_bias,
            &mut attention.output_bias,
        ];
        for bias in biases.into_iter().flatten() {
            let [width] = bias.dims();
            let values = (0..width).map(|i| ((i * 5) % 7) as f32 * 0.1 - 0.3);
            let data = TensorData::new(values.collect::<Vec<f32>>(), [width]);
            *bias = Param::from_tensor(Tensor::from_data(data, &FlexDevice));
        }
    }
    model
}

/// Tokens of all sequences at some positions, `[B, N]`.
fn tokens(from: usize, to: usize) -> Tensor<Flex, 2, Int> {
    let token = |row: usize, place: usize| ((place * 7 + row * 11 + 3) % 40) as i32;
    let rows = (0..SEQUENCES).flat_map(|row| (from..to).map(move |place| token(row, place)));
    let data = TensorData::new(rows.collect::<Vec<i32>>(), [SEQUENCES, to - from]);
    Tensor::from_data(data, &FlexDevice)
}

fn values(tensor: Tensor<Flex, 2>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

/// Logits of each position of each sequence, and the experts there, layer by layer.
struct Positions {
    logits: Vec<Vec<f32>>,
    experts: Vec<Vec<Vec<usize>>>,
}

impl Positions {
    fn new() -> Self {
        Self {
            logits: vec![Vec::new(); SEQUENCES * CONTEXT],
            experts: vec![Vec::new(); SEQUENCES * CONTEXT],
        }
    }

    /// Takes what a pass found for positions from `from` to `to`.
    fn take(
        &mut self,
        (from, to): (usize, usize),
        logits_tv: Tensor<Flex, 2>,
        routing: &[Routing<Flex>],
    ) {
        let [_, vocab] = logits_tv.dims();
        let logits = values(logits_tv);
        let n = to - from;
        for row in 0..SEQUENCES {
            for place in from..to {
                let (at, found) = (row * CONTEXT + place, row * n + place - from);
                self.logits[at] = logits[found * vocab..(found + 1) * vocab].to_vec();
                for layer in routing {
                    let [_, k] = layer.experts_tk.dims();
                    let experts = layer.host_experts();
                    self.experts[at].push(experts[found * k..(found + 1) * k].to_vec());
                }
            }
        }
    }
}

/// Reads all positions in chunks of these lengths, and compares with all at once.
fn check(model: &Lm<Flex>, what: &str) {
    let mut whole = Positions::new();
    let (logits, routing) = model.logits(tokens(0, CONTEXT), Precision::F32);
    whole.take((0, CONTEXT), logits, &routing);
    for chunks in [
        vec![CONTEXT],
        vec![1; CONTEXT],
        vec![5, 1, 1, 3, 6],
        vec![15, 1],
    ] {
        let mut decoder = model.decoder(Precision::F32);
        let mut found = Positions::new();
        for chunk in &chunks {
            let (from, to) = (decoder.length(), decoder.length() + chunk);
            let (logits, routing) = decoder.logits(tokens(from, to)).unwrap();
            found.take((from, to), logits, &routing);
        }
        assert_eq!(decoder.room(), 0);
        for at in 0..SEQUENCES * CONTEXT {
            let pairs = whole.logits[at].iter().zip(&found.logits[at]);
            let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 5e-5, "{what} {chunks:?} {at}: {difference}");
            assert_eq!(
                whole.experts[at], found.experts[at],
                "{what} {chunks:?} {at}"
            );
        }
    }
}

#[test]
fn kept_keys_and_values_change_no_logit() {
    let base = config();
    for (what, config) in [
        ("groups of heads", base.clone()),
        (
            "all heads, all MoE",
            LmConfig {
                kv_heads: 4,
                qk_norm: QkNorm::None,
                pattern: LayerPattern::AllMoe,
                ..base.clone()
            },
        ),
        (
            "one key, norm of all heads, softmax",
            LmConfig {
                kv_heads: 1,
                qk_norm: QkNorm::AllHeads,
                pattern: LayerPattern::Interleaved,
                score: ScoreFunction::Softmax,
                renormalize: false,
                ..base.clone()
            },
        ),
        (
            "half of a head turned, biases of inputs",
            LmConfig {
                d_head: 8,
                rotary_share: 0.5,
                attention_bias: AttentionBias::Inputs,
                score: ScoreFunction::TopKSoftmax,
                ..base.clone()
            },
        ),
        (
            "all biases, a shared expert with a gate",
            LmConfig {
                attention_bias: AttentionBias::All,
                d_shared: 12,
                shared_gate: true,
                ..base.clone()
            },
        ),
        (
            "groups of experts, a shared expert",
            LmConfig {
                groups: Some(GroupLimit {
                    count: 3,
                    top: 2,
                    by: GroupStrength::TopTwo,
                }),
                d_shared: 12,
                gate_scale: 2.0,
                pattern: LayerPattern::List(vec![1, 2]),
                ..base.clone()
            },
        ),
        (
            "all dense",
            LmConfig {
                pattern: LayerPattern::AllDense,
                ..base.clone()
            },
        ),
    ] {
        check(&model(&config), what);
    }
}

#[test]
fn nor_does_two_level_selection() {
    let mut model = model(&config());
    let sources = ExpertSources::new(vec![0, 1, 2, 0, 1, 2]).unwrap();
    let state = GrowthState {
        lineage: Lineage::new(3).grown(sources.clone()).unwrap(),
        two_level: Some(TwoLevel {
            growths: vec![Growth {
                sources,
                strength: 0.1,
            }],
            ..TwoLevel::default()
        }),
        ..GrowthState::new(6)
    };
    model.restore(vec![state], &FlexDevice).unwrap();
    check(&model, "two-level selection");
}

#[test]
fn the_next_token_needs_the_last_logits_alone() {
    let model = model(&config());
    let (all, _) = model.logits(tokens(0, 9), Precision::F32);
    let last = all.reshape([SEQUENCES, 9, 40]).narrow(1, 8, 1);
    let last = values(last.reshape([SEQUENCES, 40]));
    let mut decoder = model.decoder(Precision::F32);
    decoder.next_logits(tokens(0, 7)).unwrap();
    let (next, _) = decoder.next_logits(tokens(7, 9)).unwrap();
    assert_eq!(next.dims(), [SEQUENCES, 40]);
    for (a, b) in values(next).iter().zip(&last) {
        assert!((a - b).abs() < 5e-5, "{a} {b}");
    }
}

#[test]
fn a_clone_goes_on_by_itself() {
    let model = model(&config());
    let mut decoder = model.decoder(Precision::F32);
    decoder.logits(tokens(0, 6)).unwrap();
    let mut other = decoder.clone();
    other.logits(tokens(9, 12)).unwrap();
    assert_eq!((decoder.length(), other.length()), (6, 9));
    let after = values(decoder.logits(tokens(6, 7)).unwrap().0);
    let mut undisturbed = model.decoder(Precision::F32);
    undisturbed.logits(tokens(0, 6)).unwrap();
    assert_eq!(after, values(undisturbed.logits(tokens(6, 7)).unwrap().0));
}

#[test]
fn what_cannot_be_read_is_an_error_and_changes_nothing() {
    let model = model(&config());
    let mut decoder = model.decoder(Precision::F32);
    let long = decoder.logits(tokens(0, CONTEXT + 1)).unwrap_err();
    let expected = DecodeError::TooLong {
        length: 0,
        more: CONTEXT + 1,
        context: CONTEXT,
    };
    assert_eq!(long, expected);
    decoder.logits(tokens(0, 4)).unwrap();
    let one = tokens(4, 5).narrow(0, 0, 1);
    let expected = DecodeError::OtherSequences {
        expected: SEQUENCES,
        found: 1,
    };
    assert_eq!(decoder.logits(one).unwrap_err(), expected);
    assert_eq!(decoder.length(), 4);
    decoder.logits(tokens(4, CONTEXT)).unwrap();
    assert!(decoder.logits(tokens(0, 1)).is_err());
}
