//! The router: which experts a token goes to, and with what weight.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, activation::softmax, backend::Backend},
};
use serde::{Deserialize, Serialize};
use upcycle_kernels::{MoeBackend, Precision};

use crate::{
    expert_groups::ExpertGroups,
    init::Initializer,
    two_level::{Selection, TieBreak, TwoLevel},
};

/// How router logits become the scores that gates are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreFunction {
    /// Sigmoid of each logit (DeepSeek-V3).
    #[default]
    Sigmoid,
    /// Softmax over all experts, before the top K are taken (OLMoE, Qwen3-MoE).
    Softmax,
    /// Softmax over the K selected logits (Mixtral).
    TopKSoftmax,
}

/// Shape and behaviour of a [`Router`].
#[derive(Debug, Clone, PartialEq)]
pub struct RouterConfig {
    /// Model width, D.
    pub d_model: usize,
    /// Experts, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// From logits to scores.
    pub score: ScoreFunction,
    /// Gates of a token are divided by their sum.
    pub renormalize: bool,
    /// Gates are multiplied by this.
    pub scale: f32,
    /// Groups of experts of which a token may use some.
    pub groups: Option<ExpertGroups>,
    /// Two-level selection of a grown layer.
    pub two_level: Option<TwoLevel>,
}

/// A linear router with a selection bias for loss-free balancing.
///
/// The selection bias decides which experts are selected and never changes a gate.
#[derive(Module, Debug)]
pub struct Router<B: Backend> {
    /// One row an expert, `[E, D]`.
    pub weight_ed: Param<Tensor<B, 2>>,
    /// Added to the scores for selection only, `[E]`; state of balancing, not trained by gradients. With two-level
    /// selection it is the bias of the source, the same for all of its replicas.
    pub selection_bias_e: Param<Tensor<B, 1>>,
    /// State of two-level selection, one for each growth.
    pub tie_breaks: Vec<TieBreak<B>>,
    #[module(skip)]
    pub(crate) config: RouterConfig,
}

/// What the router decided for some tokens.
#[derive(Debug, Clone)]
pub struct Routing<B: Backend> {
    /// The tokens that were routed, `[T, D]`.
    pub input_td: Tensor<B, 2>,
    /// The K distinct experts of every token, `[T, K]`.
    pub experts_tk: Tensor<B, 2, Int>,
    /// Their weights, `[T, K]`.
    pub gates_tk: Tensor<B, 2>,
    /// Router logits, `[T, E]`.
    pub logits_te: Tensor<B, 2>,
    /// Unbiased scores, `[T, E]`.
    pub scores_te: Tensor<B, 2>,
}

impl RouterConfig {
    /// A router named `name` with rows from `N(0, 1 / D)` and no bias.
    pub fn init<B: Backend>(
        &self,
        name: &str,
        initializer: &Initializer,
        device: &B::Device,
    ) -> Router<B> {
        let (e, d) = (self.experts, self.d_model);
        Router {
            weight_ed: initializer.normal(
                &format!("{name}.weight"),
                [e, d],
                (d as f32).powf(-0.5),
                device,
            ),
            selection_bias_e: Initializer::state([e], device),
            tie_breaks: self
                .two_level
                .as_ref()
                .map_or_else(Vec::new, |two_level| two_level.tie_breaks(d, device)),
            config: self.clone(),
        }
    }
}

impl<B: Backend> Router<B> {
    /// A plain router of these parameters.
    pub fn from_parts(
        config: RouterConfig,
        weight_ed: Param<Tensor<B, 2>>,
        selection_bias_e: Param<Tensor<B, 1>>,
    ) -> Self {
        Self {
            weight_ed,
            selection_bias_e,
            tie_breaks: Vec::new(),
            config,
        }
    }

    /// Its shape and behaviour.
    pub fn config(&self) -> &RouterConfig {
        &self.config
    }
}

impl<B: MoeBackend> Router<B> {
    /// Routes tokens.
    ///
    /// # Shapes
    /// `x_td: [T, D]`.
    pub fn forward(&self, x_td: Tensor<B, 2>) -> Routing<B> {
        let weight_de = self.weight_ed.val().transpose();
        let logits_te = B::project(x_td.clone(), weight_de, Precision::F32);
        let scores_te = self.scores(logits_te.clone());
        let selection_te = scores_te.clone().detach();
        let experts_tk = match self.two_level_selection() {
            Some(two_level) => two_level.select(selection_te, x_td.clone().detach()),
            None => {
                let by_te = selection_te + self.selection_bias_e.val().unsqueeze();
                let by_te = match &self.config.groups {
                    Some(groups) => groups.limit(by_te.clone(), groups.strengths(by_te)),
                    None => by_te,
                };
                B::top_k(by_te, self.config.top_k)
            }
        };
        let gates_tk = self.gates(scores_te.clone().gather(1, experts_tk.clone()));
        Routing {
            input_td: x_td,
            experts_tk,
            gates_tk,
            logits_te,
            scores_te,
        }
    }

    /// Two-level selection as it is now; none for a plain top K.
    pub(crate) fn two_level_selection(&self) -> Option<Selection<'_, B>> {
        let two_level = self.config.two_level.as_ref()?;
        Some(Selection {
            two_level,
            tie_breaks: &self.tie_breaks,
            bias_e: self.selection_bias_e.val(),
            groups: self.config.groups.as_ref(),
            top_k: self.config.top_k,
        })
    }

    /// Scores of all experts, `[T, E] -> [T, E]`.
    ///
    /// With two-level selection the softmax is normalised over sources, each counted once: replicas of equal logits
    /// then have the score of their source.
    fn scores(&self, logits_te: Tensor<B, 2>) -> Tensor<B, 2> {
        match (self.config.score, &self.config.two_level) {
            (ScoreFunction::Sigmoid, _) => B::logistic(logits_te),
            (ScoreFunction::TopKSoftmax, _) => logits_te,
            (ScoreFunction::Softmax, None) => softmax(logits_te, 1),
            (ScoreFunction::Softmax, Some(two_level)) => {
                let device = logits_te.device();
                let share = two_level.shares();
                let share_1e = Tensor::<B, 1>::from_floats(share.as_slice(), &device).unsqueeze();
                let max_t1 = logits_te.clone().detach().max_dim(1);
                let exp_te = (logits_te - max_t1).exp();
                let total_t1 = (exp_te.clone() * share_1e).sum_dim(1);
                exp_te / total_t1
            }
        }
    }

    /// Gates from the scores of the selected experts, `[T, K] -> [T, K]`.
    fn gates(&self, selected_tk: Tensor<B, 2>) -> Tensor<B, 2> {
        let gates_tk = match self.config.score {
            ScoreFunction::TopKSoftmax => softmax(selected_tk, 1),
            _ if self.config.renormalize => {
                // K sigmoids can all underflow; a token then has no gate rather than a division by zero.
                let total_t1 = selected_tk.clone().sum_dim(1).add_scalar(1e-20);
                selected_tk / total_t1
            }
            _ => selected_tk,
        };
        if self.config.scale == 1.0 {
            gates_tk
        } else {
            gates_tk * self.config.scale
        }
    }
}
