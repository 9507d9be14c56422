//! The devices that measure a model together.

use burn::tensor::{Tensor, backend::Backend};
use upcycle_kernels::MoeBackend;
use upcycle_moe::MoeSite;
use upcycle_team::{Team, TeamError};

use crate::{error::OperatorError, evidence::Norms};

/// A member of a team that measures, and what it holds: of the experts of every layer the block of its place in a group of
/// consecutive members.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    pub(crate) team: &'a Team,
    /// Members of a group.
    group: usize,
    /// Those that hold the same experts, one of each group.
    holders: Team,
}

impl<'a> Members<'a> {
    /// The groups are those of the layers.
    pub(crate) fn of<B: MoeBackend>(
        team: &'a Team,
        sites: &[MoeSite<B>],
    ) -> Result<Self, OperatorError> {
        let groups = sites.iter().map(|site| site.layer.expert_team().size());
        let group = groups.max().unwrap_or(1);
        if !team.size().is_multiple_of(group) {
            return Err(OperatorError::ModelMismatch(format!(
                "its experts are spread over {group} devices, and {} measure; let all measure together by `Evidence::gather_in_team`",
                team.size()
            )));
        }
        let holders = (team.rank() % group..team.size()).step_by(group);
        Ok(Self {
            team,
            group,
            holders: team.subteam(holders),
        })
    }

    /// Norms of all experts, from those of the member's own.
    pub(crate) fn norms(&self, own: Norms) -> Result<Norms, TeamError> {
        let of_members = self.team.gather_values(&own)?.into_iter();
        let mut norms = Norms::default();
        // Those of the first group, so that all have the same.
        for block in of_members.take(self.group) {
            norms.fc1.extend(block.fc1);
            norms.fc2.extend(block.fc2);
        }
        Ok(norms)
    }

    /// The sum over all that hold the same experts.
    pub(crate) fn sum<B: Backend>(
        &self,
        of_experts: Tensor<B, 3>,
    ) -> Result<Tensor<B, 3>, TeamError> {
        let device = of_experts.device();
        self.holders.sum(of_experts, &device)
    }
}
