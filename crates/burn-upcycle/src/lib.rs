//! Grow Mixture-of-Experts (MoE) models on [Burn](https://burn.dev): more experts in the middle of a training, at the same
//! compute per token.
//!
//! *Expert upcycling* ([arXiv 2604.19835](https://arxiv.org/abs/2604.19835)) trains a small MoE model first, duplicates its
//! experts, and trains on: near the quality of the big model for about two thirds of its cost.
//!
//! # Grow a model of your own
//!
//! Any Burn module can be grown that has [`MoeLayer`](moe::MoeLayer)s and shows them ([`MoeModel`](moe::MoeModel)). One call
//! copies experts, extends routers and grows what the optimizer remembers, Burn's own AdamW or this project's:
//!
#![cfg_attr(feature = "cpu", doc = "```")]
#![cfg_attr(not(feature = "cpu"), doc = "```ignore")]
//! use burn_upcycle::burn::{module::Module, optim::{AdamWConfig, Optimizer}};
//! use burn_upcycle::prelude::*;
//!
//! #[derive(Module, Debug)]
//! struct Model<B: MoeBackend> {
//!     layers: Vec<MoeLayer<B>>,
//! }
//!
//! impl<B: MoeBackend> MoeModel<B> for Model<B> {
//!     fn moe_sites(&self) -> Vec<MoeSite<'_, B>> {
//!         self.layers.iter().map(MoeSite::without_norm).collect()
//!     }
//!
//!     fn moe_layers_mut(&mut self) -> Vec<&mut MoeLayer<B>> {
//!         self.layers.iter_mut().collect()
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! type B = Autodiff<Flex>;
//! let (init, device) = (Initializer::new(0), FlexDevice);
//! // Experts: 4 of width 32, 2 for each token of width 16.
//! let config = MoeLayerConfig::new(16, 4, 2, 32);
//! let layers = (0..2).map(|i| config.init(&format!("layer {i}"), &init, &device)).collect();
//! let mut model = Model::<B> { layers };
//! let mut optimizer = AdamWConfig::new().init::<B, Model<B>>();
//! // ... train ...
//!
//! let mut state = optimizer.to_record();
//! let operator = Upcycle::new(Recipe::named("exact-random")?, 8);
//! let grown = operator.grow(&mut model, &mut state, &Evidence::default())?;
//! optimizer = optimizer.load_record(state);
//! assert_eq!(model.layers[0].lineage().experts(), 8);
//! println!("copies of each expert: {:?}", grown.choice.plan.layers[0].counts());
//! // ... train on ...
//! # Ok(())
//! # }
//! ```
//!
//! Recipes that choose by what experts do, or part replicas by the tokens they see (`exact`), need
//! [`Evidence`](operator::Evidence), which [`Evidence::gather`](operator::Evidence::gather) measures with a closure that runs
//! the model over a batch. The example `own_model` has all of it: a model, its loss, balancing, growing.
//!
//! # Grow a language model
//!
//! [`lm::Lm`] is a decoder-only language model with dense and MoE layers. With the feature `train`, `train::Learner` trains
//! it in memory and grows it between two steps (example `grow_mid_training`). Behind the feature `burn-train` Burn's own trainer trains it, with
//! routing measures among its metrics (example `burn_train`).
//!
//! # Grow a checkpoint
//!
//! With the feature `hf`, Hugging Face checkpoints are grown from disk to disk in memory that does not grow with them
//! (example `grow_checkpoint`).
//!
//! # Which crate does what
//!
//! | module | what it is |
//! |---|---|
//! | [`kernels`] | the few fused operations that MoE models need, behind Burn's `Backend` trait |
//! | [`moe`] | router, experts, MoE layer, load balancing, routing statistics |
//! | [`operator`] | the upcycling operator on any model, recipes by name |
//! | [`lm`] | language models, and what they cost |
//! | `data` | corpora, tokenizers, packed streams (feature `train`) |
//! | `train` | the learner, stages with checkpoints (feature `train`) |
//! | `hf` | Hugging Face checkpoints (feature `hf`) |
//!
//! Features choose backends (`cpu`, `ndarray`, `wgpu`, `cuda`; see [`backend`]) and what comes along (`train`, `hf`, `hub`,
//! `burn-train`). The experiments that measure how much of the gap to the big model is closed are programs of the
//! repository, not part of this crate.

pub use burn;
#[cfg(feature = "train")]
pub use upcycle_data as data;
#[cfg(feature = "hf")]
pub use upcycle_hf as hf;
pub use upcycle_kernels as kernels;
pub use upcycle_lm as lm;
pub use upcycle_moe as moe;
pub use upcycle_operator as operator;
pub use upcycle_team as team;
#[cfg(feature = "train")]
pub use upcycle_train as train;

pub mod backend {
    //! The backends that are compiled in.

    pub use burn::backend::Autodiff;
    #[cfg(feature = "cuda")]
    pub use burn_cuda::{Cuda, CudaDevice};
    #[cfg(feature = "cpu")]
    pub use burn_flex::{Flex, FlexDevice};
    #[cfg(feature = "ndarray")]
    pub use burn_ndarray::{NdArray, NdArrayDevice};
    #[cfg(feature = "wgpu")]
    pub use burn_wgpu::{Wgpu, WgpuDevice};
}

pub mod prelude {
    //! What most programs need.

    pub use crate::{
        backend::*,
        kernels::{AdamWRecord, MoeAutodiffBackend, MoeBackend, Precision},
        lm::{Lm, LmConfig},
        moe::{
            BalancingConfig, DenseModel, GrowthState, Initializer, LayerPattern, MoeLayer,
            MoeLayerConfig, MoeModel, MoeSite, Routing, SwiGlu,
        },
        operator::{
            AdamState, Evidence, ForwardPass, Grown, OperatorError, Recipe, Upcycle, verify,
        },
    };
    #[cfg(feature = "train")]
    pub use crate::{
        data::{DataConfig, Dataset, Split},
        train::{Learner, LearnerConfig, MeasureConfig, TrainError},
    };
}
