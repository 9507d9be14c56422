//! The upcycling stage: evidence, operator, losses before and after.

use burn::module::{AutodiffModule, Module};
use serde::{Deserialize, Serialize};
use upcycle_kernels::MoeAutodiffBackend;
use upcycle_moe::Lineage;
use upcycle_operator::{Choice, ReplicationPlan, Source, Upcycle, Verification, verify};

use crate::{
    checkpoint::{Checkpoint, check_optimizer, load_model},
    engine::UpcycleJob,
    error::TrainError,
    evaluate::{Evaluation, evaluate, validation_sequences},
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
    /// Utility of every expert of every MoE layer; empty for selections without scores.
    pub scores: Vec<Vec<f64>>,
    /// Logits and sources before and after, on some of the validation tokens.
    pub verification: Verification,
}

/// Sequences on which logits are compared.
const VERIFICATION_ROWS: usize = 16;

/// Applies the operator to a checkpoint and writes the grown model as another.
pub fn upcycle<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<UpcycleOutcome, TrainError> {
    let parent = Checkpoint::<B>::load(job.from, device)?;
    let (mut checkpoint, choice) = grow(job, &parent, device)?;
    checkpoint.tokenizer = job.data.tokenizer_json();
    let outcome = UpcycleOutcome {
        step: parent.step,
        tokens: parent.tokens,
        before: evaluate_now(&parent, job, device)?,
        after: evaluate_now(&checkpoint, job, device)?,
        verification: verify_now(&parent, &checkpoint, &choice.plan, job, device)?,
        plan: choice.plan,
        scores: choice.scores,
    };
    if !outcome.after.loss.is_finite() {
        return Err(TrainError::NotFinite {
            what: "the loss of the grown model",
            step: parent.step,
            kept: "nothing was written".into(),
        });
    }
    if let Some(to) = job.to {
        checkpoint.save(to)?;
    }
    Ok(outcome)
}

/// Applies the operator to a checkpoint.
fn grow<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    parent: &Checkpoint<B>,
    device: &B::Device,
) -> Result<(Checkpoint<B>, Choice), TrainError> {
    let spec = job.spec;
    let evidence = evidence::gather(parent, job.data, spec, device)?;
    let operator = Upcycle {
        recipe: spec.recipe.clone(),
        target_experts: spec.target_experts,
        seed: seed_of_growth(spec.seed, &parent.lineage),
    };
    let source = Source {
        config: parent.model.config().clone(),
        model: parent.model.clone().into_record(),
        optimizer: parent.optimizer.clone(),
        step: parent.step,
    };
    let upcycled = operator.apply(source, &evidence, device)?;
    let broken = |problem| TrainError::Checkpoint {
        path: job.from.to_owned(),
        problem,
    };
    let model = load_model(&upcycled.config, upcycled.model, device).map_err(broken)?;
    check_optimizer(&model, &upcycled.optimizer).map_err(broken)?;
    let layers = upcycled.choice.plan.layers.iter().enumerate();
    let lineage = layers
        .map(|(layer, plan)| {
            let before = parent.lineage.get(layer).cloned();
            let before = before.unwrap_or_else(|| Lineage::new(plan.experts()));
            before.grown(plan.sources().clone()).ok_or_else(|| {
                broken(format!(
                    "its lineage of MoE layer {layer} does not end at its experts"
                ))
            })
        })
        .collect::<Result<_, _>>()?;
    let grown = Checkpoint {
        model,
        optimizer: upcycled.optimizer,
        step: parent.step,
        tokens: parent.tokens,
        lineage,
        data: parent.data.clone(),
        tokenizer: parent.tokenizer.clone(),
    };
    Ok((grown, upcycled.choice))
}

/// Another seed for each growth of a model: the first growth's is `seed` itself.
fn seed_of_growth(seed: u64, lineage: &[Lineage]) -> u64 {
    let growths = lineage.first().map_or(0, |lineage| lineage.growths().len());
    seed.wrapping_add((growths as u64) << 32)
}

fn verify_now<B: MoeAutodiffBackend>(
    before: &Checkpoint<B>,
    after: &Checkpoint<B>,
    plan: &ReplicationPlan,
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<Verification, TrainError> {
    let context = job.spec.batch.context;
    let batches = validation_sequences(job.data, context, VERIFICATION_ROWS, device)?;
    Ok(verify(
        &before.model.valid(),
        &after.model.valid(),
        plan,
        batches,
        job.spec.precision,
    ))
}

fn evaluate_now<B: MoeAutodiffBackend>(
    checkpoint: &Checkpoint<B>,
    job: &UpcycleJob,
    device: &B::Device,
) -> Result<Evaluation, TrainError> {
    let spec = job.spec;
    evaluate(
        &checkpoint.model.valid(),
        job.data,
        spec.batch.context,
        spec.evaluation_rows,
        &checkpoint.lineage,
        spec.precision,
        device,
    )
}
