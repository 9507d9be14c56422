//! What a recipe may need to know about the model that it grows.

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use crate::error::OperatorError;

/// Measurements of the source model, for all MoE layers in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// One for each MoE layer; none at all where a recipe needs nothing.
    pub layers: Vec<LayerEvidence>,
}

/// Measurements of one MoE layer; what was not measured is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerEvidence {
    /// Norms of the weights.
    pub weights: Option<Norms>,
    /// Norms of the gradients, which are averaged over batches before norms are taken.
    pub gradients: Option<Norms>,
    /// Norms of Adam's second moments.
    pub second_moments: Option<Norms>,
    /// What the router does with the experts.
    pub routing: Option<ExpertUse>,
    /// Some tokens and the experts they were routed to.
    pub tokens: Option<RoutedTokens>,
}

/// Norm of every expert over its matrices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Norms {
    /// Gate and up projection together, `[E]`.
    pub fc1: Vec<f64>,
    /// Down projection, `[E]`.
    pub fc2: Vec<f64>,
}

/// How much the tokens of some batches use every expert.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExpertUse {
    /// Share of routed rows, `[E]`.
    pub load: Vec<f64>,
    /// Mean gate over all tokens, 0 for those not routed, `[E]`.
    pub gate_mass: Vec<f64>,
    /// Mean of gate times norm of the expert's output over all tokens, `[E]`.
    pub output_norm: Vec<f64>,
}

/// Tokens at the input of a MoE layer and where they were routed.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedTokens {
    /// Router inputs, `[T * D]`.
    pub inputs: Vec<f32>,
    /// Their experts, `[T * K]`.
    pub experts: Vec<usize>,
    /// Experts of a token, K.
    pub top_k: usize,
}

impl Norms {
    /// Norms of stacked gate, up and down projections (or of their gradients or moments).
    ///
    /// # Shapes
    /// `[E, D, F]`, `[E, D, F]` and `[E, F, D]`.
    pub fn of<B: Backend>([gate, up, down]: [Tensor<B, 3>; 3]) -> Self {
        let halves = squares(gate).into_iter().zip(squares(up));
        Self {
            fc1: halves.map(|(gate, up)| (gate + up).sqrt()).collect(),
            fc2: squares(down).into_iter().map(f64::sqrt).collect(),
        }
    }
}

/// Sum of squares of every expert, `[E]`. Rows are summed in f32, their sums in f64.
fn squares<B: Backend>(matrix: Tensor<B, 3>) -> Vec<f64> {
    let [e, rows, _] = matrix.dims();
    let sums: Vec<f64> = matrix
        .square()
        .sum_dim(2)
        .reshape([e, rows])
        .into_data()
        .iter::<f64>()
        .collect();
    sums.chunks(rows.max(1))
        .map(|rows| rows.iter().sum())
        .collect()
}

impl Evidence {
    /// Evidence of one MoE layer; nothing where nothing at all was measured.
    pub(crate) fn layer(&self, layer: usize) -> &LayerEvidence {
        static NOTHING: LayerEvidence = LayerEvidence::NOTHING;
        self.layers.get(layer).unwrap_or(&NOTHING)
    }

    /// Evidence must be of a model of so many MoE layers and experts a layer, as it is now and not before an earlier growth.
    pub(crate) fn check(&self, layers: usize, experts: usize) -> Result<(), OperatorError> {
        let equal = |what, found, expected| match found == expected {
            true => Ok(()),
            false => Err(OperatorError::EvidenceMismatch {
                what,
                found,
                expected,
            }),
        };
        if self.layers.is_empty() {
            return Ok(());
        }
        equal("MoE layers with evidence", self.layers.len(), layers)?;
        for layer in &self.layers {
            let norms = [&layer.weights, &layer.gradients, &layer.second_moments];
            for norms in norms.into_iter().flatten() {
                equal("experts with norms", norms.fc1.len(), experts)?;
                equal("experts with norms", norms.fc2.len(), experts)?;
            }
            if let Some(routing) = &layer.routing {
                equal("experts with a load", routing.load.len(), experts)?;
            }
            if let Some(tokens) = &layer.tokens {
                let most = tokens.experts.iter().max().map_or(0, |most| most + 1);
                let known = most <= experts && tokens.top_k > 0;
                equal(
                    "experts of tokens",
                    if known { experts } else { most },
                    experts,
                )?;
            }
        }
        Ok(())
    }
}

impl LayerEvidence {
    /// Nothing was measured.
    pub const NOTHING: Self = Self {
        weights: None,
        gradients: None,
        second_moments: None,
        routing: None,
        tokens: None,
    };
}
