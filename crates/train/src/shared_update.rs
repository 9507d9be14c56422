//! Updates of parameters that several devices hold alike: each device sums and updates its own elements, and gets those of
//! the others back.

use std::{collections::HashMap, ops::Range};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::{GradientsParams, record::AdaptorRecord},
    tensor::{Tensor, backend::Backend},
};
use upcycle_kernels::{AdamW, AdamWRecord, MoeAutodiffBackend, MoeBackend, adamw::state_of_rank};
use upcycle_lm::Lm;

use crate::{
    crew::Crew,
    error::TrainError,
    placement::{Bucket, buckets},
};

/// The elements of a parameter, flat, by Burn's id.
type Flat<B> = HashMap<ParamId, Tensor<B, 1>>;

/// Summed gradients of the elements of a bucket that this device updates.
pub(crate) struct SharedUpdate<B: MoeAutodiffBackend> {
    bucket: Bucket,
    gradient: Tensor<B::InnerBackend, 1>,
    /// Parameters without a gradient, which stay as they are.
    unmoved: Vec<ParamId>,
}

impl<B: MoeAutodiffBackend> SharedUpdate<B> {
    /// Takes away the gradients of all parameters that other devices hold, too, and sums them over those devices.
    pub fn sum(
        model: &Lm<B>,
        crew: &Crew,
        gradients: &mut GradientsParams,
        device: &B::Device,
    ) -> Result<Vec<Self>, TrainError> {
        let sum = |bucket: Bucket| {
            let mut own = Gradients::<B> {
                bucket: &bucket,
                gradients: &mut *gradients,
                flat: HashMap::new(),
            };
            model.visit(&mut own);
            let mut own = own.flat;
            let mut unmoved = Vec::new();
            let parts = bucket.spans.iter().map(|span| {
                own.remove(&span.id).unwrap_or_else(|| {
                    unmoved.push(span.id);
                    Tensor::zeros([span.place.len()], device)
                })
            });
            let flat = Tensor::cat(parts.collect(), 0);
            Ok::<_, TrainError>(Self {
                gradient: bucket.team.sum_ranges(flat, &bucket.ranges, device)?,
                bucket,
                unmoved,
            })
        };
        buckets(model, crew).into_iter().map(sum).collect()
    }

    /// The summed squares of this device's elements, `[1]`.
    pub fn squared_norm(&self) -> Tensor<B::InnerBackend, 1> {
        B::InnerBackend::squared_norm(self.gradient.clone())
    }

    /// One step of this device's elements. Gives the parameters with everybody's, to be [`put`] into the model.
    pub fn step(
        self,
        model: &Lm<B>,
        optimizer: &mut AdamWRecord<B>,
        adamw: &AdamW,
        lr: impl Fn(ParamId) -> f64,
        device: &B::Device,
    ) -> Result<Flat<B::InnerBackend>, TrainError> {
        let own = self.bucket.own();
        let mut values = Values::<B> {
            bucket: &self.bucket,
            flat: HashMap::new(),
        };
        model.visit(&mut values);
        let mut values = values.flat;
        let mut updated = Vec::new();
        for span in &self.bucket.spans {
            let id = span.id;
            let Some(value) = values.remove(&id) else {
                continue;
            };
            if self.unmoved.contains(&id) {
                updated.push(value);
                continue;
            }
            let part = span.within(&own);
            let gradient = part.start - own.start..part.end - own.start;
            let gradient = self.gradient.clone().slice([gradient]);
            let state = optimizer.remove(&id);
            let state = state.and_then(state_of_rank::<AdamW, B, 1>);
            let (value, state) = adamw.step_elements(span.axes, lr(id), value, gradient, state);
            optimizer.insert(id, AdaptorRecord::from_state::<1>(state));
            updated.push(value);
        }
        let all = self.bucket.team.gather(Tensor::cat(updated, 0), device)?;
        let all = Tensor::cat(all, 0);
        let spans = self.bucket.spans.into_iter();
        Ok(spans
            .map(|span| (span.id, copy_of(&all, span.place)))
            .collect())
    }
}

/// A part of a tensor in memory of its own. A slice would keep the memory of the whole, and on the CPU be copied wherever it is
/// used.
pub(crate) fn copy_of<B: Backend>(whole: &Tensor<B, 1>, part: Range<usize>) -> Tensor<B, 1> {
    // It is not made in place, since the whole is still there.
    whole.clone().slice([part]).mul_scalar(1.0)
}

/// The model with other values of some parameters.
pub(crate) fn put<B: MoeAutodiffBackend>(model: Lm<B>, values: Flat<B::InnerBackend>) -> Lm<B> {
    model.map(&mut Put::<B> { values })
}

/// Takes the gradients of a bucket.
struct Gradients<'a, B: MoeAutodiffBackend> {
    bucket: &'a Bucket,
    gradients: &'a mut GradientsParams,
    flat: Flat<B::InnerBackend>,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Gradients<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(span) = self.bucket.spans.iter().find(|span| span.id == param.id) else {
            return;
        };
        if let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            let flat = gradient.reshape([span.place.len()]);
            self.flat.insert(param.id, flat);
        }
    }
}

/// The elements of a bucket's parameters that this device updates; none where it updates none.
struct Values<'a, B: MoeAutodiffBackend> {
    bucket: &'a Bucket,
    flat: Flat<B::InnerBackend>,
}

impl<B: MoeAutodiffBackend> ModuleVisitor<B> for Values<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(span) = self.bucket.spans.iter().find(|span| span.id == param.id) else {
            return;
        };
        let part = span.within(&self.bucket.own());
        if !part.is_empty() {
            let value = param.val().inner().reshape([span.place.len()]);
            let part = part.start - span.place.start..part.end - span.place.start;
            self.flat.insert(param.id, value.slice([part]));
        }
    }
}

struct Put<B: MoeAutodiffBackend> {
    values: Flat<B::InnerBackend>,
}

impl<B: MoeAutodiffBackend> ModuleMapper<B> for Put<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(value) = self.values.remove(&param.id) else {
            return param;
        };
        let (id, before, mapper) = param.consume();
        let value = Tensor::<B, D>::from_inner(value.reshape(before.dims()));
        let value = value.set_require_grad(before.is_require_grad());
        Param::from_mapped_value(id, value, mapper)
    }
}
