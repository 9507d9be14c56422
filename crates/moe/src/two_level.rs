//! Two-level selection: K distinct sources by their best score, then one replica of each.
//!
//! A layer that was grown several times has a level more for each growth: a source's place goes to one of its
//! replicas of the first growth, whose place goes to one of *its* replicas of the second, and so on.

use burn::{
    module::{Module, Param},
    tensor::{IndexingUpdateOp, Int, Tensor, activation::sigmoid, backend::Backend},
};
use upcycle_kernels::MoeBackend;

use crate::{
    init::Initializer,
    router::{Router, Routing},
    sources::{ExpertSources, index_tensor},
};

/// Two-level selection of an upcycled layer.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoLevelConfig {
    /// What was grown, first growth first; each makes experts of the experts before it.
    pub growths: Vec<Growth>,
    /// How firmly twins are kept apart: 1 entirely; towards 0 the selection becomes a plain top K, see
    /// [`Router::release`].
    pub hold: f32,
}

/// One growth of a layer with two-level selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// Source of every expert, among the experts before this growth.
    pub sources: ExpertSources,
    /// Weight `c` of the tie-break `c * tanh(v_e . x + o_e)` among the replicas of a source.
    pub strength: f32,
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

impl TwoLevelConfig {
    /// The expert before all growths that every expert comes from.
    pub fn origins(&self) -> Option<ExpertSources> {
        let mut growths = self.growths.iter().map(|growth| &growth.sources);
        let first = growths.next()?.clone();
        Some(growths.fold(first, |origins, growth| growth.through(&origins)))
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

impl<B: MoeBackend> Router<B> {
    /// Selects experts, `[T, E] -> [T, K]`.
    ///
    /// Sources compete with their best untied score. With a hold `h` below 1 the replicas that a source did not choose
    /// compete too, `h` times the range of the token's scores behind.
    pub(crate) fn select_two_level(
        &self,
        scores_te: Tensor<B, 2>,
        x_td: Tensor<B, 2>,
        two_level: &TwoLevelConfig,
    ) -> Tensor<B, 2, Int> {
        let Some(origins) = two_level.origins() else {
            return B::top_k(scores_te, self.config.top_k);
        };
        let untied_te = scores_te.clone() + self.selection_bias_e.val().unsqueeze();
        let best_tg = Groups::<B>::new(&origins, &untied_te.device())
            .split(untied_te.clone())
            .max_dim(2)
            .squeeze_dim::<2>(2);
        let chosen_tg = self.choose_replicas(scores_te, x_td, two_level);
        if two_level.hold >= 1.0 {
            let sources_tk = B::top_k(best_tg, self.config.top_k);
            return chosen_tg.gather(1, sources_tk);
        }

        let hold = two_level.hold;
        let plain_te = untied_te + (self.plain_bias_e() - self.selection_bias_e.val()).unsqueeze();
        let range_t1 = plain_te.clone().max_dim(1) - plain_te.clone().min_dim(1);
        let held_tg = best_tg - plain_te.clone().gather(1, chosen_tg.clone());
        let [t, g] = held_tg.dims();
        let lift_tg = held_tg * hold + (range_t1.clone() * hold).expand([t, g]);
        let behind_te = plain_te - range_t1 * hold;
        B::top_k(
            behind_te.scatter(1, chosen_tg, lift_tg, IndexingUpdateOp::Add),
            self.config.top_k,
        )
    }

    /// For every token and source the replica that would take its place, `[T, E] -> [T, G]`.
    fn choose_replicas(
        &self,
        scores_te: Tensor<B, 2>,
        x_td: Tensor<B, 2>,
        two_level: &TwoLevelConfig,
    ) -> Tensor<B, 2, Int> {
        let device = scores_te.device();
        let [t, e] = scores_te.dims();
        let mut chosen_tn = Tensor::<B, 1, Int>::arange(0..e as i64, &device)
            .unsqueeze::<2>()
            .expand([t, e]);
        let mut score_tn = scores_te;
        for (growth, tie_break) in two_level.growths.iter().zip(&self.tie_breaks).rev() {
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
    fn plain_bias_e(&self) -> Tensor<B, 1> {
        let device = self.selection_bias_e.device();
        let growths = self.config.two_level.iter().flat_map(|two| &two.growths);
        let replicas = growths.zip(&self.tie_breaks).fold(
            None,
            |before: Option<Tensor<B, 1>>, (growth, tie_break)| {
                let bias = tie_break.replica_bias_e.val();
                Some(match before {
                    Some(before) => {
                        bias + before.select(0, growth.sources.source_of_tensor(&device))
                    }
                    None => bias,
                })
            },
        );
        let bias_e = self.selection_bias_e.val();
        match replicas {
            Some(replicas) => bias_e + replicas,
            None => bias_e,
        }
    }

    /// The router with another hold on twins; from 0 on a plain top K over all experts, without tie-breaks.
    pub fn release(mut self, hold: f32) -> Self {
        if hold > 0.0 {
            if let Some(two_level) = &mut self.config.two_level {
                two_level.hold = hold;
            }
            return self;
        }
        let bias_e = self.plain_bias_e();
        self.selection_bias_e = self.selection_bias_e.map(|_| bias_e);
        self.config.two_level = None;
        self.tie_breaks = Vec::new();
        self
    }

    /// How far replicas are from lagging behind the one that their source chose: the mean of `sigmoid(l_e - l_chosen)`
    /// over tokens, the sources they select and all replicas of these, `[1]`; the chosen one counts too, with its constant
    /// 1/2. None without two-level selection.
    ///
    /// Its gradient teaches router rows the split that the tie-break makes, so that it can be released.
    pub fn separation_loss(&self, routing: &Routing<B>) -> Option<Tensor<B, 1>> {
        let origins = self.config.two_level.as_ref()?.origins()?;
        let [t, k] = routing.experts_tk.dims();
        let device = routing.experts_tk.device();
        let groups = Groups::<B>::new(&origins, &device);
        let source_tk = origins
            .source_of_tensor::<B>(&device)
            .gather(0, routing.experts_tk.clone().reshape([t * k]));
        let of_sources = |table_gr: Tensor<B, 1, Int>| {
            table_gr
                .reshape([origins.count(), groups.width])
                .select(0, source_tk.clone())
                .reshape([t, k * groups.width])
        };
        let member_tkr = of_sources(groups.members_gr.clone());
        let counts_tkr = of_sources(index_tensor(&origins.members_mask(), &device)).float();
        let others_tkr = routing.logits_te.clone().gather(1, member_tkr);
        let chosen_tkr = routing
            .logits_te
            .clone()
            .gather(1, routing.experts_tk.clone())
            .reshape([t, k, 1])
            .expand([t, k, groups.width])
            .reshape([t, k * groups.width]);
        let loss_tkr = sigmoid(others_tkr - chosen_tkr) * counts_tkr.clone();
        Some(loss_tkr.sum() / counts_tkr.sum())
    }
}

/// Experts by source, as a table whose shorter rows repeat their first expert.
struct Groups<B: Backend> {
    members_gr: Tensor<B, 1, Int>,
    count: usize,
    width: usize,
}

impl<B: Backend> Groups<B> {
    fn new(sources: &ExpertSources, device: &B::Device) -> Self {
        let (members, width) = sources.members();
        Self {
            members_gr: index_tensor::<B>(&members, device),
            count: sources.count(),
            width,
        }
    }

    /// Values of every source's experts, `[T, E] -> [T, G, R]`.
    fn split(&self, values_te: Tensor<B, 2>) -> Tensor<B, 3> {
        let [t, _] = values_te.dims();
        values_te
            .select(1, self.members_gr.clone())
            .reshape([t, self.count, self.width])
    }

    /// The expert with the largest value of every source, `[T, E] -> [T, G]`.
    fn best(&self, values_te: Tensor<B, 2>) -> Tensor<B, 2, Int> {
        let [t, _] = values_te.dims();
        let device = values_te.device();
        let place_tg = self
            .split(values_te)
            .reshape([t * self.count, self.width])
            .argmax(1)
            .reshape([t, self.count]);
        let first_g = Tensor::<B, 1, Int>::arange(0..self.count as i64, &device)
            .mul_scalar(self.width as i64);
        let place_tg = place_tg + first_g.unsqueeze::<2>();
        self.members_gr
            .clone()
            .gather(0, place_tg.reshape([t * self.count]))
            .reshape([t, self.count])
    }
}
