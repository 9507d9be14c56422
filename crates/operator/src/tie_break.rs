//! Directions and offsets by which the replicas of a source share its tokens.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{centroids::centroids, evidence::RoutedTokens, plan::LayerPlan};

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
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let std = (d as f32).powf(-0.5);
        let experts = plan.source_of().len();
        let direction = (0..experts * d)
            .map(|_| {
                let sample: f32 = StandardNormal.sample(&mut rng);
                sample * std
            })
            .collect();
        Self {
            direction,
            offset: vec![0.0; experts],
        }
    }

    /// Directions to the centroids of the tokens routed to each source.
    ///
    /// The nearest of centroids `c_e` has the largest `(c_e - c) . x - (|c_e|^2 - |c|^2) / 2` with their mean `c`;
    /// scaled to unit variance over the source's tokens, so that `tanh` neither saturates nor vanishes.
    pub fn centroids(plan: &LayerPlan, tokens: &RoutedTokens, d: usize, seed: u64) -> Self {
        let experts = plan.source_of().len();
        let mut direction = vec![0.0; experts * d];
        let mut offset = vec![0.0; experts];
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
            let centres = centroids(&points, replicas.len(), d, seed.wrapping_add(source as u64));
            let mean: Vec<f32> = (0..d)
                .map(|i| centres.iter().map(|c| c[i]).sum::<f32>() / centres.len() as f32)
                .collect();
            for (&expert, centre) in replicas.iter().zip(&centres) {
                let v: Vec<f32> = centre.iter().zip(&mean).map(|(c, m)| c - m).collect();
                let b = (dot(&mean, &mean) - dot(centre, centre)) / 2.0;
                let scale = 1.0 / deviation(&points, &v).max(1e-6);
                for (to, v) in direction[expert * d..][..d].iter_mut().zip(&v) {
                    *to = v * scale;
                }
                offset[expert] = b * scale;
            }
        }
        Self { direction, offset }
    }
}

/// Standard deviation of `v . x` over points; 1 without points.
fn deviation(points: &[&[f32]], v: &[f32]) -> f32 {
    if points.is_empty() {
        return 1.0;
    }
    let values: Vec<f32> = points.iter().map(|x| dot(x, v)).collect();
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
