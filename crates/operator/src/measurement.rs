//! What a recipe may ask to be measured.

/// A measurement that a recipe can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement {
    /// Norms of weights.
    Weights,
    /// Norms of averaged gradients.
    Gradients,
    /// Norms of Adam's second moments.
    SecondMoments,
    /// Load, gate mass and output norms.
    Routing,
    /// Some tokens and their experts.
    RoutedTokens,
}

impl Measurement {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "norms of expert weights",
            Self::Gradients => "gradients of all experts",
            Self::SecondMoments => "Adam's second moments",
            Self::Routing => "routing statistics",
            Self::RoutedTokens => "tokens with their experts",
        }
    }

    /// How to get it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Weights => "measure the weights first",
            Self::Gradients => "average gradients over some batches first",
            Self::SecondMoments => {
                "start from a model whose optimizer has taken a step, or use the score `gradient-squared`"
            }
            Self::Routing | Self::RoutedTokens => "run the model over some batches first",
        }
    }
}
