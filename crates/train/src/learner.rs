//! A model that learns: its parameters, its optimizer and where it is in its training, in memory.

use std::{borrow::Cow, num::NonZeroUsize, ops::Range};

use burn::{
    module::{AutodiffModule, ParamId},
    optim::{GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::Tensor,
};
use upcycle_data::{Batch, Dataset, Split};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend};
use upcycle_lm::{Lm, Objective};
use upcycle_moe::MoeModel;
use upcycle_operator::{Evidence, ForwardPass, Grown, Measurement, Recipe, Share, Upcycle};

use crate::{
    checkpoint::Checkpoint,
    config::{LearnerConfig, MeasureConfig},
    crew::Crew,
    error::TrainError,
    evaluate::{Evaluation, blank, evaluate, tensors},
    gradients,
    shared_update::{SharedUpdate, put},
    whole_moments,
};

/// A model, its optimizer and the steps that it has taken, in memory.
///
/// A step is any number of [`accumulate`](Self::accumulate)d batches and one [`update`](Self::update). Between two steps the
/// model can be evaluated, grown and written down; what follows is the same as from a checkpoint that was written, grown
/// and read again, to the last bit on the CPU.
pub struct Learner<B: MoeAutodiffBackend> {
    /// None only inside of [`update`](Self::update).
    model: Option<Lm<B>>,
    optimizer: AdamWRecord<B>,
    config: LearnerConfig,
    step: u64,
    tokens: u64,
    /// Fingerprint of the data that it is trained on, and its tokenizer.
    data: String,
    tokenizer: Option<String>,
    sums: StepSums<B>,
    device: B::Device,
    crew: Crew,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Mean training loss of the step's batches before the update, nats a token.
    pub loss: f64,
    /// Global norm of the gradients before clipping.
    pub gradient_norm: f64,
}

/// Sums over the batches of a step.
struct StepSums<B: MoeAutodiffBackend> {
    passes: usize,
    tokens: u64,
    /// What each part of each batch adds to the loss, `[1]`; they stay on the device until the update.
    losses: Vec<Tensor<B::InnerBackend, 1>>,
    gradients: GradientsParams,
    /// Tokens of every expert of every MoE layer, `[E]` each.
    loads: Vec<Tensor<B, 1>>,
}

impl<B: MoeAutodiffBackend> Default for StepSums<B> {
    fn default() -> Self {
        Self {
            passes: 0,
            tokens: 0,
            losses: Vec::new(),
            gradients: GradientsParams::new(),
            loads: Vec::new(),
        }
    }
}

impl<B: MoeAutodiffBackend> Learner<B> {
    /// A learner that has taken no step.
    pub fn new(model: Lm<B>, config: LearnerConfig, device: &B::Device) -> Self {
        Self::resume(Checkpoint::of_model(model), config, device)
    }

    /// Goes on from a checkpoint.
    pub fn resume(checkpoint: Checkpoint<B>, config: LearnerConfig, device: &B::Device) -> Self {
        Self {
            model: Some(checkpoint.model),
            optimizer: checkpoint.optimizer,
            config,
            step: checkpoint.step,
            tokens: checkpoint.tokens,
            data: checkpoint.data,
            tokenizer: checkpoint.tokenizer,
            sums: StepSums::default(),
            device: device.clone(),
            crew: Crew::alone(),
        }
    }

    /// The same learner as one of several devices that take the same steps, of whose checkpoint it has its share.
    pub(crate) fn in_crew(self, crew: Crew) -> Self {
        Self { crew, ..self }
    }

