//! Utility scores: how much an expert deserves to be copied.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{evidence::LayerEvidence, measurement::Measurement, seed};

/// A score of every expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utility {
    /// What is measured.
    pub score: Score,
    /// On which matrices, where the score is of matrices.
    pub on: Projections,
}

/// What a utility measures. The first four are the paper's (section 3) and are taken of matrices: weights `w`,
/// gradients `g` averaged over batches, Adam's second moments `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `||g||^2`, the paper's recommendation.
    GradientSquared,
    /// `||w|| * ||g||`.
    Saliency,
    /// `||w||`.
    WeightNorm,
    /// `||g||^2 / (||v|| + 1e-8)`: the second moment stands in for the Fisher information.
    Fisher,
    /// Share of routed rows.
    Load,
    /// Mean gate over tokens, 0 where a token does not choose the expert.
    GateMass,
    /// Mean over tokens of gate times norm of the expert's output.
    OutputNorm,
    /// Random numbers: the control of every score.
    Random,
}

/// The matrices that a score is taken of; "fc1" is gate and up together, "fc2" is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projections {
    /// Gate and up.
    Fc1,
    /// Down.
    Fc2,
    /// Mean of both scores.
    #[default]
    Average,
    /// Product of both scores, each divided by its sum over experts.
    Product,
    /// Larger of both scores.
    Max,
    /// Smaller of both scores.
    Min,
}

/// Keeps a second moment of zero from dividing.
const FISHER_EPSILON: f64 = 1e-8;

impl Score {
    /// What it is computed from.
    pub fn measurements(self) -> &'static [Measurement] {
        use Measurement::{Gradients, Routing, SecondMoments, Weights};
        match self {
            Self::GradientSquared => &[Gradients],
            Self::Saliency => &[Weights, Gradients],
            Self::WeightNorm => &[Weights],
            Self::Fisher => &[Gradients, SecondMoments],
            Self::Load | Self::GateMass | Self::OutputNorm => &[Routing],
            Self::Random => &[],
        }
    }

    /// Whether it is taken of matrices.
    pub fn of_matrices(self) -> bool {
        matches!(
            self,
            Self::GradientSquared | Self::Saliency | Self::WeightNorm | Self::Fisher
        )
    }
}

impl Utility {
    /// Scores of all experts of a layer, `[E]`; the measurement that is missing otherwise.
    pub fn scores(
        &self,
        evidence: &LayerEvidence,
        experts: usize,
        seed: u64,
    ) -> Result<Vec<f64>, Measurement> {
        let weights = || evidence.weights.as_ref().ok_or(Measurement::Weights);
        let gradients = || evidence.gradients.as_ref().ok_or(Measurement::Gradients);
        let moments = || {
            let moments = evidence.second_moments.as_ref();
            moments.ok_or(Measurement::SecondMoments)
        };
        let routing = || evidence.routing.as_ref().ok_or(Measurement::Routing);
        Ok(match self.score {
            Score::GradientSquared => {
                let g = gradients()?;
                self.on.combine(square(&g.fc1), square(&g.fc2))
            }
            Score::Saliency => {
                let (w, g) = (weights()?, gradients()?);
                self.on.combine(
                    zip(&w.fc1, &g.fc1, |w, g| w * g),
                    zip(&w.fc2, &g.fc2, |w, g| w * g),
                )
            }
            Score::WeightNorm => {
                let w = weights()?;
                self.on.combine(w.fc1.clone(), w.fc2.clone())
            }
            Score::Fisher => {
                let (g, v) = (gradients()?, moments()?);
                let fisher = |g: f64, v: f64| g * g / (v + FISHER_EPSILON);
                self.on
                    .combine(zip(&g.fc1, &v.fc1, fisher), zip(&g.fc2, &v.fc2, fisher))
            }
            Score::Load => routing()?.load.clone(),
            Score::GateMass => routing()?.gate_mass.clone(),
            Score::OutputNorm => routing()?.output_norm.clone(),
            Score::Random => {
                let mut rng = seed::rng(seed);
                (0..experts).map(|_| rng.random()).collect()
            }
        })
    }
}

impl Projections {
    fn combine(self, fc1: Vec<f64>, fc2: Vec<f64>) -> Vec<f64> {
        match self {
            Self::Fc1 => fc1,
            Self::Fc2 => fc2,
            Self::Average => zip(&fc1, &fc2, |a, b| (a + b) / 2.0),
            Self::Product => {
                let total = fc1.iter().sum::<f64>() * fc2.iter().sum::<f64>();
                zip(&fc1, &fc2, |a, b| a * b / total)
            }
            Self::Max => zip(&fc1, &fc2, f64::max),
            Self::Min => zip(&fc1, &fc2, f64::min),
        }
    }
}

fn zip(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

fn square(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value * value).collect()
}
