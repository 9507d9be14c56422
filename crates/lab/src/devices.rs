//! Devices that train one model together: what each holds of it, and its share of a step.

use std::num::NonZeroUsize;

use serde::Serialize;
use upcycle_lm::{LmConfig, ParameterCount};
use upcycle_train::{BatchConfig, TrainSpec};

use crate::{error::LabError, graph::StageGraph};

/// Devices that train one model together. Each holds one of `expert_parallel` blocks of the experts of every layer, and everything
/// else whole; those that hold the same share its optimizer state (ZeRO stage 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// How many.
    pub count: NonZeroUsize,
    /// Blocks of experts; they divide the number of devices.
    pub expert_parallel: NonZeroUsize,
}

impl Devices {
    /// A single device.
    pub const ONE: Self = Self {
        count: NonZeroUsize::MIN,
        expert_parallel: NonZeroUsize::MIN,
    };

    /// So many devices, with the experts of a layer in so many blocks.
    ///
    /// # Errors
    /// If the devices cannot hold each block equally often.
    pub fn new(count: NonZeroUsize, expert_parallel: NonZeroUsize) -> Result<Self, LabError> {
        match count.get().is_multiple_of(expert_parallel.get()) {
            true => Ok(Self {
                count,
                expert_parallel,
            }),
            false => Err(LabError::Devices {
                field: "expert_parallel",
                problem: format!(
                    "{count} devices cannot hold each of {expert_parallel} blocks of experts equally often; take {}",
                    one_of(&divisors(count.get()))
                ),
            }),
        }
    }

    /// Devices that hold the same block of experts.
    pub fn holders(&self) -> usize {
        self.count.get() / self.expert_parallel.get()
    }

    /// Parameters that a device holds.
    pub fn held(&self, parameters: &ParameterCount) -> u64 {
        parameters.total() - parameters.experts + self.held_experts(parameters)
    }

    /// Parameters of experts that a device holds.
    pub fn held_experts(&self, parameters: &ParameterCount) -> u64 {
        parameters.experts / self.expert_parallel.get() as u64
    }

    /// Parameters whose moments a device holds, and which it updates.
    pub fn updated(&self, parameters: &ParameterCount) -> u64 {
        parameters.total().div_ceil(self.count.get() as u64)
    }

    /// A step in passes that the devices can share: as many of its passes as that takes are computed as one, with the same
    /// sequences. None if the sequences of a step cannot be shared evenly.
    pub fn together(&self, batch: &BatchConfig) -> Option<BatchConfig> {
        let count = self.count.get();
        let common = divisors(count).into_iter().rev();
        let common = common.filter(|&it| batch.rows.is_multiple_of(it));
        let passes = count / common.max().unwrap_or(1);
        (batch.accumulation.is_multiple_of(passes)).then(|| BatchConfig {
            rows: batch.rows * passes,
            accumulation: batch.accumulation / passes,
            ..batch.clone()
        })
    }

    /// A stage's training in such passes.
    pub fn spec(&self, spec: &TrainSpec) -> TrainSpec {
        let together = self.together(&spec.batch);
        TrainSpec {
            batch: together.unwrap_or_else(|| spec.batch.clone()),
            ..spec.clone()
        }
    }

    /// A device's share of a step.
    pub fn share(&self, batch: &BatchConfig) -> BatchConfig {
        let batch = self.together(batch).unwrap_or_else(|| batch.clone());
        BatchConfig {
            rows: batch.rows.div_ceil(self.count.get()),
            ..batch
        }
    }

