//! The experts of a layer that one member of a team holds.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};
use upcycle_moe::index_tensor;
use upcycle_team::{Team, TeamError};

use crate::plan::LayerPlan;

/// The experts of a layer that a member of a team holds, as the layer is grown: equally many consecutive ones each, in the
/// order of ranks, before and after.
#[derive(Debug, Clone)]
pub(crate) struct Block<'a> {
    pub(crate) plan: &'a LayerPlan,
    team: Team,
    /// Whether every member holds all experts before.
    from_whole: bool,
}

impl<'a> Block<'a> {
    /// All experts.
    pub(crate) fn whole(plan: &'a LayerPlan) -> Self {
        Self::of(plan, Team::alone())
    }

    /// Those of a member.
    pub(crate) fn of(plan: &'a LayerPlan, team: Team) -> Self {
        Self {
            plan,
            team,
            from_whole: false,
        }
    }

    /// Those of a member that holds all experts before.
    pub(crate) fn of_whole(plan: &'a LayerPlan, team: Team) -> Self {
        Self {
            from_whole: true,
            ..Self::of(plan, team)
        }
    }

    /// Members that hold experts of the layer.
    pub(crate) fn members(&self) -> usize {
        self.team.size()
    }

    /// The member's experts of the layer before.
    pub(crate) fn before(&self) -> Range<usize> {
        self.before_of(self.team.rank())
    }

    /// The member's experts of the grown layer.
    pub(crate) fn after(&self) -> Range<usize> {
        self.after_of(self.team.rank())
    }

    /// What all members found, in the order of their ranks.
    pub(crate) fn gather(&self, found: Vec<usize>) -> Result<Vec<usize>, TeamError> {
        Ok(self.team.gather_values(&found)?.concat())
    }

    /// The source's rows for each of the member's experts of the grown layer.
    pub(crate) fn copies<B: Backend, const D: usize>(
        &self,
        held: Tensor<B, D>,
    ) -> Result<Tensor<B, D>, TeamError> {
        self.rows(held, |block| self.plan.source_of()[block].to_vec())
    }

    /// Rows of the experts that `read` names for a block of the grown layer, in its order. `held` are the rows of the member's
    /// experts of the layer before; those of others come from them. All members have to call it.
    pub(crate) fn rows<B: Backend, const D: usize>(
        &self,
        held: Tensor<B, D>,
        read: impl Fn(Range<usize>) -> Vec<usize>,
    ) -> Result<Tensor<B, D>, TeamError> {
        let device = held.device();
        let wanted = read(self.after());
        if self.from_whole || self.team.size() == 1 {
            return Ok(select(held, &wanted));
        }
        let own = self.before();
        let parts = (0..self.team.size()).map(|rank| {
            let experts = within(&read(self.after_of(rank)), &own);
            let rows: Vec<usize> = experts.iter().map(|expert| expert - own.start).collect();
            match rows.is_empty() {
                // Not every backend has tensors without elements.
                true => Tensor::zeros([1; D], &device),
                false => select(held.clone(), &rows),
            }
        });
        let received = self.team.exchange(parts.collect(), &device)?;
        let (mut experts, mut parts) = (Vec::new(), Vec::new());
        for (rank, part) in received.into_iter().enumerate() {
            let sent = within(&wanted, &self.before_of(rank));
            if !sent.is_empty() {
                experts.extend(sent);
                parts.push(part);
            }
        }
        let place = |expert: &usize| experts.partition_point(|other| other < expert);
        let places: Vec<usize> = wanted.iter().map(place).collect();
        Ok(select(Tensor::cat(parts, 0), &places))
    }

    fn before_of(&self, rank: usize) -> Range<usize> {
        match self.from_whole {
            true => 0..self.plan.experts(),
            false => self.share(self.plan.experts(), rank),
        }
    }

    fn after_of(&self, rank: usize) -> Range<usize> {
        self.share(self.plan.source_of().len(), rank)
    }

    fn share(&self, experts: usize, rank: usize) -> Range<usize> {
        let each = experts / self.team.size();
        rank * each..(rank + 1) * each
    }
}

/// Rows of a tensor, which is itself all of its rows in order.
fn select<B: Backend, const D: usize>(tensor: Tensor<B, D>, rows: &[usize]) -> Tensor<B, D> {
    if rows.iter().copied().eq(0..tensor.dims()[0]) {
        return tensor;
    }
    let rows = index_tensor(rows, &tensor.device());
    tensor.select(0, rows)
}

/// Those of some experts that are in a block, in ascending order, each once.
fn within(experts: &[usize], block: &Range<usize>) -> Vec<usize> {
    let mut experts = experts.to_vec();
    experts.retain(|expert| block.contains(expert));
    experts.sort_unstable();
    experts.dedup();
    experts
}
