//! Adam's moments of grown parameters.

use burn::{
    module::ParamId,
    optim::{AdamWState, AdaptiveMomentumState, SimpleOptimizer, record::AdaptorRecord},
    tensor::{ElementConversion, Tensor, backend::Backend},
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use upcycle_kernels::{MoeAutodiffBackend, adamw::state_of_rank};
use upcycle_team::TeamError;

use crate::{
    block::Block,
    check::{Fault, not_negative, share},
    error::OperatorError,
};

/// What happens to Adam's moments of a grown model.
///
/// Originals keep theirs, as does everything that is not an expert's or a router's, except under `reset`. Step counts
/// are kept: a parameter has one for all of its experts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OptimizerPolicy {
    /// All moments and step counts start anew (the paper).
    Reset {},
    /// The moments of replicas start at zero. Their bias correction is that of the others, so the first step of a replica
    /// is `(1 - beta_1) / sqrt(1 - beta_2)` of a usual one: 0.45 for 0.9 and 0.95.
    ResetNew {},
    /// Replicas take the moments of their source.
    Copy {},
    /// Replicas take scaled moments of their source.
    Scale {
        /// Factor of first moments.
        #[serde(default = "one")]
        momentum: f32,
        /// Factor of second moments.
        #[serde(default = "one")]
        variance: f32,
        /// Both factors shrink with the change of the weights, by `max(0, 1 - mean |w' - w| / mean |w|)`.
        #[serde(default)]
        adaptive: bool,
    },
    /// Replicas take `(1 - weight)` of their source's moments and `weight` of its neighbour's.
    Interpolate {
        /// Weight of the neighbour.
        weight: f32,
    },
}

fn one() -> f32 {
    1.0
}

/// Keeps weights of zero from dividing.
const EPSILON: f64 = 1e-8;

impl OptimizerPolicy {
    /// Checks the values of all fields.
    pub(crate) fn validate(&self) -> Result<(), Fault> {
        match *self {
            Self::Scale {
                momentum, variance, ..
            } => {
                not_negative("optimizer.momentum", momentum)?;
                not_negative("optimizer.variance", variance)
            }
            Self::Interpolate { weight } => share("optimizer.weight", weight),
            _ => Ok(()),
        }
    }

    /// Grows the moments of parameter `id` along its first axis, as the weights of the block's experts went from `before` to
    /// `after`. An optimizer that starts anew, or has taken no step yet, has nothing to grow.
    pub(crate) fn grow<B: MoeAutodiffBackend, O: AdamState<B> + Moments<B, D>, const D: usize>(
        &self,
        optimizer: &mut O,
        id: ParamId,
        before: &Tensor<B::InnerBackend, D>,
        after: &Tensor<B::InnerBackend, D>,
        block: &Block,
    ) -> Result<(), OperatorError> {
        if optimizer.is_empty() {
            return Ok(());
        }
        let mut momentum = optimizer.moments_of(id, before.dims())?;
        let everywhere = |factor: f32| Some(factors(block, |_| factor));
        let (first, second, neighbours) = match *self {
            Self::Reset {} => return Ok(()),
            Self::Copy {} => (None, None, 0.0),
            Self::ResetNew {} => (everywhere(0.0), everywhere(0.0), 0.0),
            Self::Interpolate { weight } => {
                (everywhere(1.0 - weight), everywhere(1.0 - weight), weight)
            }
            Self::Scale {
                momentum,
                variance,
                adaptive,
            } => {
                let kept = if adaptive {
                    kept_share(before, after, block)?
                } else {
                    vec![1.0; block.after().len()]
                };
                let scaled = |factor: f32| Some(factors(block, |place| factor * kept[place]));
                (scaled(momentum), scaled(variance), 0.0)
            }
        };
        momentum.moment_1 = grown(momentum.moment_1, block, first, neighbours)?;
        momentum.moment_2 = grown(momentum.moment_2, block, second.clone(), neighbours)?;
        momentum.max_moment_2 = match momentum.max_moment_2 {
            Some(moment) => Some(grown(moment, block, second, neighbours)?),
            None => None,
        };
        optimizer.set_moments(id, momentum);
        Ok(())
    }
}

/// Adam's moments of parameters of rank `D`.
pub trait Moments<B: MoeAutodiffBackend, const D: usize> {
    /// The moments of a parameter; none if there are none, or of another rank.
    fn moments(&self, id: ParamId) -> Option<AdaptiveMomentumState<B::InnerBackend, D>>;

    /// Replaces the moments of a parameter.
    fn set_moments(&mut self, id: ParamId, moments: AdaptiveMomentumState<B::InnerBackend, D>);

