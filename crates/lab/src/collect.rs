//! From the results of stages to the rows of a report.

use std::collections::BTreeSet;

use upcycle_kernels::Kernels;
use upcycle_lm::CostModel;
use upcycle_moe::RoutingStats;
use upcycle_operator::LayerVerification;
use upcycle_report::{
    Arm, Cell, Curve, Overrides, RecipeRow, Results, RoutingRow, TwinPoint, statistics::gap_closure,
};
use upcycle_train::{MetricsLine, Twins, UpcycleOutcome};

use crate::{
    environment::environment,
    error::LabError,
    graph::{Stage, StageGraph},
    plan::{CellPlan, SweepPlan},
    stage::StageKey,
    store::{StageResult, Store},
    sweep::SweepConfig,
};

/// Rows of a finished sweep.
///
/// `engine` names backend and device, `floor` is the entropy rate of the data in nats, `command` reproduces the sweep.
///
/// # Errors
/// If stages are missing or damaged.
pub fn collect(
    config: &SweepConfig,
    plan: &SweepPlan,
    store: &Store,
    (backend, device): (&str, &str),
    floor: Option<f64>,
    command: String,
) -> Result<Results, LabError> {
    let missing = plan
        .graph
        .stages()
        .iter()
        .filter(|stage| !store.is_finished(&stage.key))
        .count();
    if missing > 0 {
        return Err(LabError::Unfinished {
            missing,
            total: plan.graph.len(),
        });
    }
    let collector = Collector {
        graph: &plan.graph,
        store,
    };
    let mut results = Results {
        name: config.name.clone(),
        command,
        config: toml::to_string_pretty(config).map_err(|error| LabError::Parse {
            place: "the sweep's configuration".into(),
            problem: error.to_string(),
        })?,
        overrides: Overrides {
            tokens: config.tokens,
            vocab: config.vocab,
            context: config.context,
            peak_lr: config.peak_lr,
        },
        environment: environment(backend, device),
        floor,
        notes: plan.notes(),
        baseline: None,
        recipes: recipes(&plan.cells),
        cells: Vec::new(),
        curves: Vec::new(),
        routing: Vec::new(),
        tasks: Vec::new(),
    };
    let mut seen = BTreeSet::new();
    for cell in &plan.cells {
        results.cells.push(collector.cell(cell, backend)?);
        for (arm, key) in [
            (Arm::FixedE, &cell.fixed_e),
            (Arm::Upcycled, &cell.upcycled),
            (Arm::FixedMe, &cell.fixed_me),
        ] {
            // Recipes share Fixed-E and Fixed-mE; targets share Fixed-E, and recipes that do the same their stages, but each has
            // a curve of its own.
            let recipe = (arm == Arm::Upcycled).then_some(&cell.recipe);
            if seen.insert((arm, key, cell.setting.target_experts, recipe)) {
                results.curves.push(collector.curve(cell, arm, key)?);
                results.routing.extend(collector.routing(cell, arm, key)?);
            }
        }
    }
    let kernels = results
        .cells
        .iter()
        .filter_map(|cell| cell.kernels.as_deref());
    let kernels: BTreeSet<&str> = kernels.flat_map(|names| names.split(AND)).collect();
    results.environment.kernels = joined(&kernels);
    Ok(results)
}

/// Between the names of kernels.
const AND: &str = "+";

/// Names in one; none if there are none.
fn joined(names: &BTreeSet<impl ToString>) -> Option<String> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| names.join(AND))
}

/// Every recipe once, in order of first appearance.
fn recipes(cells: &[CellPlan]) -> Vec<RecipeRow> {
    let mut recipes: Vec<RecipeRow> = Vec::new();
    for cell in cells {
        if !recipes.iter().any(|recipe| recipe.name == cell.recipe) {
            recipes.push(RecipeRow {
                name: cell.recipe.clone(),
                of_paper: cell.of_paper,
            });
        }
    }
    recipes
}

struct Collector<'a> {
    graph: &'a StageGraph,
    store: &'a Store,
}

