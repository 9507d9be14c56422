//! Configuration of a sweep: the axes, and everything else that its results depend on.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use upcycle_data::DataConfig;
use upcycle_digest::Digest;
use upcycle_kernels::Precision;

use crate::error::LabError;

/// The axes of a sweep. Names of scales and recipes are presets or paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Name of the run directory.
    pub name: String,
    /// Scales.
    pub scales: Vec<String>,
    /// Experts before upcycling, E; empty for the scale's own.
    #[serde(default)]
    pub experts: Vec<usize>,
    /// Multipliers m; `m * E` must be a whole number.
    pub multipliers: Vec<f64>,
    /// Experts of a token, K; empty for the scale's own.
    #[serde(default)]
    pub top_k: Vec<usize>,
    /// Budgets of continued pre-training, as fractions of the pre-training steps.
    pub cpt: Vec<f64>,
    /// Shares of all steps at which the operator is applied, tau / T; all steps are then those of pre-training and the one
    /// budget together. Empty to apply it at the end of pre-training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<f64>,
    /// Stable learning rates after the operator, over that before it, for all three models alike; empty to keep it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpt_lr: Vec<f64>,
    /// Recipes.
    pub recipes: Vec<String>,
    /// Ways to more than twice the experts.
    #[serde(default = "one_jump")]
    pub growth: Vec<Growth>,
    /// When doublings happen, as shares of the stable part of the shortest budget: the first at 0, one share for each. Empty
    /// for even distances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<f64>,
    /// Number of seeds.
    pub seeds: u64,
    /// The first of them. Recipes and defaults are chosen on seeds from 0 on; what was chosen is confirmed on others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_seed: u64,
    /// When the learning rate decays.
    #[serde(default = "trunk")]
    pub protocols: Vec<Protocol>,
    /// Pre-training tokens in place of the scale's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Lengths of pre-training in tokens, in place of the scale's one; all share one trunk. Empty for one length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<u64>,
    /// Vocabulary in place of the scale's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<usize>,
    /// Context in place of the scale's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Highest learning rate in place of the scale's: the best one falls as training gets longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_lr: Option<f64>,
    /// Precision of matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// The data.
    #[serde(default)]
    pub data: DataConfig,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn one_jump() -> Vec<Growth> {
    vec![Growth::Jump]
}

fn trunk() -> Vec<Protocol> {
    vec![Protocol::Trunk]
}

/// The way from E to mE experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// All at once.
    Jump,
    /// E, 2E, 4E and so on: the first doubling at tau, the others at even distances over the stable part of the shortest
    /// budget, so that all budgets share one trunk. For multipliers that are powers of two.
    Doubling,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jump => "jump",
            Self::Doubling => "doubling",
        })
    }
}

/// When the learning rate decays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The operator meets the undecayed model; all runs end with the same decay.
    #[default]
    Trunk,
    /// Pre-training ends with a decay of its own, and continued pre-training warms up again.
    Annealed,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trunk => "trunk",
            Self::Annealed => "annealed",
        })
    }
}

impl SweepConfig {
    /// Some hexadecimal digits that differ between different sweeps.
    ///
    /// # Errors
    /// If it has something that cannot be written, such as a path that is not UTF-8.
    pub fn short_hash(&self) -> Result<String, LabError> {
        let json = serde_json::to_vec(self).map_err(|error| LabError::Parse {
            place: format!("the sweep `{}`", self.name),
            problem: error.to_string(),
        })?;
        Ok(Digest::new("upcycle-lab sweep").bytes(&json).hex()[..6].to_owned())
    }