    /// Checks that the devices can share a model and the sequences of its steps.
    ///
    /// # Errors
    /// If they cannot, with the numbers that would do.
    pub fn check(&self, model: &LmConfig, batch: &BatchConfig) -> Result<(), LabError> {
        let fail = |field, problem| Err(LabError::Devices { field, problem });
        let (blocks, experts) = (self.expert_parallel.get(), model.experts);
        if model.moe_layers() > 0 && !experts.is_multiple_of(blocks) {
            let mut fitting = divisors(self.count.get());
            fitting.retain(|&blocks| experts.is_multiple_of(blocks));
            return fail(
                "expert_parallel",
                format!(
                    "{experts} experts of a layer cannot be divided into {blocks} equal blocks; take {}",
                    one_of(&fitting)
                ),
            );
        }
        if self.together(batch).is_none() {
            let sequences = batch.rows * batch.accumulation;
            return fail(
                "devices",
                format!(
                    "{sequences} sequences of a step cannot be shared evenly by {} devices; take {}",
                    self.count,
                    one_of(&divisors(sequences))
                ),
            );
        }
        Ok(())
    }

    /// [`check`](Self::check) for all stages of a sweep.
    ///
    /// # Errors
    /// As there.
    pub fn check_all(&self, graph: &StageGraph) -> Result<(), LabError> {
        let mut stages = graph.stages().into_iter();
        stages.try_for_each(|stage| self.check(&stage.model, stage.batch()))
    }
}

/// All divisors of a number, smallest first.
pub(crate) fn divisors(number: usize) -> Vec<usize> {
    (1..=number)
        .filter(|&it| number.is_multiple_of(it))
        .collect()
}

fn one_of(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match numbers.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => numbers.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn devices(count: usize, expert_parallel: usize) -> Result<Devices, LabError> {
        let number = |it| NonZeroUsize::new(it).unwrap();
        Devices::new(number(count), number(expert_parallel))
    }

    fn batch(rows: usize, accumulation: usize) -> BatchConfig {
        BatchConfig {
            rows,
            context: 8,
            accumulation,
        }
    }

    #[test]
    fn passes_are_computed_together_until_all_devices_have_sequences() {
        let together = |count, rows, accumulation| {
            devices(count, 1)
                .unwrap()
                .together(&batch(rows, accumulation))
        };
        assert_eq!(together(1, 1, 512), Some(batch(1, 512)));
        assert_eq!(together(8, 1, 512), Some(batch(8, 64)));
        assert_eq!(together(8, 4, 6), Some(batch(8, 3)));
        assert_eq!(together(2, 16, 1), Some(batch(16, 1)));
        assert_eq!(together(6, 4, 3), Some(batch(12, 1)));
        assert_eq!(together(8, 4, 1), None);
        let share = devices(8, 1).unwrap().share(&batch(1, 512));
        assert_eq!(share, batch(1, 64));
    }

    #[test]
    fn what_cannot_be_shared_is_told_with_what_can() {
        let told = |error: LabError| error.to_string();
        let groups = told(devices(8, 3).unwrap_err());
        assert!(groups.ends_with("take 1, 2, 4 or 8"), "{groups}");
        let model = presets::scale("tiny").unwrap().model;
        let check = |count, blocks, rows| {
            let devices = devices(count, blocks).unwrap();
            devices.check(&model, &batch(rows, 1)).map_err(told)
        };
        assert_eq!(check(8, 8, 16), Ok(()));
        let experts = check(12, 12, 24).unwrap_err();
        assert!(
            experts.contains("8 experts") && experts.ends_with("take 1, 2 or 4"),
            "{experts}"
        );
        let sequences = check(3, 1, 16).unwrap_err();
        assert!(
            sequences.contains("16 sequences") && sequences.ends_with("take 1, 2, 4, 8 or 16"),
            "{sequences}"
        );
    }

    #[test]
    fn moments_are_held_once_and_experts_by_every_group() {
        let model = presets::scale("154M").unwrap().model;
        let parameters = upcycle_lm::CostModel::new(&model).parameters();
        let devices = devices(8, 4).unwrap();
        assert_eq!(devices.holders(), 2);
        let others = parameters.total() - parameters.experts;
        assert_eq!(devices.held(&parameters), others + parameters.experts / 4);
        assert_eq!(devices.updated(&parameters), parameters.total().div_ceil(8));
    }
}