    /// The same learner, whose checkpoints say that it is trained on this data.
    #[must_use]
    pub fn on(self, data: &Dataset) -> Self {
        Self {
            data: data.fingerprint().to_owned(),
            tokenizer: data.tokenizer_json(),
            ..self
        }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Lm<B> {
        match &self.model {
            Some(model) => model,
            None => unreachable!("an update puts the model back"),
        }
    }

    /// State of the optimizer.
    pub fn optimizer(&self) -> &AdamWRecord<B> {
        &self.optimizer
    }

    /// Optimizer steps done since the model was new.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Tokens seen since the model was new.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Forward and backward pass of a batch, added to what the next update is made of.
    pub fn accumulate(&mut self, batch: &Batch) {
        let (scored, rows) = (batch.scored(), batch.rows);
        let own = self.crew.share(rows);
        for part in parts(own, self.config.passes.micro_batches) {
            let objective = Objective {
                scored,
                share: part.len() as f32 / rows as f32,
                balancing: &self.config.balancing,
                precision: self.config.precision,
                recompute: self.config.passes.recompute,
            };
            let part = match part.len() == rows {
                true => Cow::Borrowed(batch),
                false => Cow::Owned(batch.part(part)),
            };
            let (inputs, targets) = tensors::<B>(&part, &self.device);
            let sum = std::mem::take(&mut self.sums.gradients);
            let backward = self.model().backward(inputs, targets, &objective, sum);
            self.sums.gradients = backward.gradients;
            self.sums.losses.push(backward.loss);
            for (layer, load_e) in backward.loads.into_iter().enumerate() {
                match self.sums.loads.get_mut(layer) {
                    Some(load) => *load = load.clone() + load_e,
                    None => self.sums.loads.push(load_e),
                }
            }
        }
        self.sums.passes += 1;
        self.sums.tokens += (rows * batch.context) as u64;
    }

    /// One step on all that was accumulated: parameters, moments and selection biases. Gradients of several batches are
    /// averaged.
    ///
    /// # Errors
    /// If nothing was accumulated, the loss or the gradients are not finite, or another device failed. What was accumulated is
    /// dropped; the model is then as it was, unless the other device failed in the middle of the update.
    pub fn update(&mut self, lr: f64) -> Result<Update, TrainError> {
        let mut sums = std::mem::take(&mut self.sums);
        if sums.passes == 0 {
            return Err(TrainError::NothingAccumulated { step: self.step });
        }
        self.crew.check()?;
        let (device, gradients) = (&self.device, &mut sums.gradients);
        let shared = SharedUpdate::sum(self.model(), &self.crew, gradients, device)?;
        let loads = sums.loads.drain(..).map(Tensor::inner).collect();
        let loads = self.crew.sum_tensors(loads, device)?;
        let update = self.means(&sums, &shared)?;
        for (what, value) in [
            ("the training loss", update.loss),
            ("the gradient norm", update.gradient_norm),
        ] {
            if !value.is_finite() {
                let step = self.step;
                return Err(TrainError::NotFinite { what, step });
            }
        }
        let mut adamw = self.config.optimizer.adamw(update.gradient_norm);
        adamw.gradient_scale /= sums.passes as f32;
        let boosted = self.model().boosted();
        let factor = |id: ParamId| {
            let boost = boosted.iter().find(|(boosted, _)| *boosted == id);
            boost.map_or(1.0, |(_, factor)| *factor)
        };
        for bucket in shared {
            let lr = |id| lr * f64::from(factor(id));
            let Some(model) = &self.model else {
                unreachable!("it is put back below")
            };
            let values = bucket.step(model, &mut self.optimizer, &adamw, lr, &self.device)?;
            self.model = self.model.take().map(|model| put(model, values));
        }
        let record = std::mem::take(&mut self.optimizer);
        let mut optimizer = OptimizerAdaptor::from(adamw).load_record(record);
        // The model is given away, so that its parameters can be updated in place.
        if let Some(mut model) = self.model.take() {
            for (factor, gradients) in gradients::by_learning_rate(&model, sums.gradients, &boosted)
            {
                model = optimizer.step(lr * f64::from(factor), model, gradients);
            }
            let loads: Vec<Tensor<B, 1>> = loads.into_iter().map(Tensor::from_inner).collect();
            model.balance(&loads, &self.config.balancing);
            self.step += 1;
            model.at_step(self.step);
            self.model = Some(model);
        }
        self.optimizer = optimizer.to_record();
        self.tokens += sums.tokens;
        Ok(update)
    }

    /// Means over the batches and all devices, read from the device at once.
    fn means(&self, sums: &StepSums<B>, shared: &[SharedUpdate<B>]) -> Result<Update, TrainError> {
        let squares = gradients::squared_norm(self.model(), &sums.gradients, &self.device);
        // Whatever gradients a device has here, no other one has the same.
        let squares = [squares]
            .into_iter()
            .chain(shared.iter().map(SharedUpdate::squared_norm));
        let losses = sums.losses.iter().cloned();
        let numbers = Tensor::cat(losses.chain(squares).collect(), 0).into_data();
        let mut losses: Vec<f64> = numbers.iter().collect();
        let squares = losses.split_off(sums.losses.len());
        let own: [f64; 2] = [losses.iter().sum(), squares.iter().sum()];
        let [loss, squared_norm] = self.crew.sums(own)?;
        let passes = sums.passes as f64;
        Ok(Update {
            loss: loss / passes,
            gradient_norm: squared_norm.sqrt() / passes,
        })
    }

    /// Loss and routing on the first `rows` sequences of `context` tokens of a split, such as
    /// [`Split::Validation`].
    ///
    /// # Errors
    /// If the data cannot be read, the loss is not finite, or another device failed.
    pub fn evaluate(
        &self,
        data: &Dataset,
        split: Split,
        context: usize,
        rows: usize,
    ) -> Result<Evaluation, TrainError> {
        let model = self.model().valid();
        let evaluation = evaluate(
            &model,
            (data, split),
            context,
            rows,
            self.config.precision,
            &self.crew,
            &self.device,
        )?;
        if !evaluation.loss.is_finite() {
            return Err(TrainError::NotFinite {
                what: match split {
                    Split::Test => "the test loss",
                    _ => "the validation loss",
                },
                step: self.step,
            });
        }
        Ok(evaluation)
    }

    /// Measures what a recipe needs to know, and nothing else. Each device runs its share of every batch, and all get the same
    /// evidence.
    ///
    /// # Errors
    /// If the data cannot be read, or another device failed.
    pub fn measure(
        &self,
        recipe: &Recipe,
        data: &Dataset,
        config: &MeasureConfig,
    ) -> Result<Evidence, TrainError> {
        let MeasureConfig {
            batches,
            data_seed,
            rows,
            context,
        } = *config;
        let forward = |model: &Lm<B>, index| {
            let batch = data.batch(Split::Cpt, data_seed, index, rows, context)?;
            let own = self.crew.uneven_share(rows);
            let counts = !own.is_empty();
            let part = match counts {
                true => batch.part(own),
                false => blank(context),
            };
            let (inputs, targets) = tensors::<B>(&part, &self.device);
            let output = model.forward(inputs, targets, self.config.precision);
            let pass = ForwardPass {
                loss: output.loss_t.sum() / batch.scored() as f32,
                routing: output.routing,
            };
            Ok::<_, TrainError>(Share { pass, counts })
        };
        let (model, crew) = (self.model(), &self.crew);
        let optimizer = match recipe.measurements().contains(&Measurement::SecondMoments) {
            true => {
                let parts = self.optimizer.clone();
                Cow::Owned(whole_moments::gather(model, crew, parts, &self.device)?)
            }
            false => Cow::Borrowed(&self.optimizer),
        };
        Evidence::gather_in_team(&crew.all, recipe, model, &*optimizer, batches, forward)
    }

    /// Grows the experts between two steps; the operator counts from this learner's step.
    ///
    /// # Errors
    /// If the recipe cannot be carried out, or batches have been accumulated, whose gradients are those of the small model;
    /// nothing has been changed then. If another device failed, the learner is of no use any more.
    pub fn grow(&mut self, operator: &Upcycle, evidence: &Evidence) -> Result<Grown, TrainError> {
        if self.sums.passes > 0 {
            return Err(TrainError::GrownInAStep { step: self.step });
        }
        let operator = operator.clone().at_step(self.step);
        let Some(model) = &mut self.model else {
            unreachable!("an update puts the model back")
        };
        let is_dense = model.moe_layers().next().is_none();
        let (crew, parts) = (&self.crew, std::mem::take(&mut self.optimizer));
        let mut optimizer = whole_moments::gather(model, crew, parts, &self.device)?;
        let grown = match operator.recipe.dense {
            Some(_) if is_dense => operator.grow_dense_in_team(&crew.group, model, &mut optimizer),
            _ => operator.grow(model, &mut optimizer, evidence),
        };
        self.optimizer = whole_moments::cut(model, crew, optimizer);
        Ok(grown?)
    }

    /// All that is needed to go on from here, without what was accumulated. Tensors are shared, not copied.
    pub fn checkpoint(&self) -> Checkpoint<B> {
        Checkpoint {
            optimizer: self.optimizer.clone(),
            step: self.step,
            tokens: self.tokens,
            data: self.data.clone(),
            tokenizer: self.tokenizer.clone(),
            ..Checkpoint::of_model(self.model().clone())
        }
    }
}

/// `count` ranges of almost equal lengths, or as many as there are sequences.
fn parts(rows: Range<usize>, count: NonZeroUsize) -> impl Iterator<Item = Range<usize>> {
    let length = rows.len().div_ceil(count.get()).max(1);
    let end = rows.end;
    rows.step_by(length)
        .map(move |first| first..end.min(first + length))
}
