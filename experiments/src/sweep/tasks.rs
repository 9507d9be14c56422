//! Downstream tasks on the final models of a sweep.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use upcycle_lab::{StageKey, Store, SweepPlan};
use upcycle_report::TaskRow;
use upcycle_tasks::{Metric, Outcome, Task};
use upcycle_train::Engine;

use crate::evaluate::{Subject, outcomes};

/// The number that stands for each task, for the three models of every comparison.
///
/// # Errors
/// If a model has no tokenizer of text, or a task cannot be scored.
pub fn rows(
    plan: &SweepPlan,
    store: &Store,
    engine: &dyn Engine,
    tasks: &[Task],
) -> Result<Vec<TaskRow>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let mut known: BTreeMap<StageKey, Vec<Outcome>> = BTreeMap::new();
    let mut rows = Vec::new();
    for cell in &plan.cells {
        let keys = [&cell.fixed_e, &cell.upcycled, &cell.fixed_me];
        for key in keys {
            if !known.contains_key(key) {
                let folder = store.stage_dir(key);
                let name = folder.display().to_string();
                let found = Subject::open(&name, None)
                    .and_then(|subject| outcomes(&subject, &name, engine, tasks));
                known.insert(key.clone(), found.with_context(|| name.clone())?);
            }
        }
        for (place, task) in tasks.iter().enumerate() {
            let metrics = keys.map(|key| first_metric(&known, key, place));
            let [Some(fixed_e), Some(upcycled), Some(fixed_me)] = metrics else {
                continue;
            };
            let errors = metrics.iter().flatten().filter_map(|it| it.standard_error);
            rows.push(TaskRow {
                setting: cell.setting.clone(),
                recipe: cell.recipe.clone(),
                seed: cell.seed,
                task: task.name.clone(),
                metric: fixed_e.name.name().to_owned(),
                higher_is_better: fixed_e.name.is_accuracy(),
                chance: fixed_e.chance,
                standard_error: errors.reduce(f64::max),
                fixed_e: fixed_e.value,
                upcycled: upcycled.value,
                fixed_me: fixed_me.value,
            });
        }
    }
    Ok(rows)
}

/// The number that stands for a task.
fn first_metric<'a>(
    known: &'a BTreeMap<StageKey, Vec<Outcome>>,
    key: &StageKey,
    place: usize,
) -> Option<&'a Metric> {
    known.get(key)?.get(place)?.metrics.first()
}