    /// The moments of a parameter of these dimensions.
    ///
    /// # Errors
    /// If there are none of this shape: Burn drops or broadcasts what does not fit without a word.
    fn moments_of(
        &self,
        id: ParamId,
        dims: [usize; D],
    ) -> Result<AdaptiveMomentumState<B::InnerBackend, D>, OperatorError> {
        let mismatch = |problem: &str| {
            OperatorError::OptimizerMismatch(format!("a parameter of shape {dims:?} {problem}"))
        };
        let moments = self.moments(id);
        let moments = moments.ok_or_else(|| mismatch("has no moments of its rank"))?;
        if moments.moment_1.dims() == dims && moments.moment_2.dims() == dims {
            Ok(moments)
        } else {
            Err(mismatch("has moments of another shape"))
        }
    }
}

impl<B, O, const D: usize> Moments<B, D> for HashMap<ParamId, AdaptorRecord<O, B>>
where
    B: MoeAutodiffBackend,
    O: SimpleOptimizer<B::InnerBackend, State<D> = AdamWState<B::InnerBackend, D>>,
{
    fn moments(&self, id: ParamId) -> Option<AdaptiveMomentumState<B::InnerBackend, D>> {
        let state = state_of_rank::<O, B, D>(self.get(&id)?.clone())?;
        Some(state.momentum)
    }

    fn set_moments(&mut self, id: ParamId, moments: AdaptiveMomentumState<B::InnerBackend, D>) {
        self.insert(id, AdaptorRecord::from_state::<D>(AdamWState::new(moments)));
    }
}

/// The state of an AdamW optimizer: Burn's own record, or that of this project's AdamW.
///
/// ```
/// # use burn::{backend::Autodiff, module::Module, optim::{AdamWConfig, Optimizer}};
/// # use upcycle_kernels::MoeAutodiffBackend;
/// # use upcycle_operator::AdamState;
/// fn grow<B: MoeAutodiffBackend, O: AdamState<B>>(state: &mut O) { /* ... */ }
///
/// # fn example<B: MoeAutodiffBackend, M: burn::module::AutodiffModule<B>>() {
/// let mut optimizer = AdamWConfig::new().init::<B, M>();
/// let mut state = optimizer.to_record();
/// grow::<B, _>(&mut state);
/// optimizer = optimizer.load_record(state);
/// # }
/// ```
pub trait AdamState<B: MoeAutodiffBackend>: Moments<B, 2> + Moments<B, 3> {
    /// Whether the optimizer has taken no step.
    fn is_empty(&self) -> bool;

    /// Forgets all moments and step counts.
    fn clear(&mut self);
}

impl<B, O> AdamState<B> for HashMap<ParamId, AdaptorRecord<O, B>>
where
    B: MoeAutodiffBackend,
    O: SimpleOptimizer<
            B::InnerBackend,
            State<2> = AdamWState<B::InnerBackend, 2>,
            State<3> = AdamWState<B::InnerBackend, 3>,
        >,
{
    fn is_empty(&self) -> bool {
        HashMap::is_empty(self)
    }

    fn clear(&mut self) {
        HashMap::clear(self);
    }
}

/// Moments of parameter `id`, of dimensions `dims`, grown along an axis of neurons, each of which has `copies` afterwards: the
/// first keeps them, and those of the others are zero.
pub(crate) fn widen_moments<B: MoeAutodiffBackend, O: AdamState<B>>(
    optimizer: &mut O,
    id: ParamId,
    dims: [usize; 3],
    axis: usize,
    copies: usize,
) -> Result<(), OperatorError> {
    if optimizer.is_empty() {
        return Ok(());
    }
    let mut momentum = optimizer.moments_of(id, dims)?;
    let widened = |moment: Tensor<B::InnerBackend, 3>| {
        let mut parts = vec![moment.zeros_like(); copies];
        parts[0] = moment;
        Tensor::cat(parts, axis)
    };
    momentum.moment_1 = widened(momentum.moment_1);
    momentum.moment_2 = widened(momentum.moment_2);
    momentum.max_moment_2 = momentum.max_moment_2.map(widened);
    optimizer.set_moments(id, momentum);
    Ok(())
}

/// `factor_e * moment[source of e]` for the experts of a block, and for replicas `neighbours * moment[neighbour of the source]`
/// more.
fn grown<B: Backend, const D: usize>(
    moment: Tensor<B, D>,
    block: &Block,
    factors: Option<Vec<f32>>,
    neighbours: f32,
) -> Result<Tensor<B, D>, TeamError> {
    let device = moment.device();
    let copies = block.copies(moment.clone())?;
    let Some(factors) = factors else {
        return Ok(copies);
    };
    let scaled = copies * by_expert(factors, &device);
    if neighbours == 0.0 {
        return Ok(scaled);
    }
    let plan = block.plan;
    let next = block.rows(moment, |block| {
        let sources = plan.source_of()[block].iter();
        sources.map(|s| (s + 1) % plan.experts()).collect()
    })?;
    let shares = block.after().map(|expert| {
        if expert < plan.first_replica() {
            0.0
        } else {
            neighbours
        }
    });
    Ok(scaled + next * by_expert(shares.collect(), &device))
}

