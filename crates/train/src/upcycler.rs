//! The upcycling stage: evidence, operator, losses before and after.

use std::sync::atomic::Ordering;

use burn::module::AutodiffModule;
use upcycle_data::Split;
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_operator::{ReplicationPlan, Upcycle, Verification, verify};

use crate::{
    checkpoint::Checkpoint,
    config::{LearnerConfig, MeasureConfig},
    error::TrainError,
    evaluate::{Evaluation, validation_sequences},
    job::{UpcycleJob, UpcycleOutcome},
    learner::Learner,
};

/// Sequences on which logits are compared.
const VERIFICATION_ROWS: usize = 16;

/// Applies the operator to a checkpoint and writes the grown model as another.
pub fn upcycle<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<UpcycleOutcome, TrainError> {
    let spec = job.spec;
    let parent = Checkpoint::<B>::load(job.from, device)?;
    let before = parent.model.valid();
    let config = LearnerConfig {
        precision: spec.precision,
        ..LearnerConfig::default()
    };
    let mut learner = Learner::resume(parent, config, device);
    let measure = MeasureConfig {
        batches: spec.evidence_batches,
        data_seed: spec.data_seed,
        rows: spec.batch.rows,
        context: spec.batch.context,
    };
    let go_on = || match job.stop.load(Ordering::Relaxed) {
        true => Err(TrainError::InterruptedGrowth),
        false => Ok(()),
    };
    go_on()?;
    let evidence = learner.measure(&spec.recipe, job.data, &measure)?;
    let evaluate = |learner: &Learner<B>| -> Result<Evaluation, TrainError> {
        learner.evaluate(
            job.data,
            Split::Validation,
            spec.batch.context,
            spec.evaluation_rows,
        )
    };
    go_on()?;
    let before_loss = evaluate(&learner)?;
    go_on()?;
    let operator = Upcycle::new(spec.recipe.clone(), spec.target_experts).with_seed(spec.seed);
    let grown = learner.grow(&operator, &evidence)?;
    go_on()?;
    let outcome = UpcycleOutcome {
        step: learner.step(),
        tokens: learner.tokens(),
        before: before_loss,
        after: evaluate(&learner).map_err(|error| match error {
            TrainError::NotFinite { .. } => TrainError::NotFiniteAfterGrowing,
            other => other,
        })?,
        verification: verify_now::<B>(&before, &learner, &grown.choice.plan, job, device)?,
        plan: grown.choice.plan,
        scores: grown.choice.scores,
        deviations: grown.deviations,
        kernels: Some(B::InnerBackend::kernels(device, spec.precision)),
    };
    go_on()?;
    if let Some(to) = job.to {
        learner.checkpoint().save(to)?;
    }
    Ok(outcome)
}

fn verify_now<B: MoeAutodiffBackend>(
    before: &upcycle_lm::Lm<B::InnerBackend>,
    learner: &Learner<B>,
    plan: &ReplicationPlan,
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<Verification, TrainError> {
    let context = job.spec.batch.context;
    let after = learner.model().valid();
    let batches = validation_sequences(job.data, context, VERIFICATION_ROWS, device)?;
    Ok(verify(
        &plan.sources(),
        batches,
        |tokens| before.logits(tokens, job.spec.precision),
        |tokens| after.logits(tokens, job.spec.precision),
    ))
}
