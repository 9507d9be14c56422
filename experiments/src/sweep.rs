//! `sweep`: runs a sweep of upcycling experiments and writes its report.

mod args;
mod cluster;
mod cost;
mod elsewhere;
mod jobs;
mod logs;
mod nodes;
mod plan_file;
mod scaling;
mod stage;
mod status;
mod tasks;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tempfile::TempDir;
use upcycle_data::{Dataset, Split};
use upcycle_lab::presets::Preset;
use upcycle_lab::{
    Calibration, CellPlan, Devices, Estimate, LabError, MemoryLimit, Needs, Runner, StageEstimate,
    Store, SweepConfig, SweepPlan, SweepStages, collect, presets,
};
use upcycle_lm::CostModel;
use upcycle_report::{TaskRow, number};
use upcycle_train::Engine;

use crate::{
    backend::{BackendKind, Machine, machine_on},
    data_args, hub_data,
    interrupt::{self, Work},
    limits::{self, on_cpu, refusal, slow_precision},
    output,
    processes::Member,
    program,
    progress::Progress,
    repetition, threads,
};
pub(crate) use args::PrecisionArg;
use args::{Launcher, SweepArgs};
use plan_file::PlanFile;
use stage::StageArgs;
use status::StatusArgs;

/// Train small and big Mixture-of-Experts models, upcycle the small ones, and see how much of the gap they close.
///
/// Without flags: one doubling of the experts of a tiny model on the built-in corpus, over three budgets of continued
/// pre-training. A sweep that is stopped goes on where it was when it is started again, and processes that run the same
/// sweep in the same folder, on one machine or on many, share the work.
#[derive(Debug, Parser)]
#[command(name = "sweep", version = program::version(), args_conflicts_with_subcommands = true)]
pub struct SweepCommand {
    #[command(subcommand)]
    command: Option<Subcommand>,
    #[command(flatten)]
    sweep: SweepArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    Status(StatusArgs),
    Stage(StageArgs),
}

impl SweepCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        match self.command {
            Some(Subcommand::Status(status)) => status.run(),
            Some(Subcommand::Stage(stage)) => stage.run(),
            None => self.sweep.run(),
        }
    }
}

/// Models with fewer parameters leave most of a CPU idle, so that several are trained at a time.
const SMALL_MODEL: u64 = 4_000_000;

impl SweepArgs {
    fn run(self) -> Result<()> {
        if self.list {
            return list(self.json);
        }
        self.ui.choice()?;
        self.threads.apply()?;
        let mut config = self.sweep_config()?;
        config.validate()?;
        let devices = self.devices.of_processes(self.nodes.processes())?;
        if devices.count.get() > 1 && self.jobs.is_some_and(|jobs| jobs.get() > 1) {
            bail!("--devices takes all devices for one stage at a time; leave --jobs out");
        }
        let on_cluster = self.launcher == Launcher::Slurm;
        if !on_cluster && (self.detach || !self.slurm_args.is_empty() || self.nodes.nodes.is_some())
        {
            bail!(
                "--nodes, --detach and --slurm-args are for jobs of a cluster; add --launcher slurm"
            );
        }
        if on_cluster && self.jobs.is_some() {
            bail!("--jobs is for this machine; how many jobs a cluster runs at a time is up to it");
        }
        let needs = Needs::of_sweep(&config)?;
        hub_data::settle(&mut config.data, None, needs)?;
        match self.launcher {
            Launcher::Local if self.is_elsewhere(devices) => self.plan_elsewhere(&config, devices),
            Launcher::Local => self.run_here(config, devices),
            Launcher::Slurm => self.run_on_cluster(config, devices),
        }
    }

