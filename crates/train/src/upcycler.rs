//! The upcycling stage: evidence, operator, losses before and after.

use std::sync::atomic::Ordering;

use burn::module::AutodiffModule;
use upcycle_data::Split;
use upcycle_kernels::{MoeAutodiffBackend, MoeBackend};
use upcycle_operator::{ReplicationPlan, Upcycle, Verification, verify};

use crate::{
    checkpoint::Checkpoint,
    config::{LearnerConfig, MeasureConfig},
    crew::Crew,
    devices::on_devices,
    error::TrainError,
    evaluate::{Evaluation, validation_sequences},
    job::{UpcycleJob, UpcycleOutcome},
    learner::Learner,
};

/// Sequences on which logits are compared.
const VERIFICATION_ROWS: usize = 16;

/// Applies the operator on several devices of this process.
pub(crate) fn upcycle_on_devices<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    devices: &[B::Device],
    expert_parallel: usize,
) -> Result<UpcycleOutcome, TrainError> {
    let grow = |device: &B::Device, crew: &Crew| upcycle::<B>(job, crew, device);
    on_devices::<B, _>(devices, expert_parallel, grow, grow)
}

/// Applies the operator to a checkpoint and writes the grown model as another. All devices of a crew have to, with the same
/// job, and each has its share of both.
pub(crate) fn upcycle<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    crew: &Crew,
    device: &B::Device,
) -> Result<UpcycleOutcome, TrainError> {
    let outcome = grow::<B>(job, crew, device);
    if let Err(error) = &outcome
        && !error.is_of_all()
    {
        crew.all.fail(&error.to_string());
    }
    outcome
}

fn grow<B: MoeAutodiffBackend>(
    job: &UpcycleJob,
    crew: &Crew,
    device: &B::Device,
) -> Result<UpcycleOutcome, TrainError> {
    let spec = job.spec;
    let operator = Upcycle::new(spec.recipe.clone(), spec.target_experts).with_seed(spec.seed);
    operator.check_members(crew.group.size())?;
    let parent = Checkpoint::<B>::load_by(job.from, crew, device)?;
    let before = parent.model.valid();
    let config = LearnerConfig {
        precision: spec.precision,
        ..LearnerConfig::default()
    };
    let mut learner = Learner::resume(parent, config, device).in_crew(crew.clone());
    let measure = MeasureConfig {
        batches: spec.evidence_batches,
        data_seed: spec.data_seed,
        rows: spec.batch.rows,
        context: spec.batch.context,
    };
    let go_on = || match crew.greatest(job.stop.load(Ordering::Relaxed))? {
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
        learner.checkpoint().save_by(to, crew)?;
    }
    Ok(outcome)
}

/// The models of all devices, each of which runs the same sequences.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path, sync::atomic::AtomicBool};

    use burn::backend::Autodiff;
    use burn_flex::{Flex, FlexDevice};
    use serde_json::json;
    use upcycle_data::{DataConfig, Dataset};
    use upcycle_lm::LmConfig;

    use super::*;
    use crate::config::{BatchConfig, UpcycleSpec};

    type B = Autodiff<Flex>;

    fn data() -> Dataset {
        Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap()
    }

    /// A checkpoint of some steps of one device.
    fn parent(to: &Path) {
        let model: LmConfig = serde_json::from_value(json!({
            "vocab": 144, "context": 32, "d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1,
            "experts": 4, "top_k": 2, "d_expert": 16,
        }))
        .unwrap();
        let model = model.init::<B>(0, &FlexDevice).unwrap();
        let mut learner = Learner::new(model, LearnerConfig::default(), &FlexDevice).on(&data());
        for step in 0..3 {
            let batch = data().batch(Split::Pretrain, 0, step, 4, 32);
            learner.accumulate(&batch.unwrap());
            learner.update(1e-2).unwrap();
        }
        learner.checkpoint().save(to).unwrap();
    }

    #[test]
    fn devices_that_share_a_model_grow_it_as_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("parent");
        parent(&from);
        let recipe = json!({
            "name": "test",
            "selection": { "kind": "greedy", "score": "fisher", "cap": 3 },
            "experts": { "kind": "interpolate", "weight": 0.2 },
            "router": { "kind": "two-level", "tie_break": "random", "strength": 0.3 },
            "optimizer": { "kind": "scale", "adaptive": true },
        });
        let spec = |target_experts| UpcycleSpec {
            recipe: serde_json::from_value(recipe.clone()).unwrap(),
            target_experts,
            seed: 1,
            evidence_batches: 2,
            data_seed: 0,
            batch: BatchConfig {
                // Not as many as devices.
                rows: 3,
                context: 32,
                accumulation: 1,
            },
            precision: Default::default(),
            evaluation_rows: 4,
        };
        let grow = |devices: usize, expert_parallel, target| {
            let to = dir.path().join(format!("{devices}-{expert_parallel}"));
            let job = UpcycleJob {
                spec: &spec(target),
                from: &from,
                to: Some(&to),
                data: &data(),
                stop: &AtomicBool::new(false),
            };
            let devices = vec![FlexDevice; devices];
            let outcome = upcycle_on_devices::<B>(&job, &devices, expert_parallel)?;
            let files = ["model.safetensors", "optimizer.safetensors"];
            let files = files.map(|name| fs::read(to.join(name)).unwrap());
            Ok::<_, TrainError>((outcome, files))
        };
        let (alone, expected) = grow(1, 1, 8).unwrap();
        for (devices, expert_parallel) in [(2, 1), (2, 2), (4, 2)] {
            let (outcome, files) = grow(devices, expert_parallel, 8).unwrap();
            assert_eq!(outcome.plan, alone.plan);
            assert!((outcome.after.loss - alone.after.loss).abs() < 1e-5);
            let [own, one] = [&outcome, &alone].map(|it| it.verification.loss_after);
            assert!((own - one).abs() < 1e-5);
            assert!(
                files == expected,
                "{devices} devices, {expert_parallel} for experts"
            );
        }
        let uneven = grow(4, 4, 6).err().unwrap().to_string();
        assert!(uneven.contains("multiple of 4"), "{uneven}");
    }
}
