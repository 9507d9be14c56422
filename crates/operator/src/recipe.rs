//! A recipe: every choice of the operator, as it stands in a TOML file.

use serde::{Deserialize, Serialize};

use crate::{error::OperatorError, selection::Selection};

/// Every choice of the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name in reports.
    pub name: String,
    /// Which experts are copied.
    pub selection: Selection,
    /// What the router does with replicas.
    pub router: RouterExtension,
    /// What happens to the optimizer's state.
    pub optimizer: OptimizerPolicy,
}

/// What the router does with replicas. Router rows are always copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RouterExtension {
    /// Uniform noise `U(-half_width, half_width)` on the selection bias of new replicas (the paper, section 3).
    ///
    /// Not function-preserving for K > 1: twins have equal scores, so both win.
    BiasNoise {
        /// Half-width of the noise.
        half_width: f32,
    },
    /// Two-level selection: K distinct sources, then one replica of each by a token-dependent tie-break. Exact at tau,
    /// and kept for good.
    TwoLevel {
        /// Where the tie-break's directions come from.
        tie_break: TieBreakKind,
        /// Weight `c` of the tie-break `c * tanh(v . x + b)`.
        strength: f32,
    },
}

/// Where the directions of a tie-break come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TieBreakKind {
    /// Random directions: replicas of a source split its tokens by random hyperplanes.
    Random,
    /// Centroids of the tokens that were routed to the source: replicas split them by content.
    Centroids,
}

/// What happens to Adam's moments of a grown model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerPolicy {
    /// All moments and step counts start anew (the paper).
    Reset,
    /// Replicas take the moments of their source; the rest is kept.
    Copy,
}

impl Recipe {
    /// Checks the values of all fields.
    ///
    /// # Errors
    /// The first field with an impossible value.
    pub fn validate(&self) -> Result<(), OperatorError> {
        let fail = |field, problem: &str| {
            Err(OperatorError::Recipe {
                field,
                problem: problem.into(),
            })
        };
        if self.name.is_empty()
            || !self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return fail("name", "must be letters, digits, `-`, `_` and `.`");
        }
        if self.selection == (Selection::GradientSquared { cap: 0 }) {
            return fail("selection.cap", "must be at least 1");
        }
        match self.router {
            RouterExtension::BiasNoise { half_width }
                if !(half_width.is_finite() && half_width >= 0.0) =>
            {
                fail("router.half_width", "must be zero or a positive number")
            }
            RouterExtension::TwoLevel { strength, .. }
                if !(strength.is_finite() && strength >= 0.0) =>
            {
                fail("router.strength", "must be zero or a positive number")
            }
            _ => Ok(()),
        }
    }

    /// Whether the operator needs squared gradient norms.
    pub fn needs_gradients(&self) -> bool {
        self.selection.needs_scores()
    }

    /// Whether the operator needs tokens and where they were routed.
    pub fn needs_routed_tokens(&self) -> bool {
        matches!(
            self.router,
            RouterExtension::TwoLevel {
                tie_break: TieBreakKind::Centroids,
                ..
            }
        )
    }
}
