//! What a sweep's folder says of the sweep, for those who join it: jobs of a cluster, and `sweep status`.

use std::{collections::BTreeSet, fs, num::NonZeroUsize, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{StageSpec, Store, SweepConfig, SweepPlan};
use upcycle_operator::Recipe;

use super::{
    SweepArgs, command_line,
    nodes::NodesArgs,
    tasks::{Tasks, TasksArgs},
};
use crate::{
    backend::BackendKind, devices::DevicesArgs, kernels::KernelsArg, limits::MemoryArgs, packing,
    threads::ThreadsArg, ui::Ui,
};

const FILE: &str = "sweep.toml";

/// A sweep as it was started.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlanFile {
    /// Where it computes; never `auto`.
    pub backend: BackendKind,
    /// Devices of a process that train one model together.
    #[serde(flatten)]
    pub devices: DevicesArgs,
    /// Nodes of a cluster that compute each stage together.
    #[serde(default, flatten)]
    pub nodes: NodesArgs,
    /// Threads that compute on the processor, if a number was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// Seconds between checkpoints of a stage.
    pub checkpoint_seconds: u64,
    /// What stages may take of memory.
    #[serde(default, flatten)]
    pub memory: MemoryArgs,
    /// Whose kernels compute.
    #[serde(default, flatten)]
    pub kernels: KernelsArg,
    /// Downstream tasks of its final models.
    #[serde(default, flatten)]
    pub tasks: TasksArgs,
    /// What the scores on each are kept by, in the folders of final models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<String>,
    /// The command line.
    pub command: String,
    /// The last stage of every grown model: what it is, by content.
    #[serde(default)]
    pub cells: BTreeSet<String>,
    /// Everything that its results depend on.
    pub sweep: SweepConfig,
    /// What its recipes say.
    #[serde(default)]
    pub recipes: Vec<Recipe>,
}

/// A sweep that was started, with its stages.
pub struct Started {
    pub file: PlanFile,
    pub data: Dataset,
    pub plan: SweepPlan,
    pub store: Store,
}

impl PlanFile {
    /// The sweep of a plan.
    pub fn new(
        config: &SweepConfig,
        plan: &SweepPlan,
        args: &SweepArgs,
        tasks: &Tasks,
        backend: BackendKind,
    ) -> Self {
        let mut recipes: Vec<Recipe> = Vec::new();
        for stage in plan.graph.stages() {
            if let StageSpec::Upcycle { spec, .. } = &stage.spec
                && !recipes.contains(&spec.recipe)
            {
                recipes.push(spec.recipe.clone());
            }
        }
        let cells = plan.cells.iter();
        Self {
            backend,
            devices: args.devices,
            nodes: args.nodes,
            threads: args.threads.threads,
            checkpoint_seconds: args.checkpoint_seconds,
            memory: args.memory,
            kernels: args.kernels,
            tasks: args.tasks.clone(),
            scores: tasks.fingerprints(),
            command: command_line(),
            cells: cells.map(|cell| cell.upcycled.to_string()).collect(),
            sweep: config.clone(),
            recipes,
        }
    }

    /// The sweep that was started in a folder; none if there is none that can be read.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(FILE)).ok()?;
        toml::from_str(&text).ok()
    }

    /// What stands against going on with this sweep as `new`, in some words each. More seeds and more values of an axis do not.
    pub fn differences(&self, new: &Self) -> Vec<String> {
        let table = |file: &Self| toml::Table::try_from(&file.sweep).unwrap_or_default();
        let (before, after) = (table(self), table(new));
        let mut differences = Vec::new();
        if self.backend != new.backend {
            let (before, after) = (self.backend.name(), new.backend.name());
            differences.push(format!("backend was {before}, now {after}"));
        }
        let fields: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for field in fields {
            let values = (before.get(field), after.get(field));
            if values.0 == values.1 || is_more(field, values) {
                continue;
            }
            let [before, after] = [values.0, values.1]
                .map(|value| value.map_or("the default".into(), toml::Value::to_string));
            differences.push(format!("{field} was {before}, now {after}"));
        }
        for recipe in &self.recipes {
            let mut others = new.recipes.iter();
            if others.any(|other| other.name == recipe.name && other != recipe) {
                differences.push(format!("recipe `{}` says something else", recipe.name));
            }
        }
        if differences.is_empty() && !self.cells.is_subset(&new.cells) {
            let what = "its models are others: a scale's file or the data have changed, or a new budget moves growths";
            differences.push(what.into());
        }
        differences
    }

    /// The sweep in a file of this kind; none in others, which have no section `sweep`.
    pub fn sweep_in(path: &Path) -> Result<Option<SweepConfig>> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let table: toml::Table = toml::from_str(&text).unwrap_or_default();
        if !table.contains_key("sweep") {
            return Ok(None);
        }
        let file: Self =
            upcycle_files::from_toml(&text).with_context(|| path.display().to_string())?;
        Ok(Some(file.sweep))
    }

    /// Writes the file into a sweep's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self)?;
        upcycle_files::write(&folder.join(FILE), text.as_bytes())?;
        Ok(())
    }
}

impl Started {
    /// The sweep in a folder such as `runs/quick`.
    pub fn open(folder: &Path, ui: Ui) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            bail!(
                "{} is not the folder of a sweep: it has no {FILE}{}",
                folder.display(),
                sweeps_in(folder.parent().unwrap_or(folder))
            );
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let file: PlanFile =
            upcycle_files::from_toml(&text).with_context(|| path.display().to_string())?;
        let threads = ThreadsArg {
            threads: file.threads,
        };
        threads.apply()?;
        let folder = folder.canonicalize()?;
        let out = folder.parent().unwrap_or(&folder);
        let cache = out.join("data");
        let data = packing::open(&file.sweep.data, &cache, &cache, ui)?;
        let plan = SweepPlan::new(&file.sweep, &data, file.backend.name())?;
        let store =
            Store::existing(out).with_context(|| format!("{} holds no stages", out.display()))?;
        Ok(Self {
            file,
            data,
            plan,
            store,
        })
    }
}

/// Whether a field of a sweep has only got more values.
fn is_more(field: &str, values: (Option<&toml::Value>, Option<&toml::Value>)) -> bool {
    match values {
        (Some(toml::Value::Array(before)), Some(toml::Value::Array(after))) => {
            !before.is_empty() && before.iter().all(|value| after.contains(value))
        }
        (Some(toml::Value::Integer(before)), Some(toml::Value::Integer(after))) => {
            field == "seeds" && before <= after
        }
        _ => false,
    }
}

/// Sweeps of a folder of runs, as the end of a sentence.
fn sweeps_in(runs: &Path) -> String {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut sweeps: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join(FILE).is_file())
        .map(|path| path.display().to_string())
        .collect();
    sweeps.sort();
    match sweeps.is_empty() {
        true => String::new(),
        false => format!("; there are {}", sweeps.join(", ")),
    }
}
