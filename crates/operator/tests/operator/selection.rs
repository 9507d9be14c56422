//! How copies are shared out.

use proptest::prelude::*;
use upcycle_operator::*;

const ON: Projections = Projections::Average;
const SCORE: Score = Score::WeightNorm;

fn greedy(cap: usize) -> Selection {
    Selection::Greedy {
        score: SCORE,
        on: ON,
        cap,
    }
}

#[test]
fn greedy_selection_caps_extra_copies() {
    // The paper's extreme: of 32 experts the best 11 take all 32 copies, the last of them 2.
    let scores: Vec<f64> = (0..32).map(f64::from).collect();
    let counts = greedy(3).counts(0, 32, 64, &scores, 0).unwrap();
    let copied = counts.iter().filter(|&&count| count > 1).count();
    assert_eq!((copied, counts[31], counts[21]), (11, 4, 3));
    assert!(matches!(
        greedy(3).counts(0, 8, 33, &scores[..8], 0),
        Err(OperatorError::CapTooSmall { most: 32, .. })
    ));
}

#[test]
fn proportional_selection_takes_the_largest_remainders() {
    let proportional = Selection::Proportional {
        score: SCORE,
        on: ON,
    };
    let counts = |scores: &[f64], target| {
        proportional
            .counts(0, scores.len(), target, scores, 0)
            .unwrap()
    };
    // Quotas 4.8, 2.4, 0.8: the last keeps itself, the others share 7 places by 2 to 1: 4.67 and 2.33.
    assert_eq!(counts(&[6.0, 3.0, 1.0], 8), [5, 2, 1]);
    assert_eq!(counts(&[1.0, 1.0, 2.0], 8), [2, 2, 4]);
    assert_eq!(counts(&[0.0, 0.0, 5.0], 6), [1, 1, 4]);
}

#[test]
fn sampling_follows_scores_and_temperature() {
    let drawn = |temperature, scores: &[f64]| {
        let sampled = Selection::Sampled {
            score: SCORE,
            on: ON,
            temperature,
        };
        sampled.counts(0, 4, 4004, scores, 1).unwrap()
    };
    let share = |counts: &[usize], expert: usize| (counts[expert] - 1) as f64 / 4000.0;
    let counts = drawn(1.0, &[1.0, 2.0, 3.0, 4.0]);
    for expert in 0..4 {
        assert!((share(&counts, expert) - 0.1 * (expert + 1) as f64).abs() < 0.03);
    }
    // The unit of the scores does not matter.
    assert_eq!(counts, drawn(1.0, &[1e-9, 2e-9, 3e-9, 4e-9]));
    assert!(share(&drawn(0.05, &[1.0, 2.0, 3.0, 4.0]), 3) > 0.98);
    assert!((share(&drawn(100.0, &[1.0, 2.0, 3.0, 4.0]), 0) - 0.25).abs() < 0.03);
}

#[test]
fn explicit_counts_must_fit() {
    let counts = |counts: Vec<Vec<usize>>, layer| {
        let explicit = Selection::Explicit { counts, file: None };
        explicit.counts(layer, 3, 6, &[], 0)
    };
    assert_eq!(counts(vec![vec![1, 2, 3]], 5).unwrap(), [1, 2, 3]);
    let each = vec![vec![1, 2, 3], vec![4, 1, 1]];
    assert_eq!(counts(each.clone(), 1).unwrap(), [4, 1, 1]);
    for (wrong, layer, said) in [
        (each, 2, "no list for MoE layer 2"),
        (vec![vec![3, 3]], 0, "has 2 counts"),
        (vec![vec![0, 3, 3]], 0, "expert 0"),
        (vec![vec![1, 2, 2]], 0, "sum to 5"),
    ] {
        let error = counts(wrong, layer).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn bad_scores_are_errors() {
    let counts = |selection: Selection, scores: &[f64]| {
        selection
            .counts(1, 3, 6, scores, 0)
            .unwrap_err()
            .to_string()
    };
    let proportional = Selection::Proportional {
        score: SCORE,
        on: ON,
    };
    assert!(counts(greedy(3), &[1.0, f64::NAN, 1.0]).contains("expert 1 in MoE layer 1"));
    assert!(counts(greedy(3), &[1.0, -1.0, 1.0]).contains("expert 1"));
    assert!(counts(greedy(3), &[1.0, 1.0]).contains("found 2"));
    assert!(counts(proportional, &[0.0; 3]).contains("uniform"));
}

proptest! {
    #[test]
    fn counts_reach_the_target_and_drop_nobody(
        experts in 1_usize..40,
        extra in 1_usize..100,
        seed: u64,
        cap in 1_usize..6,
        temperature in 0.05..20.0_f64,
        scores in prop::collection::vec(0.001..1.0_f64, 40),
    ) {
        let target = experts + extra;
        let scores = &scores[..experts];
        let selections = [
            Selection::Uniform {},
            Selection::Random {},
            Selection::Proportional { score: SCORE, on: ON },
            Selection::Sampled { score: SCORE, on: ON, temperature },
            greedy(cap),
        ];
        for selection in selections {
            let counts = selection.counts(0, experts, target, scores, seed);
            if selection == greedy(cap) && target > experts * (1 + cap) {
                prop_assert!(counts.is_err());
                continue;
            }
            let counts = counts.unwrap();
            prop_assert_eq!(counts.iter().sum::<usize>(), target);
            prop_assert!(counts.iter().all(|&count| count >= 1));
            let most = *counts.iter().max().unwrap();
            match selection {
                Selection::Uniform {} => prop_assert!(most - counts.iter().min().unwrap() <= 1),
                Selection::Greedy { cap, .. } => prop_assert!(most <= 1 + cap),
                _ => {}
            }
            prop_assert_eq!(&counts, &selection.counts(0, experts, target, scores, seed).unwrap());

            let plan = LayerPlan::from_counts(&counts);
            prop_assert_eq!(plan.counts(), counts);
            prop_assert_eq!(&plan.source_of()[..experts], (0..experts).collect::<Vec<_>>());
            // Replica sets follow each other, and no source is twice in one.
            let mut next = 0;
            for set in 0..plan.sets() {
                let range = plan.set(set);
                prop_assert_eq!(range.start, next);
                next = range.end;
                let mut sources = plan.source_of()[range].to_vec();
                let before = sources.len();
                sources.dedup();
                prop_assert_eq!(before, sources.len());
            }
            prop_assert_eq!(next, target);
        }
    }
}
