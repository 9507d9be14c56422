//! Directions and offsets by which the replicas of a source share its tokens.

use crate::{centroids::centroids, evidence::RoutedTokens, experts::normal, plan::LayerPlan, seed};

/// Tie-break of one layer: replica e of a source prefers tokens with large `v_e . x + b_e`.
#[derive(Debug, Clone, PartialEq)]
pub struct Directions {
    /// `v_e`, `[mE * D]`.
    pub direction: Vec<f32>,
    /// `b_e`, `[mE]`.
    pub offset: Vec<f32>,
}

impl Directions {
    /// Random directions from `N(0, 1 / D)`: inputs of a router have unit variance, so `v . x` has as well.
    pub fn random(plan: &LayerPlan, d: usize, seed: u64) -> Self {
        let mut rng = seed::rng(seed);
        let std = (d as f32).powf(-0.5);
        let experts = plan.source_of().len();
        let direction = (0..experts * d).map(|_| normal(&mut rng) * std).collect();
        Self {
            direction,
            offset: vec![0.0; experts],
        }
    }

    /// Directions to the centroids of the tokens routed to each source.
    ///
    /// The nearest of centroids `c_e` has the largest `(c_e - c) . x - (|c_e|^2 - |c|^2) / 2` with their mean `c`;
    /// scaled by one factor a source to at most unit variance over its tokens, so that `tanh` neither saturates nor
    /// vanishes and the nearest stays the largest. A source with too few different tokens gets random directions; these
    /// sources are returned, too.
    pub fn centroids(
        plan: &LayerPlan,
        tokens: &RoutedTokens,
        d: usize,
        seed: u64,
    ) -> (Self, Vec<usize>) {
        let mut random = Vec::new();
        let Self {
            mut direction,
            mut offset,
        } = Self::random(plan, d, seed);
        let experts = plan.source_of().len();
        for source in 0..plan.experts() {
            let replicas: Vec<usize> = (0..experts)
                .filter(|&expert| plan.source_of()[expert] == source)
                .collect();
            if replicas.len() < 2 {
                continue;
            }
            let points: Vec<&[f32]> = tokens
                .inputs
                .chunks_exact(d)
                .zip(tokens.experts.chunks_exact(tokens.top_k))
                .filter(|(_, chosen)| chosen.contains(&source))
                .map(|(input, _)| input)
                .collect();
            if points.len() < replicas.len() {
                random.push(source);
                continue;
            }
            let centres = centroids(&points, replicas.len(), d, seed::part(seed, source));
            let mean: Vec<f32> = (0..d)
                .map(|i| centres.iter().map(|c| c[i]).sum::<f32>() / centres.len() as f32)
                .collect();
            let lines: Vec<(Vec<f32>, f32)> = centres
                .iter()
                .map(|centre| {
                    let v = centre.iter().zip(&mean).map(|(c, m)| c - m).collect();
                    (v, (dot(&mean, &mean) - dot(centre, centre)) / 2.0)
                })
                .collect();
            let widest = lines
                .iter()
                .map(|(v, _)| deviation(&points, v))
                .fold(0.0, f32::max);
            if widest < FLAT {
                random.push(source);
                continue;
            }
            for (&expert, (v, b)) in replicas.iter().zip(&lines) {
                for (to, v) in direction[expert * d..][..d].iter_mut().zip(v) {
                    *to = v / widest;
                }
                offset[expert] = b / widest;
            }
        }
        (Self { direction, offset }, random)
    }
}

/// Tokens that vary less than this along all lines between centroids are one token.
const FLAT: f32 = 1e-6;

/// Standard deviation of `v . x` over points; 0 without points.
fn deviation(points: &[&[f32]], v: &[f32]) -> f32 {
    if points.is_empty() {
        return 0.0;
    }
    let values: Vec<f32> = points.iter().map(|x| dot(x, v)).collect();
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clusters at unequal distances in the plane, all routed to source 0 of two.
    fn tokens(spread: f32) -> RoutedTokens {
        let centres = [[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]];
        let inputs = (0..300).flat_map(|i| {
            let [x, y] = centres[i % 3];
            let angle = i as f32;
            [x + spread * angle.sin(), y + spread * angle.cos()]
        });
        RoutedTokens {
            inputs: inputs.collect(),
            experts: vec![0; 300],
            top_k: 1,
        }
    }

    #[test]
    fn every_token_prefers_the_replica_of_the_nearest_centroid() {
        let plan = LayerPlan::from_counts(&[3, 1]);
        let tokens = tokens(0.1);
        // Some starts of Lloyd's algorithm split a cluster instead of finding it; most do not.
        let found = (0..10).filter(|&seed| {
            let (directions, random) = Directions::centroids(&plan, &tokens, 2, seed);
            assert!(random.is_empty());
            let prefers = |x: &[f32]| {
                let value =
                    |e: usize| dot(&directions.direction[2 * e..][..2], x) + directions.offset[e];
                [0, 2, 3]
                    .into_iter()
                    .max_by(|&a, &b| value(a).total_cmp(&value(b)))
            };
            let choices: Vec<_> = tokens.inputs.chunks(2).map(prefers).collect();
            let of_cluster = |c: usize| choices.iter().skip(c).step_by(3);
            let pure = (0..3).all(|c| of_cluster(c).all(|choice| *choice == choices[c]));
            pure && choices[0] != choices[1] && choices[1] != choices[2] && choices[0] != choices[2]
        });
        assert!(found.count() >= 5);
    }

    #[test]
    fn too_few_different_tokens_give_random_directions() {
        let plan = LayerPlan::from_counts(&[3, 1]);
        let mut same = tokens(0.0);
        same.inputs.fill(1.0);
        let mut few = tokens(0.1);
        few.inputs.truncate(4);
        few.experts.truncate(2);
        for tokens in [same, few] {
            let (directions, random) = Directions::centroids(&plan, &tokens, 2, 1);
            assert_eq!(directions, Directions::random(&plan, 2, 1));
            // Source 1 has one expert and needs no direction.
            assert_eq!(random, [0]);
        }
    }
}
