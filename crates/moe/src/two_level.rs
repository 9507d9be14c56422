//! Two-level selection: K distinct sources by their best score, then one replica of each.
//!
//! A layer that was grown several times has a level more for each growth: a source's place goes to one of its
//! replicas of the first growth, whose place goes to one of *its* replicas of the second, and so on.

use burn::{
    module::{Module, Param},
    tensor::{IndexingUpdateOp, Int, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeBackend;

use crate::{
    expert_groups::ExpertGroups, groups::Groups, init::Initializer, sources::ExpertSources,
};

/// How a grown layer keeps the replicas of one source apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoLevel {
    /// What was grown with it, first growth first; each makes experts of the experts before it.
    pub growths: Vec<Growth>,
    /// Weight of the loss that teaches the router the split of the tie-breaks, see
    /// [`Router::separation_loss`](crate::Router::separation_loss).
    #[serde(default)]
    pub separation: f32,
    /// When it ends; it is kept for good without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// How firmly twins are kept apart now: 1 entirely; towards 0 the selection becomes a plain top K. It follows from the
    /// release and the step, see [`MoeLayer::at_step`](crate::MoeLayer::at_step).
    #[serde(skip, default = "entirely")]
    pub hold: f32,
}

fn entirely() -> f32 {
    1.0
}

impl Default for TwoLevel {
    fn default() -> Self {
        Self {
            growths: Vec::new(),
            separation: 0.0,
            release: None,
            hold: entirely(),
        }
    }
}

/// One growth of a layer with two-level selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Source of every expert, among the experts before this growth.
    pub sources: ExpertSources,
    /// Weight `c` of the tie-break `c * tanh(v_e . x + o_e)` among the replicas of a source.
    pub strength: f32,
}

/// How two-level selection becomes a plain top K over some steps of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// How the hold on twins goes from 1 to 0.
    pub shape: ReleaseShape,
    /// Step at which it starts.
    pub from: u64,
    /// Steps until twins are free.
    pub steps: u64,
}

/// How the hold on twins goes from 1 to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseShape {
    /// Entire until the end, then none.
    AtOnce,
    /// In a straight line.
    Linear,
    /// As half a cosine.
    Cosine,
}

impl Release {
    /// The step from which on twins are free.
    pub fn end(&self) -> u64 {
        self.from + self.steps
    }

    /// Hold on twins at a step, from 1 to 0.
    pub fn hold(&self, step: u64) -> f32 {
        let done = step.saturating_sub(self.from) as f64 / self.steps.max(1) as f64;
        let hold = match self.shape {
            _ if done >= 1.0 => 0.0,
            ReleaseShape::AtOnce => 1.0,
            ReleaseShape::Linear => 1.0 - done,
            ReleaseShape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        hold as f32
    }
}

/// State that picks one replica of a source by `score + bias + c * tanh(v . x + o)`, for the `N` experts right after
/// one growth.
#[derive(Module, Debug)]
pub struct TieBreak<B: Backend> {
    /// Direction `v` of every expert, `[N, D]`.
    pub direction_ed: Param<Tensor<B, 2>>,
    /// Offset `o` of every expert, `[N]`.
    pub offset_e: Param<Tensor<B, 1>>,
    /// Balancing bias of every replica inside its source, `[N]`.
    pub replica_bias_e: Param<Tensor<B, 1>>,
}

impl<B: Backend> TieBreak<B> {
    /// No preference among replicas.
    pub(crate) fn init(experts: usize, d: usize, device: &B::Device) -> Self {
        Self {
            direction_ed: Initializer::state([experts, d], device),
            offset_e: Initializer::state([experts], device),
            replica_bias_e: Initializer::state([experts], device),
        }
    }
}

impl TwoLevel {
    /// The expert before all growths that every expert comes from.
    pub fn origins(&self) -> Option<ExpertSources> {
        let mut growths = self.growths.iter().map(|growth| &growth.sources);
        let first = growths.next()?.clone();
        Some(growths.fold(first, |origins, growth| growth.through(&origins)))
    }

    /// Hold on twins at a step; without a release it never ends.
    pub fn hold_at(&self, step: u64) -> f32 {
        self.release.map_or(1.0, |release| release.hold(step))
    }

    /// No preference among replicas, one state for each growth.
    pub(crate) fn tie_breaks<B: Backend>(&self, d: usize, device: &B::Device) -> Vec<TieBreak<B>> {
        let growths = self.growths.iter();
        growths
            .map(|growth| TieBreak::init(growth.sources.experts(), d, device))
            .collect()
    }