/// One for each expert of a block, given its place there: 1 for originals.
fn factors(block: &Block, of_replica: impl Fn(usize) -> f32) -> Vec<f32> {
    (block.after().enumerate())
        .map(|(place, expert)| {
            if expert < block.plan.first_replica() {
                1.0
            } else {
                of_replica(place)
            }
        })
        .collect()
}

/// `max(0, 1 - mean |w' - w| / mean |w|)` of every expert of a block.
fn kept_share<B: Backend, const D: usize>(
    before: &Tensor<B, D>,
    after: &Tensor<B, D>,
    block: &Block,
) -> Result<Vec<f32>, TeamError> {
    let experts = block.after().len();
    let copies = block.copies(before.clone())?;
    let means = |tensor: Tensor<B, D>| -> Vec<f64> {
        let size = tensor.shape().num_elements() / experts;
        let mean_e1 = tensor.abs().reshape([experts, size]).mean_dim(1);
        let values = mean_e1.into_data();
        values.iter::<B::FloatElem>().map(|v| v.elem()).collect()
    };
    let change = means(after.clone() - copies.clone());
    let kept = change
        .iter()
        .zip(means(copies))
        .map(|(change, size)| (1.0 - change / (size + EPSILON)).max(0.0) as f32);
    Ok(kept.collect())
}

/// One number an expert, broadcast over the other axes.
fn by_expert<B: Backend, const D: usize>(values: Vec<f32>, device: &B::Device) -> Tensor<B, D> {
    let mut shape = [1; D];
    shape[0] = values.len();
    Tensor::<B, 1>::from_floats(values.as_slice(), device).reshape(shape)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::{backend::Autodiff, tensor::TensorData};
    use burn_flex::{Flex, FlexDevice};
    use serde_json::Value;
    use upcycle_kernels::AdamWRecord;

    use super::*;
    use crate::plan::LayerPlan;

    type B = Autodiff<Flex>;

    /// `[3, 4]` matrices of these names, stacked.
    fn stack(matrices: &[&Value]) -> Tensor<Flex, 3> {
        let rows = matrices.iter().flat_map(|m| m.as_array().unwrap());
        let values = rows.flat_map(|row| row.as_array().unwrap());
        let values: Vec<f32> = values.map(|v| v.as_f64().unwrap() as f32).collect();
        Tensor::from_data(TensorData::new(values, [matrices.len(), 3, 4]), &FlexDevice)
    }

    /// Moments of a replica of expert 0 of two, against the published implementation. Its `scale` resets the step
    /// count and keeps the moments, whose bias correction is then wrong: ours keeps the step count.
    #[test]
    fn moments_are_those_of_the_published_implementation() {
        for text in [
            include_str!("../tests/fixtures/reference_1.json"),
            include_str!("../tests/fixtures/reference_2.json"),
        ] {
            let fixture: Value = serde_json::from_str(text).unwrap();
            let golden = &fixture["optimizer"];
            let number = |case: &str, field: &str| golden[case][field].as_f64().unwrap() as f32;
            let policies = [
                ("copy", OptimizerPolicy::Copy {}),
                (
                    "scale",
                    OptimizerPolicy::Scale {
                        momentum: number("scale", "momentum_scale"),
                        variance: number("scale", "variance_scale"),
                        adaptive: true,
                    },
                ),
                (
                    "interpolate",
                    OptimizerPolicy::Interpolate {
                        weight: number("interpolate", "alpha"),
                    },
                ),
            ];
            let [source, other] = [&golden["source"], &golden["other"]];
            let weight = &golden["source_weight"];
            let before = stack(&[weight, weight]);
            let after = stack(&[weight, weight, &golden["target_weight"]]);
            for (name, policy) in policies {
                let id = ParamId::new();
                let state = AdaptiveMomentumState {
                    time: 5,
                    moment_1: stack(&[&source["exp_avg"], &other["exp_avg"]]),
                    moment_2: stack(&[&source["exp_avg_sq"], &other["exp_avg_sq"]]),
                    max_moment_2: None,
                };
                let mut record = AdamWRecord::<B>::new();
                record.set_moments(id, state);
                let plan = LayerPlan::from_counts(&[2, 1]);
                policy
                    .grow(&mut record, id, &before, &after, &Block::whole(&plan))
                    .unwrap();
                let grown = Moments::<B, 3>::moments(&record, id).unwrap();
                assert_eq!(grown.time, 5);
                for (moment, field) in [(grown.moment_1, "exp_avg"), (grown.moment_2, "exp_avg_sq")]
                {
                    let expected = [&source[field], &other[field], &golden[name][field]];
                    let difference = (moment - stack(&expected)).abs().max();
                    assert!(difference.into_scalar() < 1e-6, "{name} {field}");
                }
            }
        }
    }
}
