//! The scales by name are the paper's, to the digits that it prints.

use upcycle_lab::presets;
use upcycle_lm::CostModel;

/// Non-embedding parameters in millions (2.4B is printed so), training FLOPs of a token without the head, billions of
/// tokens, steps.
#[test]
fn full_moe_scales_are_the_papers() {
    for (name, millions, flops, tokens, steps) in [
        ("154M", "154", "9.50e7", "2.20", 16_790),
        ("305M", "305", "1.54e8", "2.31", 17_611),
        ("1B", "1028", "3.97e8", "3.89", 29_663),
        ("2.4B", "2433", "8.15e8", "5.96", 22_741),
    ] {
        let scale = presets::scale(name).unwrap();
        scale.model.validate().unwrap();
        let cost = CostModel::new(&scale.model);
        let found = cost.parameters().non_embedding() as f64 / 1e6;
        assert_eq!(format!("{found:.0}"), millions, "{name}");
        assert_eq!(format!("{:.2e}", cost.train_flops_per_token(8192)), flops);
        assert_eq!(scale.training.pretrain_steps, steps);
        let seen = (steps * scale.tokens_per_step()) as f64 / 1e9;
        assert_eq!(format!("{seen:.2}"), tokens, "{name}");
    }
}

/// Active and total parameters with embeddings in millions; billions of tokens. The paper prints 362.6 for 362.66.
#[test]
fn interleaved_scales_are_the_papers() {
    for (name, active, total, tokens) in [
        ("7B-interleaved", "1976.3", "7638.6", "383.5"),
        ("1B-interleaved", "555.4", "1263.2", "92.6"),
        ("0.7B-top1", "362.7", "691.8", "59.5"),
    ] {
        let scale = presets::scale(name).unwrap();
        scale.model.validate().unwrap();
        let parameters = CostModel::new(&scale.model).parameters();
        let millions = |count: u64| format!("{:.1}", count as f64 / 1e6);
        assert_eq!(millions(parameters.active()), active, "{name}");
        assert_eq!(millions(parameters.total()), total, "{name}");
        let seen = scale.training.pretrain_steps * scale.tokens_per_step();
        assert_eq!(format!("{:.1}", seen as f64 / 1e9), tokens, "{name}");
    }
}

#[test]
fn laptop_scales_take_the_vocabulary_of_the_data() {
    for name in ["tiny", "tiny-softmax", "small", "medium"] {
        let mut scale = presets::scale(name).unwrap();
        assert_eq!(scale.model.vocab, 0, "{name}");
        scale.model.vocab = 256;
        scale.model.validate().unwrap();
    }
}
