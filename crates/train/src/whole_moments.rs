//! Moments as a whole, where each device keeps those of its own elements alone: a model is grown with them.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{AdamWState, AdaptiveMomentumState, record::AdaptorRecord},
    tensor::Tensor,
};
use upcycle_kernels::{AdamW, AdamWRecord, MoeAutodiffBackend, adamw::state_of_rank};
use upcycle_lm::Lm;

use crate::{
    crew::Crew,
    error::TrainError,
    placement::{Bucket, buckets},
    shared_update::copy_of,
};

/// The moments of all parameters that this device holds, in their shapes, from the parts of all devices. Where devices share
/// the experts, they are those of its block. All devices have to call it.
pub(crate) fn gather<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    crew: &Crew,
    mut optimizer: AdamWRecord<B>,
    device: &B::Device,
) -> Result<AdamWRecord<B>, TrainError> {
    for bucket in buckets(model, crew) {
        let (mut times, mut parts) = (Vec::new(), [Vec::new(), Vec::new()]);
        for span in &bucket.spans {
            let state = optimizer.remove(&span.id);
            let state = state.and_then(state_of_rank::<AdamW, B, 1>);
            times.push(state.as_ref().map(|state| state.momentum.time));
            let length = span.within(&bucket.own()).len();
            let moments = match state {
                Some(state) => [state.momentum.moment_1, state.momentum.moment_2],
                None if length == 0 => continue,
                None => [(); 2].map(|()| Tensor::zeros([length], device)),
            };
            (parts.iter_mut().zip(moments)).for_each(|(parts, moment)| parts.push(moment));
        }
        // A device without elements of a parameter does not know its steps.
        let of_members: Vec<Vec<Option<usize>>> = bucket.team.gather_values(&times)?;
        let known = |place: usize| of_members.iter().find_map(|times| times[place]);
        let times: Vec<_> = (0..times.len()).map(known).collect();
        if times.iter().all(Option::is_none) {
            continue;
        }
        let whole = |parts: Vec<Tensor<B::InnerBackend, 1>>| {
            let all = bucket.team.gather(Tensor::cat(parts, 0), device)?;
            Ok::<_, TrainError>(Tensor::cat(all, 0))
        };
        let [first, second] = parts;
        model.visit(&mut Put {
            bucket: &bucket,
            times,
            moments: [whole(first)?, whole(second)?],
            optimizer: &mut optimizer,
        });
    }
    Ok(optimizer)
}

/// Keeps the moments of this device's own elements alone.
pub(crate) fn cut<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    crew: &Crew,
    mut optimizer: AdamWRecord<B>,
) -> AdamWRecord<B> {
    for bucket in &buckets(model, crew) {
        model.visit(&mut Cut {
            bucket,
            optimizer: &mut optimizer,
        });
    }
    optimizer
}

/// Puts the moments of a bucket's parameters into a record.
struct Put<'a, B: MoeAutodiffBackend> {
    bucket: &'a Bucket,
    /// Steps of each parameter; none of those without moments.
    times: Vec<Option<usize>>,
    /// First and second moments of the bucket.
    moments: [Tensor<B::InnerBackend, 1>; 2],
    optimizer: &'a mut AdamWRecord<B>,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Put<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let mut spans = self.bucket.spans.iter().zip(&self.times);
        let Some((span, &Some(time))) = spans.find(|(span, _)| span.id == param.id) else {
            return;
        };
        let [first, second] = (self.moments.each_ref())
            .map(|moments| copy_of(moments, span.place.clone()).reshape(param.dims()));
        let state = AdamWState::new(AdaptiveMomentumState::new(time, first, second));
        let state = AdaptorRecord::from_state::<D>(state);
        self.optimizer.insert(param.id, state);
    }
}

/// Leaves of a bucket's moments what is this device's.
struct Cut<'a, B: MoeAutodiffBackend> {
    bucket: &'a Bucket,
    optimizer: &'a mut AdamWRecord<B>,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Cut<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let mut spans = self.bucket.spans.iter();
        let Some(span) = spans.find(|span| span.id == param.id) else {
            return;
        };
        let state = self.optimizer.remove(&span.id);
        let part = span.within(&self.bucket.own());
        let Some(state) = state.and_then(state_of_rank::<AdamW, B, D>) else {
            return;
        };
        if part.is_empty() {
            return;
        }
        let part = part.start - span.place.start..part.end - span.place.start;
        let cut = |moment: Tensor<B::InnerBackend, D>| {
            copy_of(&moment.reshape([span.place.len()]), part.clone())
        };
        let moments = state.momentum;
        let [first, second] = [moments.moment_1, moments.moment_2].map(cut);
        let state = AdamWState::new(AdaptiveMomentumState::new(moments.time, first, second));
        let state = AdaptorRecord::from_state::<1>(state);
        self.optimizer.insert(span.id, state);
    }
}
