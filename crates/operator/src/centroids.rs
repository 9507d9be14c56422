//! Clusters of the tokens routed to one source (Lloyd's algorithm).

use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

/// Rounds of Lloyd's algorithm: the clusters only start the replicas off, they need not be optimal.
const ROUNDS: usize = 10;

/// `count` centroids `[count][D]` of at least as many points `[n][D]`.
pub fn centroids(points: &[&[f32]], count: usize, d: usize, mut rng: ChaCha8Rng) -> Vec<Vec<f32>> {
    let mut centroids: Vec<Vec<f32>> = sample(&mut rng, points.len(), count)
        .into_iter()
        .map(|index| points[index].to_vec())
        .collect();
    for _ in 0..ROUNDS {
        let nearest: Vec<usize> = points
            .iter()
            .map(|point| nearest(point, &centroids))
            .collect();
        for (cluster, centroid) in centroids.iter_mut().enumerate() {
            let mut members = points
                .iter()
                .zip(&nearest)
                .filter(|(_, nearest)| **nearest == cluster)
                .map(|(point, _)| *point)
                .peekable();
            if members.peek().is_some() {
                *centroid = mean(members, d);
            }
        }
    }
    centroids
}

fn nearest(point: &[f32], centroids: &[Vec<f32>]) -> usize {
    let distance = |centroid: &[f32]| -> f32 {
        point
            .iter()
            .zip(centroid)
            .map(|(p, c)| (p - c) * (p - c))
            .sum()
    };
    (0..centroids.len())
        .min_by(|&a, &b| distance(&centroids[a]).total_cmp(&distance(&centroids[b])))
        .unwrap_or(0)
}

fn mean<'a>(points: impl Iterator<Item = &'a [f32]>, d: usize) -> Vec<f32> {
    let mut sum = vec![0.0; d];
    let mut count = 0;
    for point in points {
        for (sum, value) in sum.iter_mut().zip(point) {
            *sum += value;
        }
        count += 1;
    }
    sum.iter().map(|sum| sum / count.max(1) as f32).collect()
}
