//! Texts of a model with random weights: what is drawn, when it ends, and what is told.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use upcycle_kernels::Precision;
use upcycle_lm::{
    Finish, GenerateConfig, GenerateError, GeneratedToken, Lm, LmConfig, SamplingConfig,
};

const PROMPT: [u32; 3] = [5, 9, 2];

fn model() -> Lm<Flex> {
    let config = LmConfig {
        vocab: 30,
        context: 20,
        ..LmConfig::default()
    };
    config.init(3, &FlexDevice).unwrap()
}

fn config() -> GenerateConfig {
    GenerateConfig {
        max_tokens: 8,
        sampling: SamplingConfig::default(),
        seed: 0,
        samples: 1,
        stop: Vec::new(),
        routing: false,
        precision: Precision::F32,
    }
}

fn generate(model: &Lm<Flex>, config: &GenerateConfig) -> (Vec<GeneratedToken>, Vec<Finish>) {
    let mut tokens = Vec::new();
    let finished = model.generate(&PROMPT, config, &mut |token| {
        tokens.push(token);
        ControlFlow::Continue(())
    });
    (tokens, finished.unwrap())
}

fn ids(tokens: &[GeneratedToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Logits of the last of some tokens by the whole forward pass, and the experts of each layer there.
fn forward(model: &Lm<Flex>, ids: &[u32]) -> (Vec<f32>, Vec<Vec<usize>>) {
    let values: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let data = TensorData::new(values, [1, ids.len()]);
    let tokens = Tensor::<Flex, 2, Int>::from_data(data, &FlexDevice);
    let (logits, routing) = model.logits(tokens, Precision::F32);
    let all: Vec<f32> = logits.into_data().iter().collect();
    let experts = routing.iter().map(|layer| {
        let [_, k] = layer.experts_tk.dims();
        let experts = layer.host_experts();
        experts[experts.len() - k..].to_vec()
    });
    (all[all.len() - 30..].to_vec(), experts.collect())
}

#[test]
fn greedy_takes_what_the_whole_forward_pass_finds_likeliest() {
    let model = model();
    let greedy = GenerateConfig {
        sampling: SamplingConfig::greedy(),
        routing: true,
        ..config()
    };
    let (tokens, finished) = generate(&model, &greedy);
    assert_eq!((tokens.len(), finished), (8, vec![Finish::MaxTokens]));
    let mut text = PROMPT.to_vec();
    for token in &tokens {
        let (logits, _) = forward(&model, &text);
        let chosen = logits[token.id as usize];
        assert!(logits.iter().all(|&logit| logit <= chosen + 1e-5));
        text.push(token.id);
        // The experts of the token itself, not of the one that it was drawn after.
        assert_eq!(token.experts, forward(&model, &text).1);
    }
    let untold = GenerateConfig {
        routing: false,
        seed: 9,
        ..greedy
    };
    let (others, _) = generate(&model, &untold);
    assert_eq!(ids(&others), ids(&tokens));
    assert!(others.iter().all(|token| token.experts.is_empty()));
}

#[test]
fn seeds_and_samples_have_texts_of_their_own() {
    let model = model();
    let two = GenerateConfig {
        samples: 2,
        ..config()
    };
    let (tokens, finished) = generate(&model, &two);
    assert_eq!(generate(&model, &two).0, tokens);
    assert_eq!(finished, [Finish::MaxTokens; 2]);
    let (first, second): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|it| it.sample == 0);
    assert_eq!((first.len(), second.len()), (8, 8));
    assert_ne!(ids(&first), ids(&second));
    // The first of several is the only one of one.
    assert_eq!(generate(&model, &config()).0, first);
    let other = GenerateConfig {
        seed: 1,
        ..config()
    };
    assert_ne!(ids(&generate(&model, &other).0), ids(&first));
}

#[test]
fn texts_end_at_a_stop_token_a_full_context_and_on_demand() {
    let model = model();
    let (tokens, _) = generate(&model, &config());
    let ids = ids(&tokens);
    let stop = GenerateConfig {
        stop: vec![ids[4]],
        ..config()
    };
    let (stopped, finished) = generate(&model, &stop);
    let end = ids.iter().position(|&id| id == ids[4]).unwrap();
    assert_eq!((stopped.len(), finished), (end, vec![Finish::EndOfText]));

    for routing in [false, true] {
        let long = GenerateConfig {
            max_tokens: 1000,
            routing,
            ..config()
        };
        let (tokens, finished) = generate(&model, &long);
        assert_eq!((tokens.len(), finished), (17, vec![Finish::Context]));
    }
    let full = GenerateConfig {
        max_tokens: 17,
        ..config()
    };
    assert_eq!(generate(&model, &full).1, [Finish::MaxTokens]);

    let many = GenerateConfig {
        samples: 5,
        ..config()
    };
    let mut heard = 0;
    let finished = model.generate(&PROMPT, &many, &mut |_| {
        heard += 1;
        match heard {
            10 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(finished.unwrap(), [Finish::MaxTokens, Finish::Stopped]);
    assert_eq!(heard, 10);
}

#[test]
fn impossible_prompts_are_named() {
    let model = model();
    let fails = |prompt: &[u32]| {
        let generated = model.generate(prompt, &config(), &mut |_| ControlFlow::Continue(()));
        generated.unwrap_err()
    };
    assert_eq!(fails(&[]), GenerateError::EmptyPrompt);
    let (prompt, context) = (20, 20);
    assert_eq!(
        fails(&[1; 20]),
        GenerateError::LongPrompt { prompt, context }
    );
    let (id, vocab) = (30, 30);
    assert_eq!(fails(&[1, 30]), GenerateError::UnknownToken { id, vocab });
}
