//! Groups of experts, of which a token may use some.

use burn::tensor::{IndexingUpdateOp, Tensor};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeBackend;

use crate::{groups::Groups, sources::ExpertSources};

/// What makes a group of experts strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupStrength {
    /// The sum of its two best scores (DeepSeek-V3).
    #[default]
    TopTwo,
    /// Its best score (DeepSeek-V2).
    Best,
    /// Nothing: a token chooses among all experts, whatever groups there are.
    Ignored,
}

/// How many groups a router's experts form, as it stands in a model's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupLimit {
    /// Groups of consecutive experts, all as large.
    pub count: usize,
    /// Groups that a token may choose from, the strongest ones.
    pub top: usize,
    /// Which these are.
    #[serde(default)]
    pub by: GroupStrength,
}

/// The groups of a layer's experts. A replica is of the group of its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertGroups {
    /// Group of every expert.
    pub of: ExpertSources,
    /// Groups that a token may choose from.
    pub top: usize,
    /// Which these are.
    pub by: GroupStrength,
}

impl GroupLimit {
    /// What stands against so many groups of `experts`, of which a token uses `top_k`; none if nothing does.
    pub fn problem(&self, experts: usize, top_k: usize) -> Option<String> {
        let Self { count, top, .. } = *self;
        if count == 0 || !experts.is_multiple_of(count) {
            Some(format!(
                "{experts} experts are not {count} groups of equal size"
            ))
        } else if top == 0 || top > count {
            Some(format!(
                "top = {top} must lie between 1 and the number of groups, {count}"
            ))
        } else if top_k > top * (experts / count) {
            Some(format!(
                "{top} groups of {} experts are fewer than K = {top_k}",
                experts / count
            ))
        } else {
            None
        }
    }

    /// The groups of `experts` that were never grown; none if there cannot be so many.
    pub fn of_experts(&self, experts: usize) -> Option<ExpertGroups> {
        let size = experts.checked_div(self.count).filter(|&size| size > 0)?;
        Some(ExpertGroups {
            of: ExpertSources::new((0..experts).map(|expert| expert / size).collect())?,
            top: self.top,
            by: self.by,
        })
    }
}

impl ExpertGroups {
    /// The groups of the experts that were grown from `sources`.
    #[must_use]
    pub fn grown(&self, sources: &ExpertSources) -> Self {
        Self {
            of: sources.through(&self.of),
            ..self.clone()
        }
    }

    /// All experts, group by group.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.of.experts()).collect();
        order.sort_by_key(|&expert| self.of.source_of()[expert]);
        order
    }

    /// The groups of the sources of these experts.
    pub(crate) fn of_sources(&self, sources: &ExpertSources) -> Option<Self> {
        let mut of = vec![0; sources.count()];
        for (&source, &group) in sources.source_of().iter().zip(self.of.source_of()) {
            of[source] = group;
        }
        Some(Self {
            of: ExpertSources::new(of)?,
            ..self.clone()
        })
    }

    /// How strong every group is, `[T, E] -> [T, G]`.
    pub(crate) fn strengths<B: MoeBackend>(&self, scores_te: Tensor<B, 2>) -> Tensor<B, 2> {
        let groups = Groups::<B>::new(&self.of, &scores_te.device());
        let [t, _] = scores_te.dims();
        let rows = scores_te.select(1, groups.members_gr.clone());
        let rows = rows.reshape([t * groups.count, groups.width]);
        let best = match self.by {
            GroupStrength::Best => 1,
            GroupStrength::TopTwo | GroupStrength::Ignored => groups.width.min(2),
        };
        let places = B::top_k(rows.clone(), best);
        rows.gather(1, places).sum_dim(1).reshape([t, groups.count])
    }

    /// Scores of the experts of the strongest groups, and `-inf` for all others, `[T, E]` and `[T, G] -> [T, E]`.
    pub(crate) fn limit<B: MoeBackend>(
        &self,
        scores_te: Tensor<B, 2>,
        strengths_tg: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let device = scores_te.device();
        let [t, g] = strengths_tg.dims();
        if self.by == GroupStrength::Ignored || self.top >= g {
            return scores_te;
        }
        let strongest = B::top_k(strengths_tg, self.top);
        let closed_tg = Tensor::<B, 2>::ones([t, g], &device).scatter(
            1,
            strongest,
            Tensor::full([t, self.top], -1.0, &device),
            IndexingUpdateOp::Add,
        );
        let closed_te = closed_tg.select(1, self.of.source_of_tensor(&device));
        scores_te.mask_fill(closed_te.greater_elem(0.5), f32::NEG_INFINITY)
    }
}