    fn run_here(self, config: SweepConfig, devices: Devices) -> Result<()> {
        // What is wrong with a task is said before hours of work, not after.
        let tasks = self.tasks.read()?;
        let Machine { engine, meter } = machine_on(self.backend, devices)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let slow = slow_precision(engine.as_ref(), config.precision);
        if let Some(slow) = slow.filter(|_| !self.force.force) {
            bail!(slow);
        }
        let scratch = self.scratch()?;
        let data = self.data(&config, scratch.as_ref())?;
        tasks.check_data(&data)?;
        let plan = SweepPlan::new(&config, &data, engine.backend())?;
        devices.check_all(&plan.graph)?;
        self.baseline(&plan)?;
        let known = Store::existing(&self.out);
        let available = self.memory.available(engine.as_ref());
        let jobs = self.jobs(&plan, engine.as_ref(), devices, available);
        let alone = &Member::alone();
        let limit = (self.memory).limit(engine.as_ref(), devices, alone, jobs);
        let calibration = Calibration::measure(meter.as_ref(), &plan.graph, known.as_ref(), jobs)
            .with_link(self.link.link());
        let estimate = Estimate::new(
            &plan,
            known.as_ref(),
            engine.backend(),
            Some(&calibration),
            jobs,
            &limit,
        );
        // Several devices compute one stage at a time, each within its share.
        let available = match devices.count.get() {
            1 => available,
            _ => limit.bytes,
        };
        let refusal = refusal_of(&estimate, engine.as_ref(), available);
        for note in repetitions(&plan, &data).into_iter().chain(plan.notes()) {
            output::note!("note: {note}");
        }
        if self.dry_run {
            return self.print_dry_run(&plan, &estimate, &data, refusal);
        }
        if let Some(refusal) = refusal.filter(|_| !self.force.force) {
            cost::print(&plan, &estimate, false)?;
            output::line("(--dry-run lists all stages)")?;
            bail!(refusal);
        }

        let backend = BackendKind::named(engine.backend())?;
        let file = PlanFile::new(&config, &plan, &self, &tasks, backend);
        let folder = self.folder(&file)?;
        let store = Store::open(&self.out)?;
        tasks.check_models(&plan, &store)?;
        file.write(&folder)?;
        SweepStages::of(&plan).write(&folder)?;
        let expected = estimate.seconds.map(number::duration);
        output::note!(
            "{} stages, {} finished before; {jobs} at a time, about {}",
            plan.graph.len(),
            plan.graph.len() - estimate.remaining().count(),
            expected.clone().unwrap_or_default(),
        );
        (self.kernels).choose(engine.as_ref(), config.precision, alone)?;
        let begun = Instant::now();
        let progress = Progress::new(self.ui.choice()?, plan.graph.len(), estimate.steps());
        let runner = Runner {
            engine: engine.as_ref(),
            team: alone.team().clone(),
            data: &data,
            store: &store,
            limit,
            checkpoint_interval: Duration::from_secs(self.checkpoint_seconds),
            observer: &progress,
            stop: interrupt::flag(),
        };
        let work = Work::Training {
            checkpoints: runner.checkpoint_interval,
        };
        let outcome = interrupt::during(work, || runner.run(&plan.graph, jobs))?;
        progress.finish();
        match outcome {
            Err(error @ LabError::Interrupted) => return Err(error.into()),
            outcome => {
                outcome.context("the sweep stopped; what is finished is kept for the next start")?
            }
        }
        if estimate.remaining().next().is_some() {
            output::note!(
                "took {}, estimated {}",
                number::duration(begun.elapsed().as_secs_f64()),
                expected.unwrap_or_default()
            );
        }
        let device = (engine.backend(), engine.device());
        let scored = tasks.score_all(&plan, &store, engine.as_ref());
        let rows = scored.and_then(|()| tasks.rows(&plan, &store));
        self.report(&config, &plan, &store, device, &data, rows)
    }

    /// Submits the stages to a cluster and, unless detached, waits for them.
    fn run_on_cluster(self, config: SweepConfig, devices: Devices) -> Result<()> {
        if self.backend == BackendKind::Auto {
            bail!(
                "--launcher slurm needs --backend: nodes may have other devices than this machine, and results depend on it; give --backend cuda or --backend cpu"
            );
        }
        let backend = self.backend.name();
        let scratch = self.scratch()?;
        let tasks = self.tasks.read()?;
        let data = self.data(&config, scratch.as_ref())?;
        tasks.check_data(&data)?;
        let plan = SweepPlan::new(&config, &data, backend)?;
        self.baseline(&plan)?;
        let (estimate, too_large) = self.estimate_elsewhere(&plan, &data, self.backend, devices)?;
        if self.dry_run {
            return self.print_dry_run(&plan, &estimate, &data, too_large);
        }
        if let Some(refusal) = too_large.filter(|_| !self.force.force) {
            bail!(refusal);
        }
        let file = PlanFile::new(&config, &plan, &self, &tasks, self.backend);
        let folder = self.folder(&file)?;
        let slurm = jobs::slurm(&folder, &file, &self.slurm_args)?;
        // A cluster that does not answer is told before anything is written.
        slurm.queue()?;
        let store = Store::open(&self.out)?;
        tasks.check_models(&plan, &store)?;
        file.write(&folder)?;
        SweepStages::of(&plan).write(&folder)?;
        cluster::submit(&slurm, &plan, &estimate, &store, &file.scores)?;
        let again = program::call(&format!("sweep status {}", folder.display()));
        if self.detach {
            output::note!(
                "`{again}` shows how far they are; this command again collects the results"
            );
            return Ok(());
        }
        output::note!("following the jobs; they go on without this command (`{again}`)");
        let followed = cluster::follow(&slurm, &plan, &estimate, &store, &file.scores);
        if followed.is_err() && !store.missing(&plan.graph).is_empty() {
            return followed;
        }
        let device = (backend, "Slurm jobs");
        let rows = followed.and_then(|()| tasks.rows(&plan, &store));
        self.report(&config, &plan, &store, device, &data, rows)
    }

