//! The steps and evaluations of a stage.

use std::time::Instant;

use upcycle_data::{Dataset, Split};
use upcycle_kernels::MoeAutodiffBackend;

use crate::{
    checkpoint::Checkpoint,
    config::{BatchConfig, LearnerConfig, TrainSpec},
    crew::Crew,
    error::TrainError,
    evaluate::Evaluation,
    job::TrainJob,
    learner::Learner,
    metrics::{LayerRouting, MetricsLine, now},
    pace::{Pace, rate},
};

/// A learner and the specification of its steps.
pub(crate) struct Stepper<'a, B: MoeAutodiffBackend> {
    spec: &'a TrainSpec,
    learner: Learner<B>,
    /// Of the steps since the last evaluation.
    pace: Pace,
}

impl<'a, B: MoeAutodiffBackend> Stepper<'a, B> {
    /// Goes on from a checkpoint, of which each device of a crew has its share.
    pub fn new(job: &TrainJob<'a>, state: Checkpoint<B>, device: &B::Device, crew: &Crew) -> Self {
        let config = LearnerConfig {
            passes: job.passes,
            ..job.spec.learner()
        };
        Self {
            spec: job.spec,
            learner: Learner::resume(state, config, device).in_crew(crew.clone()),
            pace: Pace::default(),
        }
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.learner.step()
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.learner.tokens()
    }

    /// One optimizer step.
    pub fn train_step(&mut self, data: &Dataset) -> Result<MetricsLine, TrainError> {
        let started = Instant::now();
        let spec = self.spec;
        let BatchConfig {
            rows,
            context,
            accumulation,
        } = spec.batch;
        for pass in 0..accumulation {
            let (split, index) = spec.data.position(self.step(), pass, accumulation);
            let batch = data.batch(split, spec.data.seed, index, rows, context)?;
            self.learner.accumulate(&batch);
        }
        let lr = spec.schedule.lr(self.step());
        let update = self.learner.update(lr)?;
        let seconds = started.elapsed().as_secs_f64();
        let tokens = spec.batch.tokens();
        let line = MetricsLine::Step {
            step: self.step(),
            tokens: self.tokens(),
            loss: update.loss,
            gradient_norm: update.gradient_norm,
            lr,
            seconds,
            tokens_per_second: Some(rate(tokens, seconds)),
            time: Some(now()),
        };
        self.pace.add(&line, tokens);
        Ok(line)
    }

    /// Loss and routing on the validation split.
    pub fn validate(&self, data: &Dataset) -> Result<Evaluation, TrainError> {
        let (context, rows) = (self.spec.batch.context, self.spec.evaluation.rows);
        self.learner
            .evaluate(data, Split::Validation, context, rows)
    }

    /// Loss on the test split; none if the stage is not to be tested.
    pub fn test(&self, data: &Dataset) -> Result<Option<f64>, TrainError> {
        let (context, rows) = (self.spec.batch.context, self.spec.evaluation.test_rows);
        if rows == 0 {
            return Ok(None);
        }
        let evaluation = self.learner.evaluate(data, Split::Test, context, rows)?;
        Ok(Some(evaluation.loss))
    }

    /// The line of an evaluation, with the pace of the steps since the one before.
    pub fn evaluation_line(&mut self, evaluation: &Evaluation) -> MetricsLine {
        let pace = std::mem::take(&mut self.pace);
        MetricsLine::Evaluation {
            step: self.step(),
            tokens: self.tokens(),
            loss: evaluation.loss,
            twins: evaluation.twins,
            lr: pace.lr(),
            gradient_norm: pace.gradient_norm(),
            tokens_per_second: pace.tokens_per_second(),
            routing: evaluation.routing.iter().map(LayerRouting::from).collect(),
            time: Some(now()),
        }
    }

    /// All that is needed to go on from here.
    pub fn checkpoint(&self) -> Checkpoint<B> {
        self.learner.checkpoint()
    }
}