impl Collector<'_> {
    fn cell(&self, plan: &CellPlan, backend: &str) -> Result<Cell, LabError> {
        let loss = |key| Ok::<_, LabError>(self.evaluated(key)?.0);
        let test_loss = |key| self.tested(key);
        let (fixed_e, upcycled, fixed_me) = (
            loss(&plan.fixed_e)?,
            loss(&plan.upcycled)?,
            loss(&plan.fixed_me)?,
        );
        let operator = self.upcycled(&plan.upcycle)?;
        let verified = &operator.verification;
        let layers = &verified.layers;
        let mean = |quantity: fn(&LayerVerification) -> f64| {
            layers.iter().map(quantity).sum::<f64>() / layers.len().max(1) as f64
        };
        Ok(Cell {
            setting: plan.setting.clone(),
            recipe: plan.recipe.clone(),
            seed: plan.seed,
            backend: backend.to_owned(),
            kernels: self.kernels([&plan.fixed_e, &plan.upcycled, &plan.fixed_me])?,
            pretrain_tokens: plan.pretrain_tokens,
            cpt_tokens: plan.cpt_tokens,
            loss_fixed_e: fixed_e,
            loss_upcycled: upcycled,
            loss_fixed_me: fixed_me,
            test_loss_fixed_e: test_loss(&plan.fixed_e)?,
            test_loss_upcycled: test_loss(&plan.upcycled)?,
            test_loss_fixed_me: test_loss(&plan.fixed_me)?,
            loss_before: operator.before.loss,
            loss_after: operator.after.loss,
            logit_difference: verified.relative_logit_difference,
            largest_logit_difference: verified.largest_logit_difference,
            changed_sources: mean(|layer| layer.changed_sources.unwrap_or(0.0)),
            twin_coselection: mean(|layer| layer.routing.twin_coselection),
            gap_closure: gap_closure(fixed_e, upcycled, fixed_me),
            wall_seconds_fixed_e: self.train_seconds(&plan.fixed_e)?,
            wall_seconds: self.train_seconds(&plan.upcycled)?,
            wall_seconds_fixed_me: self.train_seconds(&plan.fixed_me)?,
            train_flops_fixed_e: self.train_flops(&plan.fixed_e),
            train_flops: self.train_flops(&plan.upcycled),
            train_flops_fixed_me: self.train_flops(&plan.fixed_me),
        })
    }

    fn curve(&self, plan: &CellPlan, arm: Arm, key: &StageKey) -> Result<Curve, LabError> {
        let (mut points, mut twins) = (Vec::new(), Vec::new());
        let mut seen = |tokens: u64, alike: Option<Twins>| {
            twins.extend(alike.map(
                |Twins {
                     cosine,
                     coselection,
                 }| TwinPoint {
                    tokens,
                    cosine,
                    coselection,
                },
            ));
        };
        for stage in self.graph.chain(key) {
            if let StageResult::Upcycle(outcome) = self.result(&stage.key)? {
                points.push((outcome.tokens, outcome.before.loss));
                points.push((outcome.tokens, outcome.after.loss));
                seen(outcome.tokens, outcome.after.twins);
                continue;
            }
            for line in self.store.metrics(&stage.key)? {
                if let MetricsLine::Evaluation {
                    tokens,
                    loss,
                    twins,
                    ..
                } = line
                {
                    points.push((tokens, loss));
                    seen(tokens, twins);
                }
            }
        }
        // A trunk ends with an evaluation where the operator begins with one.
        points.dedup();
        Ok(Curve {
            setting: plan.setting.clone(),
            arm,
            recipe: (arm == Arm::Upcycled).then(|| plan.recipe.clone()),
            seed: plan.seed,
            tau_tokens: plan.pretrain_tokens,
            points,
            twins,
        })
    }

    fn routing(
        &self,
        plan: &CellPlan,
        arm: Arm,
        key: &StageKey,
    ) -> Result<Vec<RoutingRow>, LabError> {
        let (_, routing) = self.evaluated(key)?;
        Ok(routing
            .into_iter()
            .enumerate()
            .map(|(layer, stats)| RoutingRow {
                setting: plan.setting.clone(),
                arm,
                recipe: (arm == Arm::Upcycled).then(|| plan.recipe.clone()),
                seed: plan.seed,
                layer,
                load: stats.load,
                max_violation: stats.max_violation,
                normalized_entropy: stats.normalized_entropy,
                dead_experts: stats.dead_experts,
                distinct_sources: stats.distinct_sources,
                twin_coselection: stats.twin_coselection,
            })
            .collect())
    }

    /// Seconds of training of a stage and all stages before it.
    fn train_seconds(&self, key: &StageKey) -> Result<f64, LabError> {
        let mut seconds = 0.0;
        for stage in self.graph.chain(key) {
            if let StageResult::Train(outcome) = self.result(&stage.key)? {
                seconds += outcome.train_seconds;
            }
        }
        Ok(seconds)
    }

    /// What computed stages and all stages before them.
    fn kernels(&self, keys: [&StageKey; 3]) -> Result<Option<String>, LabError> {
        let mut kernels: BTreeSet<Kernels> = BTreeSet::new();
        for stage in keys.into_iter().flat_map(|key| self.graph.chain(key)) {
            kernels.extend(match self.result(&stage.key)? {
                StageResult::Train(outcome) => outcome.kernels,
                StageResult::Upcycle(outcome) => outcome.kernels,
            });
        }
        Ok(joined(&kernels))
    }

    /// FLOPs of training of a stage and all stages before it, without the vocabulary head.
    fn train_flops(&self, key: &StageKey) -> f64 {
        self.graph.chain(key).into_iter().map(train_flops).sum()
    }

    /// Final validation loss and routing of a training stage.
    fn evaluated(&self, key: &StageKey) -> Result<(f64, Vec<RoutingStats>), LabError> {
        match self.result(key)? {
            StageResult::Train(outcome) => {
                Ok((outcome.evaluation.loss, outcome.evaluation.routing))
            }
            StageResult::Upcycle(outcome) => Ok((outcome.after.loss, outcome.after.routing)),
        }
    }

    /// Final test loss of a training stage.
    fn tested(&self, key: &StageKey) -> Result<Option<f64>, LabError> {
        Ok(match self.result(key)? {
            StageResult::Train(outcome) => outcome.test_loss,
            StageResult::Upcycle(_) => None,
        })
    }

    fn upcycled(&self, key: &StageKey) -> Result<UpcycleOutcome, LabError> {
        match self.result(key)? {
            StageResult::Upcycle(outcome) => Ok(outcome),
            StageResult::Train(_) => Err(LabError::Store {
                dir: self.store.stage_dir(key),
                problem: "it holds a training stage where an upcycling stage belongs".into(),
            }),
        }
    }

    fn result(&self, key: &StageKey) -> Result<StageResult, LabError> {
        self.store.result(key)?.ok_or(LabError::Unfinished {
            missing: 1,
            total: self.graph.len(),
        })
    }
}

/// FLOPs of training of one stage, without the vocabulary head.
pub(crate) fn train_flops(stage: &Stage) -> f64 {
    let crate::stage::StageSpec::Train { spec, .. } = &stage.spec else {
        return 0.0;
    };
    let tokens = (stage.steps() * spec.batch.tokens()) as f64;
    CostModel::new(&stage.model).train_flops_per_token(spec.batch.context) * tokens
}
