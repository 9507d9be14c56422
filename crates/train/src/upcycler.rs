//! The upcycling stage: evidence, operator, losses before and after.

use burn::module::{AutodiffModule, Module};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_lm::Lm;
use upcycle_moe::ExpertSources;
use upcycle_operator::{ReplicationPlan, Upcycle};

use crate::{
    checkpoint::{Checkpoint, check_optimizer, load_model},
    engine::UpcycleJob,
    error::TrainError,
    evaluate::{Evaluation, evaluate},
    evidence,
};

/// Result of an upcycling stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpcycleOutcome {
    /// Steps done before the operator (tau).
    pub step: u64,
    /// Tokens seen before the operator.
    pub tokens: u64,
    /// Validation right before.
    pub before: Evaluation,
    /// Validation right after, before any training.
    pub after: Evaluation,
    /// What was copied.
    pub plan: ReplicationPlan,
}

/// Applies the operator to a checkpoint and writes the grown model as another.
pub fn upcycle<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<UpcycleOutcome, TrainError> {
    let parent = Checkpoint::<B>::load(job.from, device)?;
    let (mut grown, plan) = grow(job, &parent, device)?;
    grown.tokenizer = job.data.tokenizer_json();
    let outcome = UpcycleOutcome {
        step: parent.step,
        tokens: parent.tokens,
        before: evaluate_now(&parent.model, &parent.lineage, job, device)?,
        after: evaluate_now(&grown.model, &grown.lineage, job, device)?,
        plan,
    };
    if let Some(to) = job.to {
        grown.save(to)?;
    }
    Ok(outcome)
}

/// Applies the operator to a checkpoint.
fn grow<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    parent: &Checkpoint<B>,
    device: &B::Device,
) -> Result<(Checkpoint<B>, ReplicationPlan), TrainError> {
    let spec = job.spec;
    let evidence = evidence::gather(&parent.model, job.data, spec, device)?;
    let operator = Upcycle {
        recipe: spec.recipe.clone(),
        target_experts: spec.target_experts,
        seed: spec.seed,
    };
    let upcycled = operator.apply(
        parent.model.config(),
        parent.model.clone().into_record(),
        parent.optimizer.clone(),
        &evidence,
        device,
    )?;
    let broken = |problem| TrainError::Checkpoint {
        path: job.from.to_owned(),
        problem,
    };
    let model = load_model(&upcycled.config, upcycled.model, device).map_err(broken)?;
    check_optimizer(&model, &upcycled.optimizer).map_err(broken)?;
    let lineage = upcycled
        .plan
        .layers
        .iter()
        .zip(&parent.lineage)
        .filter_map(|(plan, before)| plan.lineage(before))
        .collect();
    let grown = Checkpoint {
        model,
        optimizer: upcycled.optimizer,
        step: parent.step,
        tokens: parent.tokens,
        lineage,
        data: parent.data.clone(),
        tokenizer: parent.tokenizer.clone(),
    };
    Ok((grown, upcycled.plan))
}

fn evaluate_now<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    lineage: &[ExpertSources],
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<Evaluation, TrainError> {
    let spec = job.spec;
    evaluate(
        &model.valid(),
        job.data,
        spec.batch.context,
        spec.evaluation_rows,
        lineage,
        spec.precision,
        device,
    )
}