    /// Where a dry run packs text that is not packed yet; none for a sweep that is to run.
    fn scratch(&self) -> Result<Option<TempDir>> {
        let scratch = self.dry_run.then(tempfile::tempdir).transpose();
        scratch.context("no temporary folder can be made for the text of a dry run")
    }

    fn data(&self, config: &SweepConfig, scratch: Option<&TempDir>) -> Result<Dataset> {
        let cache = self.out.join("data");
        let new = scratch.map_or(cache.as_path(), TempDir::path);
        data_args::open_apart(&config.data, &cache, new, self.ui.choice()?)
    }

    /// Writes the report. Where the rows of tasks are an error it has none of them, and the error is given at the end: losses are
    /// there all the same.
    fn report(
        &self,
        config: &SweepConfig,
        plan: &SweepPlan,
        store: &Store,
        device: (&str, &str),
        data: &Dataset,
        tasks: Result<Vec<TaskRow>>,
    ) -> Result<()> {
        let floor = data.entropy_rate();
        let mut results = collect(config, plan, store, device, floor, command_line())?;
        for text in data.text_reports() {
            results.notes.extend(text.part());
            results.notes.extend(text.cut_documents());
        }
        let missing = match tasks {
            Ok(rows) => {
                results.tasks = rows;
                Ok(())
            }
            Err(error) => Err(error),
        };
        results.baseline = self.baseline(plan)?.map(str::to_owned);
        results.environment.threads = threads::count();
        results.environment.commit = program::COMMIT.map(str::to_owned);
        results.environment.program = Some(program::name());
        let folder = store.report_dir(&config.name);
        let path = upcycle_report::write(&results, &folder)?;
        if self.logs {
            let logs = folder.join("logs");
            logs::write(plan, store, &logs)?;
            output::note!("logs: {}", logs.display());
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&results)?)?;
        } else {
            output::line(upcycle_report::table(&results).trim_end())?;
            if !results.tasks.is_empty() {
                output::line(format!("\n{}", upcycle_report::task_table(&results)))?;
            }
        }
        output::note!("report: {}", path.display());
        missing
    }

    /// The recipe that others are to be compared with, which must be one of the plan's.
    fn baseline(&self, plan: &SweepPlan) -> Result<Option<&str>> {
        let mut recipes: Vec<&str> = Vec::new();
        for cell in &plan.cells {
            if !recipes.contains(&cell.recipe.as_str()) {
                recipes.push(&cell.recipe);
            }
        }
        self.baseline.among(&recipes)
    }

    fn print_dry_run(
        &self,
        plan: &SweepPlan,
        estimate: &Estimate,
        data: &Dataset,
        refusal: Option<String>,
    ) -> Result<()> {
        if self.json {
            return Ok(output::line(serde_json::to_string_pretty(estimate)?)?);
        }
        cost::print(plan, estimate, true)?;
        scaling::print(plan, estimate, self.memory.memory)?;
        cost::print_disk(&self.out, estimate, data.packed_bytes())?;
        if self.nodes.processes().get() > 1 {
            output::line(format!(
                "each stage is a job of {} with {} on each",
                number::plural(self.nodes.nodes().get(), "node"),
                number::plural(self.nodes.tasks().get(), "task"),
            ))?;
        }
        if let Some(refusal) = refusal {
            output::line(format!(
                "\nWithout --force this would be refused: {refusal}"
            ))?;
        }
        Ok(())
    }

    /// The sweep's folder; one that was asked for by name must not hold another sweep, but may hold a part of this one.
    fn folder(&self, file: &PlanFile) -> Result<PathBuf> {
        let folder = self.out.join(&file.sweep.name);
        let before = PlanFile::read(&folder).filter(|_| self.name.is_some());
        let differences = before.map_or(Vec::new(), |before| before.differences(file));
        if !differences.is_empty() {
            bail!(
                "{} holds another sweep ({}); choose another --name, or remove the folder (stages are kept elsewhere)",
                folder.display(),
                differences.join("; ")
            );
        }
        output::note!("sweep folder {}", folder.display());
        Ok(folder)
    }

    /// Stages at a time: as many small ones as there are threads, but no more than fit into its memory.
    fn jobs(
        &self,
        plan: &SweepPlan,
        engine: &dyn Engine,
        devices: Devices,
        available: Option<u64>,
    ) -> usize {
        if let Some(jobs) = self.jobs {
            return jobs.get();
        }
        if devices.count.get() > 1 {
            return 1;
        }
        let stages = plan.graph.stages();
        let sizes = stages
            .iter()
            .map(|stage| CostModel::new(&stage.model).parameters().total());
        if !on_cpu(engine) || sizes.max().is_none_or(|largest| largest >= SMALL_MODEL) {
            return 1;
        }
        let fits = |jobs: &usize| {
            let estimate = Estimate::new(
                plan,
                None,
                engine.backend(),
                None,
                *jobs,
                &MemoryLimit::NONE,
            );
            available.is_none_or(|available| estimate.memory <= available)
        };
        (1..=threads::count()).rev().find(fits).unwrap_or(1)
    }
}

