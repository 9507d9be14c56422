//! The devices that train one model, and how they share its sequences and experts.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};
use serde::{Serialize, de::DeserializeOwned};
use upcycle_lm::LmConfig;
use upcycle_team::Team;

use crate::error::TrainError;

/// A device's place among those that train one model.
///
/// Each takes an equal share of the sequences of every batch. Several devices in a row are an expert group, of whose members each
/// holds a block of the experts of every MoE layer; all else is whole on every device. The first device leads: it decides
/// when a stage is saved, and writes.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    /// All devices.
    pub all: Team,
    /// Those that share the experts with this one.
    pub group: Team,
    /// Those of all groups that hold the same block of experts as this one.
    pub holders: Team,
}

impl Crew {
    /// The only device.
    pub fn alone() -> Self {
        Self {
            all: Team::alone(),
            group: Team::alone(),
            holders: Team::alone(),
        }
    }

    /// A member of a team in expert groups of `expert_parallel` devices.
    ///
    /// # Errors
    /// If the groups do not come out even.
    pub fn new(all: Team, expert_parallel: usize) -> Result<Self, TrainError> {
        let (rank, size) = (all.rank(), all.size());
        if expert_parallel == 0 || !size.is_multiple_of(expert_parallel) {
            return Err(TrainError::Devices(format!(
                "--expert-parallel {expert_parallel} does not divide the {size} devices; take {}",
                numbers_that_divide([size])
            )));
        }
        let place = rank % expert_parallel;
        let first = rank - place;
        Ok(Self {
            group: all.subteam(first..first + expert_parallel),
            holders: all.subteam((place..size).step_by(expert_parallel)),
            all,
        })
    }

    /// Whether this is the first device.
    pub fn leads(&self) -> bool {
        self.all.rank() == 0
    }

    /// The rows of a batch that are this device's.
    pub fn share(&self, rows: usize) -> Range<usize> {
        let each = rows / self.all.size();
        let rank = self.all.rank();
        rank * each..(rank + 1) * each
    }

    /// The rows that are this device's where they need not come out even: the last devices may have fewer, or none.
    pub fn uneven_share(&self, rows: usize) -> Range<usize> {
        let each = rows.div_ceil(self.all.size());
        let first = (self.all.rank() * each).min(rows);
        first..(first + each).min(rows)
    }

    /// Whether the sequences of a pass can be shared evenly.
    pub fn check_rows(&self, rows: usize) -> Result<(), TrainError> {
        let devices = self.all.size();
        if rows.is_multiple_of(devices) {
            return Ok(());
        }
        Err(TrainError::Devices(format!(
            "{rows} sequences of a pass cannot be shared evenly by {devices} devices; for --devices or the number of processes take {}",
            numbers_that_divide([rows])
        )))
    }

    /// Whether the experts of a model can be shared evenly. A dense model has none to share.
    pub fn check_experts(&self, config: &LmConfig) -> Result<(), TrainError> {
        let (members, experts) = (self.group.size(), config.experts);
        if config.moe_layers() == 0 || experts.is_multiple_of(members) {
            return Ok(());
        }
        Err(TrainError::Devices(format!(
            "--expert-parallel {members} does not divide the {experts} experts of a layer; take {}",
            numbers_that_divide([experts, self.all.size()])
        )))
    }

    /// Whether all that devices exchanged so far has arrived: what is exchanged within a model's passes cannot say so itself.
    pub fn check(&self) -> Result<(), TrainError> {
        self.all.fault().map_or(Ok(()), |fault| Err(fault.into()))
    }

    /// What the first device says; the others' `own` does not count.
    pub fn told<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T, TrainError> {
        match self.all.size() {
            1 => Ok(own),
            _ => Ok(self.all.gather_values(&own)?.swap_remove(0)),
        }
    }

    /// The greatest of what all devices say.
    pub fn greatest<T: Ord + Serialize + DeserializeOwned>(&self, own: T) -> Result<T, TrainError> {
        let all = self.all.gather_values(&own)?.into_iter();
        Ok(all.max().unwrap_or(own))
    }

    /// Sums over all devices, added up in the order of their ranks.
    pub fn sums<const N: usize>(&self, own: [f64; N]) -> Result<[f64; N], TrainError> {
        let all = self.all.gather_values(&own.to_vec())?;
        Ok(all.iter().fold([0.0; N], |mut sums, values| {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
            sums
        }))
    }

    /// Tensors of one axis summed over all devices, in one exchange.
    pub fn sum_tensors<B: Backend>(
        &self,
        tensors: Vec<Tensor<B, 1>>,
        device: &B::Device,
    ) -> Result<Vec<Tensor<B, 1>>, TrainError> {
        if self.all.size() == 1 || tensors.is_empty() {
            return Ok(tensors);
        }
        let lengths = tensors.iter().map(|tensor| tensor.dims()[0]).collect();
        let sum = self.all.sum(Tensor::cat(tensors, 0), device)?;
        Ok(sum.split_with_sizes(lengths, 0))
    }
}

/// The numbers of devices that would do, in words.
fn numbers_that_divide<const N: usize>(all: [usize; N]) -> String {
    let most = all.iter().copied().min().unwrap_or(1);
    let fits = |&number: &usize| all.iter().all(|of| of.is_multiple_of(number));
    let fitting: Vec<String> = (1..=most).filter(fits).map(|it| it.to_string()).collect();
    match fitting.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => "1".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn crews(devices: usize, expert_parallel: usize) -> Vec<Crew> {
        let teams = Team::threads(devices).into_iter();
        teams
            .map(|team| Crew::new(team, expert_parallel).unwrap())
            .collect()
    }

    #[test]
    fn shares_are_even_and_all() {
        let shares: Vec<_> = crews(3, 1).iter().map(|crew| crew.share(6)).collect();
        assert_eq!(shares, [0..2, 2..4, 4..6]);
        assert_eq!(Crew::alone().share(5), 0..5);
        let uneven: Vec<_> = (crews(4, 1).iter())
            .map(|crew| crew.uneven_share(3))
            .collect();
        assert_eq!(uneven, [0..1, 1..2, 2..3, 3..3]);
    }

    #[test]
    fn each_block_of_experts_is_held_once_in_every_group() {
        let places: Vec<_> = crews(4, 2)
            .iter()
            .map(|crew| (crew.group.rank(), crew.holders.rank()))
            .collect();
        assert_eq!(places, [(0, 0), (1, 0), (0, 1), (1, 1)]);
        let crew = crews(4, 4).swap_remove(3);
        assert_eq!((crew.group.size(), crew.holders.size()), (4, 1));
    }

    #[test]
    fn what_does_not_divide_is_told_with_what_would() {
        let uneven = crews(2, 1)[0].check_rows(9).unwrap_err().to_string();
        assert!(uneven.contains("take 1, 3 or 9"), "{uneven}");
        let team = Team::threads(4).swap_remove(0);
        let groups = Crew::new(team, 3).unwrap_err().to_string();
        assert!(groups.contains("take 1, 2 or 4"), "{groups}");
        let config = LmConfig {
            experts: 6,
            ..LmConfig::default()
        };
        let experts = crews(4, 4)[0].check_experts(&config).unwrap_err();
        assert!(experts.to_string().contains("take 1 or 2"), "{experts}");
    }
}
