//! Downstream tasks of the final models of a sweep. Scores are kept in the folder of each model's stage, so that they are computed
//! once, by whichever process or job of a cluster comes first.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{StageKey, Store, SweepPlan};
use upcycle_report::TaskRow;
use upcycle_tasks::{Metric, Outcome, Task};
use upcycle_train::Engine;

use crate::evaluate::{self, Subject};

/// The flags that say which.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
pub struct TasksArgs {
    /// Downstream tasks of the final models, as `evaluate --tasks` takes them: gap closure by each, beside that by the loss.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Tasks"
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// The first items of each task only.
    #[arg(long, value_name = "N", requires = "tasks", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Tasks")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_limit: Option<u64>,
}

impl TasksArgs {
    /// The tasks with their items.
    ///
    /// # Errors
    /// If a task is unknown, or its rows cannot be read.
    pub fn read(&self) -> Result<Tasks> {
        let specs = evaluate::specs(&self.tasks, None)?;
        let tasks = evaluate::read(&specs, self.task_limit.map(|limit| limit as usize))?;
        let named = tasks.into_iter().map(|task| (task.fingerprint(), task));
        Ok(Tasks(named.collect()))
    }
}

/// Tasks, each with its fingerprint, by which scores are kept.
pub struct Tasks(Vec<(String, Task)>);

impl Tasks {
    /// What scores are kept by.
    pub fn fingerprints(&self) -> Vec<String> {
        let tasks = self.0.iter();
        tasks.map(|(fingerprint, _)| fingerprint.clone()).collect()
    }

    /// Models must be of text to be asked.
    ///
    /// # Errors
    /// If those of the data are not.
    pub fn check_data(&self, data: &Dataset) -> Result<()> {
        if !self.0.is_empty() && data.tokenizer_json().is_none() {
            bail!(
                "--tasks asks models of text, and the built-in corpus has none; give --data, such as --data knowledge"
            );
        }
        Ok(())
    }

    /// Models that are to be asked must be there, unless they are still to be trained.
    ///
    /// # Errors
    /// If one was freed.
    pub fn check_models(&self, plan: &SweepPlan, store: &Store) -> Result<()> {
        let missing = store.missing(&plan.graph);
        for key in unscored(plan, store, &self.fingerprints()) {
            if !missing.contains(key) {
                let model = store.checkpoint(key);
                model.context("--tasks cannot ask a model that was freed")?;
            }
        }
        Ok(())
    }

    /// Computes the scores of all final models that are missing.
    ///
    /// # Errors
    /// As [`Tasks::score`].
    pub fn score_all(&self, plan: &SweepPlan, store: &Store, engine: &dyn Engine) -> Result<()> {
        let mut models = unscored(plan, store, &self.fingerprints()).into_iter();
        models.try_for_each(|key| self.score(store, key, engine))
    }

    /// Computes the scores of a final model that are missing; each is kept as soon as it is there.
    ///
    /// # Errors
    /// If the model has no tokenizer of text, a task cannot be scored, or a score cannot be kept.
    pub fn score(&self, store: &Store, key: &StageKey, engine: &dyn Engine) -> Result<()> {
        let folder = store.stage_dir(key).display().to_string();
        self.score_in(&folder, engine)
            .with_context(|| folder.clone())
    }

    fn score_in(&self, folder: &str, engine: &dyn Engine) -> Result<()> {
        let tasks = self.0.iter();
        let tasks = tasks.map(|(fingerprint, task)| (file(Path::new(folder), fingerprint), task));
        let missing: Vec<(PathBuf, &Task)> = tasks.filter(|(file, _)| !file.exists()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let subject = Subject::open(folder, None)?;
        let mut model = subject.load(engine)?;
        for (file, task) in missing {
            let outcome = evaluate::outcome(model.as_mut(), &subject.encoder, folder, task)?;
            let json = serde_json::to_vec_pretty(&outcome)?;
            // JSON has no word for what is not a number.
            serde_json::from_slice::<Outcome>(&json).with_context(|| {
                format!(
                    "a figure of {} is no number; leave the task out, or choose its `metrics` in a file of your own",
                    task.name
                )
            })?;
            upcycle_files::write(&file, &json)?;
        }
        Ok(())
    }

    /// The number that stands for each task, for the three models of every comparison.
    ///
    /// # Errors
    /// If a score is missing or damaged.
    pub fn rows(&self, plan: &SweepPlan, store: &Store) -> Result<Vec<TaskRow>> {
        let mut rows = Vec::new();
        for cell in &plan.cells {
            for (fingerprint, task) in &self.0 {
                let metric = |key: &StageKey| kept(store, key, fingerprint, task);
                let fixed_e = metric(&cell.fixed_e)?;
                let upcycled = metric(&cell.upcycled)?;
                let fixed_me = metric(&cell.fixed_me)?;
                let errors = [&fixed_e, &upcycled, &fixed_me].map(|it| it.standard_error);
                rows.push(TaskRow {
                    setting: cell.setting.clone(),
                    recipe: cell.recipe.clone(),
                    seed: cell.seed,
                    task: task.name.clone(),
                    metric: fixed_e.name.name().to_owned(),
                    higher_is_better: fixed_e.name.is_accuracy(),
                    chance: fixed_e.chance,
                    standard_error: errors.into_iter().flatten().reduce(f64::max),
                    fixed_e: fixed_e.value,
                    upcycled: upcycled.value,
                    fixed_me: fixed_me.value,
                });
            }
        }
        Ok(rows)
    }
}

/// Where the score of the model in a stage's folder on a task is kept.
fn file(folder: &Path, fingerprint: &str) -> PathBuf {
    folder.join("tasks").join(format!("{fingerprint}.json"))
}

/// The number that stands for a task, of a model that was scored.
fn kept(store: &Store, key: &StageKey, fingerprint: &str, task: &Task) -> Result<Metric> {
    let path = file(&store.stage_dir(key), fingerprint);
    let text = fs::read(&path).with_context(|| {
        format!(
            "the score of {} on {} is missing; start the sweep again to have it computed",
            store.stage_dir(key).display(),
            task.name
        )
    })?;
    let outcome: Result<Outcome, _> = serde_json::from_slice(&text);
    let first = outcome.map(|outcome| outcome.metrics.into_iter().next());
    let damaged = || format!("{} is damaged; remove it and start again", path.display());
    first.with_context(damaged)?.with_context(damaged)
}

/// Final models of which some score is missing.
fn unscored<'a>(
    plan: &'a SweepPlan,
    store: &Store,
    fingerprints: &[String],
) -> BTreeSet<&'a StageKey> {
    let mut models = plan.last_stages();
    models.retain(|key| {
        let folder = store.stage_dir(key);
        let mut files = fingerprints.iter().map(|it| file(&folder, it));
        files.any(|file| !file.exists())
    });
    models
}

/// Stages that something is left to do for: those to be computed, and final models to be scored.
pub fn left<'a>(
    plan: &'a SweepPlan,
    store: &Store,
    fingerprints: &[String],
) -> BTreeSet<&'a StageKey> {
    let mut left = store.missing(&plan.graph);
    left.append(&mut unscored(plan, store, fingerprints));
    left
}
