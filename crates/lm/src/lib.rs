//! Decoder-only language models with dense and Mixture-of-Experts layers, and what they cost.
//!
//! Tensor names carry their shape: `T` tokens (`B * S`), `B` batch, `S` sequence, `D` model, `E` experts, `K` top-K,
//! `V` vocabulary, `H` heads, `G` key-value heads, `C` head width, `J` targets of a position, `N` some of the positions.

mod attention;
mod backward;
mod block;
#[cfg(feature = "burn-train")]
pub mod burn_train;
mod config;
mod cost;
mod decode;
mod generate;
mod key_values;
mod model;
mod norm;
mod sampling;
mod score;
mod shapes;
mod weights;

pub use attention::Attention;
pub use backward::{Backward, Objective};
pub use block::{Block, BlockRecord, FeedForward, FeedForwardRecord};
pub use config::{AttentionBias, ConfigError, LayerKind, LmConfig, QkNorm};
pub use cost::{CostModel, MemoryEstimate, ParameterCount, Processor};
pub use decode::{DecodeError, Decoder};
pub use generate::{Finish, GenerateConfig, GenerateError, GeneratedToken};
pub use model::{Lm, LmOutput, LmRecord};
pub use norm::RmsNorm;
pub use sampling::{Sampler, SamplingConfig, SamplingError};
pub use score::TokenLikelihood;
pub use shapes::{ParameterShape, parameter_shapes};
pub use upcycle_moe::LayerPattern;
pub use weights::{WeightSink, WeightSource};
