//! What devices that train one model send each other.

use std::num::NonZeroUsize;

use serde::Serialize;
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::{BatchConfig, PassConfig};

use crate::devices::Devices;

/// Bytes of a number of f32.
const FLOAT: u64 = 4;

/// Bytes that a device sends the others in a training step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Rows of tokens to the experts that they chose, and back, in all forward and backward passes.
    pub rows: u64,
    /// Gradients that are summed, and parameters that were updated.
    pub gradients: u64,
}

/// How fast a device sends to others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Link {
    /// Bytes a second to devices of its own machine.
    pub within: f64,
    /// Bytes a second to those of other machines.
    pub between: f64,
    /// Devices of a machine.
    pub machine: NonZeroUsize,
}

impl Link {
    /// Bytes a second among so many devices with ranks in a row; those of other machines set the pace.
    fn among(&self, devices: NonZeroUsize) -> f64 {
        match devices <= self.machine {
            true => self.within,
            false => self.between,
        }
    }
}

/// Estimated seconds of a training step; its parts come one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepSeconds {
    /// Of computing.
    pub computing: f64,
    /// Of sending rows.
    pub rows: f64,
    /// Of sending gradients and parameters.
    pub gradients: f64,
}

impl Exchange {
    /// What a step takes of a device with this share of it, with experts that are used alike.
    ///
    /// A forward pass sends a row for each of a token's K experts and its output back, but for the experts on the token's own
    /// device; a backward pass sends as many gradients. Layers that are computed again send their rows again. Of what several
    /// devices hold, each sends all but its own range of the gradients to those who update them, and its range of the parameters to
    /// all of them.
    pub fn of(
        model: &LmConfig,
        share: &BatchConfig,
        passes: PassConfig,
        devices: &Devices,
    ) -> Self {
        let parameters = CostModel::new(model).parameters();
        let blocks = devices.expert_parallel.get() as u64;
        let row = FLOAT * model.d_model as u64;
        let chosen = share.tokens() * (model.top_k * model.moe_layers()) as u64;
        let trips = 2 * if passes.recompute { 3 } else { 2 };
        let summed = |parameters: u64, holders: usize| {
            let holders = holders as u64;
            2 * FLOAT * parameters * (holders - 1) / holders
        };
        let others = parameters.total() - parameters.experts;
        let experts = devices.held_experts(&parameters);
        Self {
            rows: trips * row * chosen * (blocks - 1) / blocks,
            gradients: summed(others, devices.count.get()) + summed(experts, devices.holders()),
        }
    }

    /// A step's seconds where a device computes for so long. Blocks of experts are held by devices in a row.
    pub fn seconds(&self, computing: f64, link: Option<&Link>, devices: &Devices) -> StepSeconds {
        let sending = |bytes: u64, among| link.map_or(0.0, |link| bytes as f64 / link.among(among));
        StepSeconds {
            computing,
            rows: sending(self.rows, devices.expert_parallel),
            gradients: sending(self.gradients, devices.count),
        }
    }
}

impl StepSeconds {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.computing + self.rows + self.gradients
    }
}