/// Why a sweep should not start here; none if it may.
fn refusal_of(estimate: &Estimate, engine: &dyn Engine, available: Option<u64>) -> Option<String> {
    let largest = estimate.largest()?;
    let too_large = available.and_then(|available| {
        memory_refusal(largest, available).or_else(|| {
            (estimate.memory > available).then(|| {
                format!(
                    "{} stages at a time need about {} of memory, and there are {}; lower --jobs",
                    estimate.jobs,
                    number::bytes(estimate.memory),
                    number::bytes(available)
                )
            })
        })
    });
    too_large.or_else(|| refusal(engine, 0, estimate.seconds.unwrap_or(0.0)))
}

/// Why a stage cannot run in some memory; none if it can.
fn memory_refusal(stage: &StageEstimate, available: u64) -> Option<String> {
    let needed = stage.process_memory();
    let stage = format!("stage {}", stage.label);
    (needed > available).then(|| limits::advice(&limits::too_large(&stage, needed, available)))
}

/// Prints all presets.
fn list(json: bool) -> Result<()> {
    let catalogue = presets::catalogue();
    if json {
        return Ok(output::line(serde_json::to_string_pretty(&catalogue)?)?);
    }
    for (kind, presets) in [
        ("Scales", &catalogue.scales),
        ("Sweeps", &catalogue.sweeps),
        ("Recipes", &catalogue.recipes),
    ] {
        output::line(format!("{kind}:"))?;
        let (heuristics, own): (Vec<&Preset>, Vec<&Preset>) =
            presets.iter().partition(|preset| preset.name.contains('/'));
        for preset in own {
            output::line(format!("  {:<18} {}", preset.name, preset.about))?;
        }
        if !heuristics.is_empty() {
            let names: Vec<&str> = heuristics.iter().map(|preset| preset.name).collect();
            output::line(format!("  one heuristic each: {}", names.join(", ")))?;
        }
    }
    Ok(())
}

/// Splits that the longest run reads more than once, as sentences.
fn repetitions(plan: &SweepPlan, data: &Dataset) -> Vec<String> {
    let longest = |tokens: fn(&CellPlan) -> u64| plan.cells.iter().map(tokens).max();
    [
        (Split::Pretrain, longest(|cell| cell.pretrain_tokens)),
        (Split::Cpt, longest(|cell| cell.cpt_tokens)),
    ]
    .into_iter()
    .filter_map(|(split, needed)| repetition::note(data, split, needed?))
    .collect()
}

/// The command line of this process, for the report.
fn command_line() -> String {
    let args = std::env::args().skip(1).map(|arg| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            arg
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    });
    let args: Vec<String> = args.collect();
    if program::has_all() {
        return program::call(&args.join(" "));
    }
    let features = match program::further_features().join(",") {
        none if none.is_empty() => none,
        features => format!(" --features {features}"),
    };
    let command = format!("cargo run --release{features} --bin sweep");
    match args.is_empty() {
        true => command,
        false => format!("{command} -- {}", args.join(" ")),
    }
}