    /// Share of its source that every expert counts for in a softmax over sources, `[E]`; less so as the hold weakens.
    pub(crate) fn shares(&self) -> Vec<f32> {
        let shares = self.growths.iter().fold(Vec::new(), |before, growth| {
            let replicas = growth.sources.replicas();
            let of = |source: usize| before.get(source).copied().unwrap_or(1.0);
            let shares = growth.sources.source_of().iter();
            shares
                .map(|&source| of(source) / replicas[source] as f32)
                .collect()
        });
        shares
            .into_iter()
            .map(|share: f32| share.powf(self.hold))
            .collect()
    }
}

/// Two-level selection with the state that it works on.
pub(crate) struct Selection<'a, B: Backend> {
    pub two_level: &'a TwoLevel,
    /// One for each growth.
    pub tie_breaks: &'a [TieBreak<B>],
    /// Selection bias of every expert's source, `[E]`.
    pub bias_e: Tensor<B, 1>,
    /// Groups of experts of which a token may use some.
    pub groups: Option<&'a ExpertGroups>,
    pub top_k: usize,
}

impl<B: MoeBackend> Selection<'_, B> {
    /// Selects experts, `[T, E] -> [T, K]`.
    ///
    /// Sources compete with their best untied score. With a hold `h` below 1 the replicas that a source did not choose
    /// compete too, `h` times the range of the token's scores behind. A group of experts is as strong as its sources are;
    /// the weaker the hold, the more its experts count in place of them.
    pub fn select(&self, scores_te: Tensor<B, 2>, x_td: Tensor<B, 2>) -> Tensor<B, 2, Int> {
        let Some(origins) = self.two_level.origins() else {
            return B::top_k(scores_te, self.top_k);
        };
        let untied_te = scores_te.clone() + self.bias_e.clone().unsqueeze();
        let best_tg = Groups::<B>::new(&origins, &untied_te.device())
            .split(untied_te.clone())
            .max_dim(2)
            .squeeze_dim::<2>(2);
        let chosen_tg = self.choose_replicas(scores_te, x_td);
        let hold = self.two_level.hold;
        let of_sources = self.groups.and_then(|it| it.of_sources(&origins));
        let strengths = of_sources.map(|it| (it.strengths(best_tg.clone()), it));
        if hold >= 1.0 {
            let open_tg = match strengths {
                Some((strengths, groups)) => groups.limit(best_tg, strengths),
                None => best_tg,
            };
            let sources_tk = B::top_k(open_tg, self.top_k);
            return chosen_tg.gather(1, sources_tk);
        }

        let plain_te = untied_te + (self.plain_bias_e() - self.bias_e.clone()).unsqueeze();
        let range_t1 = plain_te.clone().max_dim(1) - plain_te.clone().min_dim(1);
        let held_tg = best_tg - plain_te.clone().gather(1, chosen_tg.clone());
        let [t, g] = held_tg.dims();
        let lift_tg = held_tg * hold + (range_t1.clone() * hold).expand([t, g]);
        let behind_te = plain_te.clone() - range_t1 * hold;
        let by_te = behind_te.scatter(1, chosen_tg, lift_tg, IndexingUpdateOp::Add);
        let by_te = match (self.groups, strengths) {
            (Some(groups), Some((held, _))) => {
                let strengths = held * hold + groups.strengths(plain_te) * (1.0 - hold);
                groups.limit(by_te, strengths)
            }
            _ => by_te,
        };
        B::top_k(by_te, self.top_k)
    }

    /// For every token and source the replica that would take its place, `[T, E] -> [T, G]`.
    fn choose_replicas(&self, scores_te: Tensor<B, 2>, x_td: Tensor<B, 2>) -> Tensor<B, 2, Int> {
        let device = scores_te.device();
        let [t, e] = scores_te.dims();
        let mut chosen_tn = Tensor::<B, 1, Int>::arange(0..e as i64, &device)
            .unsqueeze::<2>()
            .expand([t, e]);
        let mut score_tn = scores_te;
        for (growth, tie_break) in self.levels().rev() {
            let tie_tn = x_td
                .clone()
                .matmul(tie_break.direction_ed.val().transpose())
                + tie_break.offset_e.val().unsqueeze();
            let tied_tn = score_tn.clone()
                + tie_break.replica_bias_e.val().unsqueeze()
                + tie_tn.tanh() * growth.strength;
            let winner_tg = Groups::new(&growth.sources, &device).best(tied_tn);
            chosen_tn = chosen_tn.gather(1, winner_tg.clone());
            score_tn = score_tn.gather(1, winner_tg);
        }
        chosen_tn
    }

    /// Selection biases of a plain top K over all experts: those of the source and of the replica at every level, `[E]`.
    pub fn plain_bias_e(&self) -> Tensor<B, 1> {
        let device = self.bias_e.device();
        let replicas =
            (self.levels()).fold(None, |before: Option<Tensor<B, 1>>, (growth, tie_break)| {
                let bias = tie_break.replica_bias_e.val();
                Some(match before {
                    Some(before) => {
                        bias + before.select(0, growth.sources.source_of_tensor(&device))
                    }
                    None => bias,
                })
            });
        match replicas {
            Some(replicas) => self.bias_e.clone() + replicas,
            None => self.bias_e.clone(),
        }
    }

    fn levels(&self) -> impl DoubleEndedIterator<Item = (&Growth, &TieBreak<B>)> {
        self.two_level.growths.iter().zip(self.tie_breaks)
    }
}