    /// Checks the values of all axes.
    ///
    /// # Errors
    /// The first axis that is empty or has an impossible value.
    pub fn validate(&self) -> Result<(), LabError> {
        let fail = |field, problem: String| Err(LabError::Sweep { field, problem });
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(is_name) {
            return fail(
                "name",
                format!("`{}` must be letters, digits, `-`, `_` and `.`", self.name),
            );
        }
        for (field, empty) in [
            ("scales", self.scales.is_empty()),
            ("multipliers", self.multipliers.is_empty()),
            ("cpt", self.cpt.is_empty()),
            ("recipes", self.recipes.is_empty()),
            ("growth", self.growth.is_empty()),
            ("protocols", self.protocols.is_empty()),
        ] {
            if empty {
                return fail(field, "is empty; give at least one value".into());
            }
        }
        if !(1..=MOST_SEEDS).contains(&self.seeds) {
            return fail(
                "seeds",
                format!("{} must lie between 1 and {MOST_SEEDS}", self.seeds),
            );
        }
        if self.first_seed > u64::MAX - MOST_SEEDS {
            return fail("first_seed", format!("{} is too large", self.first_seed));
        }
        for (field, repeated) in [
            ("scales", repeated(&self.scales)),
            ("recipes", repeated(&self.recipes)),
            ("experts", repeated(&self.experts)),
            ("top_k", repeated(&self.top_k)),
            ("multipliers", repeated(&self.multipliers)),
            ("cpt", repeated(&self.cpt)),
            ("transitions", repeated(&self.transitions)),
            ("stages", repeated(&self.stages)),
            ("lengths", repeated(&self.lengths)),
            ("cpt_lr", repeated(&self.cpt_lr)),
            ("growth", repeated(&self.growth)),
            ("protocols", repeated(&self.protocols)),
        ] {
            if let Some(value) = repeated {
                return fail(
                    field,
                    format!("{value} is listed twice; equal runs are no new seeds"),
                );
            }
        }
        if let Some(m) = self
            .multipliers
            .iter()
            .find(|&&m| !(m > 1.0 && m <= MOST_TIMES))
        {
            return fail(
                "multipliers",
                format!("{m} must be above 1, and at most {MOST_TIMES}"),
            );
        }
        if let Some(cpt) = self
            .cpt
            .iter()
            .find(|&&cpt| !(cpt > 0.0 && cpt <= MOST_TIMES))
        {
            return fail(
                "cpt",
                format!(
                    "{cpt} must be above 0, and at most {MOST_TIMES}; it is a fraction of the pre-training steps"
                ),
            );
        }
        if let Some(factor) = (self.cpt_lr.iter()).find(|&&lr| !(lr > 0.0 && lr <= MOST_TIMES)) {
            return fail(
                "cpt_lr",
                format!(
                    "{factor} must be above 0, and at most {MOST_TIMES}; it is a factor of the learning rate"
                ),
            );
        }
        if let Some(share) = (self.transitions.iter()).find(|&&share| !(share > 0.0 && share < 1.0))
        {
            return fail(
                "transitions",
                format!("{share} must lie between 0 and 1; it is a share of all steps, tau / T"),
            );
        }
        if !self.transitions.is_empty() && self.cpt.len() > 1 {
            return fail(
                "transitions",
                "move tau while all steps stay as many, so `cpt` must be one number: that of steps after pre-training that make up the rest; for several budgets leave `transitions` out".into(),
            );
        }
        if !self.lengths.is_empty() && self.tokens.is_some() {
            return fail(
                "lengths",
                "are lengths of pre-training, and so is `tokens`; give one of the two".into(),
            );
        }
        if !self.lengths.is_empty() && !self.transitions.is_empty() {
            return fail(
                "lengths",
                "move tau, and so do `transitions`; give one of the two".into(),
            );
        }
        if self.lengths.contains(&0) {
            return fail("lengths", "must be at least 1 token".into());
        }
        if !self.stages.is_empty() && !self.growth.contains(&Growth::Doubling) {
            return fail(
                "stages",
                "are of doublings, and no model grows by doubling; add `doubling` to `growth`, or leave them out".into(),
            );
        }
        let ascending = self.stages.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = self.stages.iter().all(|share| (0.0..1.0).contains(share));
        let begins = self.stages.first().is_none_or(|first| *first == 0.0);
        if !(begins && ascending && inside) {
            return fail(
                "stages",
                "must begin with 0 and rise, each below 1: shares of the stable part of the shortest budget".into(),
            );
        }
        if self.experts.contains(&0) {
            return fail("experts", "must be at least 1".into());
        }
        if self.top_k.contains(&0) {
            return fail("top_k", "must be at least 1".into());
        }
        for (field, value) in [("vocab", self.vocab), ("context", self.context)] {
            if value == Some(0) {
                return fail(field, "must be at least 1".into());
            }
        }
        if let Some(lr) = self.peak_lr.filter(|&lr| !(lr > 0.0 && lr.is_finite())) {
            return fail("peak_lr", format!("{lr} must be a number above 0"));
        }
        if self.tokens == Some(0) {
            return fail("tokens", "must be at least 1".into());
        }
        if RESERVED.contains(&self.name.as_str()) {
            return fail("name", format!("`{}` is a folder of the store", self.name));
        }
        Ok(())
    }
}

/// Folders beside the sweeps' own.
const RESERVED: [&str; 2] = ["stages", "data"];

/// More times the experts, or the pre-training, than anybody wants.
const MOST_TIMES: f64 = 1000.0;

/// More seeds than anybody runs, and few enough to plan in a moment.
const MOST_SEEDS: u64 = 1000;

fn repeated<T: PartialEq + Display>(values: &[T]) -> Option<String> {
    let twice = |(index, value): &(usize, &T)| values[..*index].contains(value);
    let (_, value) = values.iter().enumerate().find(twice)?;
    Some(value.to_string())
}
