//! Higher learning rates for some steps after the operator.

use serde::{Deserialize, Serialize};
use upcycle_moe::Boost;

use crate::check::{Fault, positive, that};

/// Learning rates of experts and router rows for some steps after the operator, as factors of the usual one: replicas part
/// sooner, while everything else goes on as it did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoostRecipe {
    /// Factor for experts.
    #[serde(default = "one")]
    pub experts: f32,
    /// Factor for router rows.
    #[serde(default = "one")]
    pub router: f32,
    /// Number of steps.
    pub steps: u64,
}

fn one() -> f32 {
    1.0
}

impl BoostRecipe {
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        positive("boost.experts", self.experts)?;
        positive("boost.router", self.router)?;
        that(self.steps > 0, "boost.steps", "must be at least 1")
    }

    /// What a layer is told that was grown at a step.
    pub(crate) fn begun_at(self, step: u64) -> Boost {
        Boost {
            experts: self.experts,
            router: self.router,
            until: step.saturating_add(self.steps),
        }
    }
}
