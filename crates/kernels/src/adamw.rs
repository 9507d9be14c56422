//! AdamW ([Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101)) on [`MoeBackend::adamw`].

use burn::{
    module::ParamId,
    optim::{
        AdamWState, AdaptiveMomentumState, SimpleOptimizer,
        record::{AdaptorRecord, AdaptorRecordV1},
    },
    tensor::{Tensor, backend::AutodiffBackend},
};

use crate::MoeBackend;

/// AdamW whose weight decay spares vectors (normalisation scales), as is usual for language models.
///
/// Its state is Burn's own [`AdamWState`], so records are those of Burn's AdamW.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay of parameters with two or more axes.
    pub weight_decay: f32,
    /// Factor of all gradients, below 1 where their norm is clipped.
    pub gradient_scale: f32,
}

/// The state of [`AdamW`] for every parameter of a model on the autodiff backend `B`.
pub type AdamWRecord<B> = hashbrown::HashMap<ParamId, AdaptorRecord<AdamW, B>>;

/// The numbers of one AdamW update of one parameter.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the bias-corrected second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 - beta_1^t`.
    pub correction_1: f32,
    /// `1 - beta_2^t`.
    pub correction_2: f32,
    /// Factor of the gradient.
    pub gradient_scale: f32,
}

impl AdamW {
    /// Updates some elements of a parameter of `axes` axes, in whatever shape they come.
    pub fn step_elements<B: MoeBackend, const D: usize>(
        &self,
        axes: usize,
        lr: f64,
        tensor: Tensor<B, D>,
        grad: Tensor<B, D>,
        state: Option<AdamWState<B, D>>,
    ) -> (Tensor<B, D>, AdamWState<B, D>) {
        let (time, moments) = match state {
            Some(state) => {
                let AdaptiveMomentumState {
                    time,
                    moment_1,
                    moment_2,
                    ..
                } = state.momentum;
                (time + 1, (moment_1, moment_2))
            }
            None => (1, (grad.zeros_like(), grad.zeros_like())),
        };
        let update = Update {
            lr: lr as f32,
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            weight_decay: if axes >= 2 { self.weight_decay } else { 0.0 },
            correction_1: 1.0 - self.beta_1.powi(time as i32),
            correction_2: 1.0 - self.beta_2.powi(time as i32),
            gradient_scale: self.gradient_scale,
        };
        let (tensor, moment_1, moment_2) = B::adamw(tensor, grad, moments, update);
        let momentum = AdaptiveMomentumState::new(time, moment_1, moment_2);
        (tensor, AdamWState::new(momentum))
    }
}

impl<B: MoeBackend> SimpleOptimizer<B> for AdamW {
    type State<const D: usize> = AdamWState<B, D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<B, D>,
        grad: Tensor<B, D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<B, D>, Option<Self::State<D>>) {
        let (tensor, state) = self.step_elements(D, lr, tensor, grad, state);
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &B::Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// The state of a parameter of rank `D`; none if it has another rank (where Burn's own accessor panics).
pub fn state_of_rank<O, B, const D: usize>(record: AdaptorRecord<O, B>) -> Option<O::State<D>>
where
    B: AutodiffBackend,
    O: SimpleOptimizer<B::InnerBackend>,
{
    (rank(&record) == D).then(|| record.into_state())
}

/// Number of axes of the parameter that a record is of.
fn rank<O, B>(record: &AdaptorRecord<O, B>) -> usize
where
    B: AutodiffBackend,
    O: SimpleOptimizer<B::InnerBackend>,
{
    let AdaptorRecord::V1(state) = record;
    match state {
        AdaptorRecordV1::Rank0(_) => 0,
        AdaptorRecordV1::Rank1(_) => 1,
        AdaptorRecordV1::Rank2(_) => 2,
        AdaptorRecordV1::Rank3(_) => 3,
        AdaptorRecordV1::Rank4(_) => 4,
        AdaptorRecordV1::Rank5(_) => 5,
        AdaptorRecordV1::Rank6(_) => 6,
        AdaptorRecordV1::Rank7(_) => 7,
        AdaptorRecordV1::Rank8(_) => 8,
    }
}

/// Shape of the moments in a record.
pub fn moment_shape<B>(record: &AdaptorRecord<AdamW, B>) -> Vec<usize>
where
    B: AutodiffBackend<InnerBackend: MoeBackend>,
{
    fn dims<B: MoeBackend, const D: usize>(state: &AdamWState<B, D>) -> Vec<usize> {
        state.momentum.moment_1.dims().to_vec()
    }
    let AdaptorRecord::V1(state) = record;
    match state {
        AdaptorRecordV1::Rank0(_) => Vec::new(),
        AdaptorRecordV1::Rank1(state) => dims(state),
        AdaptorRecordV1::Rank2(state) => dims(state),
        AdaptorRecordV1::Rank3(state) => dims(state),
        AdaptorRecordV1::Rank4(state) => dims(state),
        AdaptorRecordV1::Rank5(state) => dims(state),
        AdaptorRecordV1::Rank6(state) => dims(state),
        AdaptorRecordV1::Rank7(state) => dims(state),
        AdaptorRecordV1::Rank8(state) => dims(state),
    }
}
