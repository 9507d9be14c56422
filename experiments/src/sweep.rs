//! `sweep`: runs a sweep of upcycling experiments and writes its report.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use upcycle_data::{Dataset, Split};
use upcycle_kernels::Precision;
use upcycle_lab::{
    CellPlan, Estimate, Growth, Protocol, RunOptions, Store, SweepConfig, SweepPlan, collect,
    presets, report, run,
};
use upcycle_train::Engine;

use crate::{
    amount,
    backend::{BackendKind, engine},
    data_args::DataArgs,
    limits::{Force, on_cpu, refusal},
    output,
    progress::Progress,
};

/// Train small and big Mixture-of-Experts models, upcycle the small ones, and see how much of the gap they close.
///
/// Without flags: one doubling of the experts of a tiny model on the built-in corpus, over four budgets of continued
/// pre-training. A sweep that is stopped goes on where it was when it is started again.
#[derive(Debug, Parser)]
#[command(name = "sweep", version)]
pub struct SweepArgs {
    /// Sweep to start from: quick; of the paper's tables table1, table2a, table2b, table3, table4, table7, table8; multipliers,
    /// topk, exact, softmax; or a TOML file. Flags go before what it says.
    #[arg(long, value_name = "NAME|FILE", default_value = "quick")]
    config: String,
    /// Scales: tiny, tiny-softmax, small, medium; the paper's 154M, 305M, 1B, 2.4B, 0.7B-top1, 1B-interleaved, 7B-interleaved; or TOML
    /// files.
    #[arg(
        long,
        alias = "scale",
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    scales: Option<Vec<String>>,
    /// Experts before upcycling, E. [default: the scale's]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    experts: Option<Vec<usize>>,
    /// Multipliers m: each model grows to m * E experts.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    multipliers: Option<Vec<f64>>,
    /// Experts of a token, K. [default: the scale's]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    top_k: Option<Vec<usize>>,
    /// Budgets of continued pre-training, as fractions of the pre-training steps.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    cpt: Option<Vec<f64>>,
    /// Shares of all steps at which the operator is applied, tau / T; with one --cpt, which then only says how many steps
    /// there are in all.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    transitions: Option<Vec<f64>>,
    /// Recipes: paper, uniform, exact, separated, released, hyperplane, others that --list shows, or TOML files.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    recipes: Option<Vec<String>>,
    /// Number of seeds.
    #[arg(long, value_name = "N", help_heading = "Axes")]
    seeds: Option<u64>,
    /// Ways to more than twice the experts.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    growth: Option<Vec<GrowthArg>>,
    /// When the learning rate decays.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    protocol: Option<Vec<ProtocolArg>>,
    /// Pre-training tokens in place of the scale's, such as 1M or 1.5B.
    #[arg(long, value_parser = amount::parse, value_name = "TOKENS", help_heading = "Size")]
    tokens: Option<u64>,
    /// Vocabulary in place of the scale's.
    #[arg(long, value_name = "N", help_heading = "Size")]
    vocab: Option<usize>,
    /// Context in place of the scale's, in tokens.
    #[arg(long, value_name = "N", help_heading = "Size")]
    context: Option<usize>,
    #[command(flatten)]
    data: DataArgs,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t, help_heading = "Running")]
    backend: BackendKind,
    /// Precision of matrix products; parameters are always f32.
    #[arg(long, value_enum, help_heading = "Running")]
    precision: Option<PrecisionArg>,
    /// Stages at a time. [default: one for each core for small models on a CPU, else 1]
    #[arg(long, value_name = "N", help_heading = "Running")]
    jobs: Option<NonZeroUsize>,
    /// Seconds between checkpoints of a stage.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        help_heading = "Running"
    )]
    checkpoint_seconds: u64,
    /// Folder of all runs; stages in it are never computed twice.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "runs",
        help_heading = "Running"
    )]
    out: PathBuf,
    /// Name of this sweep's folder in it. [default: the sweep's name, with a hash if flags change it]
    #[arg(long, value_name = "NAME", help_heading = "Running")]
    name: Option<String>,
    /// List scales, sweeps and recipes, and stop.
    #[arg(long, help_heading = "Running")]
    list: bool,
    /// Print what would run and what it would cost, and stop.
    #[arg(long, help_heading = "Running")]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
    /// Print results (or with --dry-run the estimate) as JSON.
    #[arg(long, help_heading = "Running")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProtocolArg {
    /// The operator meets the undecayed model; all runs end with the same decay.
    Trunk,
    /// Pre-training ends with its own decay; continued pre-training warms up again.
    Annealed,
}

impl From<ProtocolArg> for Protocol {
    fn from(arg: ProtocolArg) -> Self {
        match arg {
            ProtocolArg::Trunk => Self::Trunk,
            ProtocolArg::Annealed => Self::Annealed,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GrowthArg {
    /// From E to mE at once.
    Jump,
    /// By doublings, spread over the stable part of the shortest budget.
    Doubling,
}

impl From<GrowthArg> for Growth {
    fn from(arg: GrowthArg) -> Self {
        match arg {
            GrowthArg::Jump => Self::Jump,
            GrowthArg::Doubling => Self::Doubling,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// 32-bit floats.
    F32,
    /// bfloat16 operands, for devices that have it.
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

/// Models with fewer parameters leave most of a CPU idle, so that several are trained at a time.
const SMALL_MODEL: u64 = 4_000_000;

impl SweepArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        if self.list {
            return list(self.json);
        }
        let config = self.sweep_config()?;
        config.validate()?;
        let engine = engine(self.backend)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());

        let data_dir = self.out.join("data");
        let data = Dataset::open(&config.data, &data_dir)?;
        let plan = SweepPlan::new(&config, &data, engine.backend())?;
        let known = Store::existing(&self.out);
        let estimate = Estimate::new(&plan.graph, known.as_ref(), engine.matmul_rate());
        let jobs = self.jobs(&estimate, engine.as_ref());
        let refusal = refusal(
            engine.as_ref(),
            estimate.memory() * jobs as u64,
            estimate.seconds() / jobs as f64,
        );
        for note in repetitions(&plan, &data) {
            output::note!("note: {note}");
        }

        if self.dry_run {
            if self.json {
                output::line(serde_json::to_string_pretty(&estimate)?)?;
            } else {
                print_estimate(&plan, &estimate, jobs, true)?;
                if let Some(refusal) = refusal {
                    output::line(format!(
                        "\nWithout --force this would be refused: {refusal}"
                    ))?;
                }
            }
            return Ok(());
        }
        if let Some(refusal) = refusal.filter(|_| !self.force.force) {
            print_estimate(&plan, &estimate, jobs, false)?;
            output::line("(--dry-run lists all stages)")?;
            bail!(refusal);
        }

        let store = Store::open(&self.out)?;
        output::note!(
            "{} stages, {} finished before; {} at a time",
            plan.graph.len(),
            plan.graph.len() - estimate.remaining().count(),
            jobs
        );
        let progress = Progress::new(plan.graph.len(), estimate.steps());
        let options = RunOptions {
            jobs,
            checkpoint_interval: Duration::from_secs(self.checkpoint_seconds),
        };
        let outcome = run(
            &plan.graph,
            engine.as_ref(),
            &data,
            &store,
            options,
            &progress,
        );
        progress.finish();
        outcome.context("the sweep stopped; what is finished is kept for the next start")?;

        let results = collect(
            &config,
            &plan,
            &store,
            (engine.backend(), engine.device()),
            data.entropy_rate(),
            command_line(),
        )?;
        let path = report::write(&results, &store.report_dir(&config.name))?;
        if self.json {
            output::line(serde_json::to_string_pretty(&results)?)?;
        } else {
            output::line(report::table(&results))?;
        }
        output::note!("report: {}", path.display());
        Ok(())
    }

    /// The sweep's file with the flags over it.
    fn sweep_config(&self) -> Result<SweepConfig> {
        let file = presets::sweep(&self.config)?;
        let mut config = file.clone();
        fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *field = value.clone();
            }
        }
        set(&mut config.scales, &self.scales);
        set(&mut config.experts, &self.experts);
        set(&mut config.multipliers, &self.multipliers);
        set(&mut config.top_k, &self.top_k);
        set(&mut config.cpt, &self.cpt);
        set(&mut config.recipes, &self.recipes);
        set(&mut config.seeds, &self.seeds);
        set(&mut config.transitions, &self.transitions);
        fn converted<A: Copy + Into<T>, T>(args: &Option<Vec<A>>) -> Option<Vec<T>> {
            let convert = |args: &Vec<A>| args.iter().map(|&arg| arg.into()).collect();
            args.as_ref().map(convert)
        }
        set(&mut config.growth, &converted(&self.growth));
        set(&mut config.protocols, &converted(&self.protocol));
        if let Some(precision) = self.precision {
            config.precision = precision.into();
        }
        config.tokens = self.tokens.or(config.tokens);
        config.vocab = self.vocab.or(config.vocab);
        config.context = self.context.or(config.context);
        if let Some(data) = self.data.config() {
            config.data = data;
        }
        if let Some(name) = &self.name {
            config.name = name.clone();
        } else if config != file {
            // Another sweep must not overwrite the report of the one in the file.
            config.name = format!("{}-{}", file.name, config.short_hash());
        }
        Ok(config)
    }

    fn jobs(&self, estimate: &Estimate, engine: &dyn Engine) -> usize {
        let largest = estimate
            .stages
            .iter()
            .map(|stage| stage.parameters.total())
            .max();
        self.jobs.map(NonZeroUsize::get).unwrap_or_else(|| {
            if on_cpu(engine) && largest.is_some_and(|parameters| parameters < SMALL_MODEL) {
                std::thread::available_parallelism().map_or(1, usize::from)
            } else {
                1
            }
        })
    }
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
        for preset in presets {
            output::line(format!("  {:<36} {}", preset.name, preset.about))?;
        }
    }
    Ok(())
}

fn print_estimate(plan: &SweepPlan, estimate: &Estimate, jobs: usize, all: bool) -> Result<()> {
    output::line(format!(
        "{:<34} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}",
        "model", "non-emb.", "total", "active", "tokens", "FLOPs", "memory"
    ))?;
    for model in models(plan, estimate) {
        output::line(format!(
            "{:<34} {:>10} {:>10} {:>10} {:>9} {:>9} {:>10}",
            model.name,
            output::parameters(model.stage.parameters.non_embedding()),
            output::parameters(model.stage.parameters.total()),
            output::parameters(model.stage.parameters.active()),
            output::count(model.tokens as f64),
            format!("{:.2e}", model.flops),
            output::bytes(model.stage.memory.total()),
        ))?;
    }
    if all {
        output::line("")?;
        for stage in &estimate.stages {
            output::line(format!(
                "{}  {:<60} {:>7} steps  {:>9} FLOPs  {:>12}",
                stage.key,
                stage.label,
                stage.steps,
                format!("{:.2e}", stage.flops),
                if stage.cached {
                    "cached".into()
                } else {
                    output::duration(stage.seconds)
                },
            ))?;
        }
    }
    output::line(format!(
        "\n{} stages ({} cached), {} steps, {:.2e} FLOPs, up to {} of memory, about {} with {jobs} at a time",
        estimate.stages.len(),
        estimate.stages.len() - estimate.remaining().count(),
        output::count(estimate.steps() as f64),
        estimate.flops(),
        output::bytes(estimate.memory() * jobs as u64),
        output::duration(estimate.seconds() / jobs as f64),
    ))?;
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
    .filter_map(|(split, needed)| {
        let (needed, there) = (needed?, data.tokens(split)?);
        (needed > there).then(|| {
            format!(
                "the {split} split of the data has {} tokens and is read {:.1} times; more text or fewer --tokens avoid that",
                output::count(there as f64),
                needed as f64 / there as f64
            )
        })
    })
    .collect()
}

/// Sum of the stages of one kind of model.
struct ModelRow<'a> {
    name: String,
    stage: &'a upcycle_lab::StageEstimate,
    tokens: u64,
    flops: f64,
}

/// Stages added up by model, seeds together.
fn models<'a>(plan: &SweepPlan, estimate: &'a Estimate) -> Vec<ModelRow<'a>> {
    let mut rows: Vec<ModelRow> = Vec::new();
    let stages = plan.graph.stages();
    for (stage, estimate) in stages.iter().zip(&estimate.stages) {
        let name = stage.label.split(" seed ").next().unwrap_or_default();
        if stage.steps() == 0 {
            continue;
        }
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => {
                row.tokens += estimate.tokens;
                row.flops += estimate.flops;
            }
            None => rows.push(ModelRow {
                name: name.to_owned(),
                stage: estimate,
                tokens: estimate.tokens,
                flops: estimate.flops,
            }),
        }
    }
    rows
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
    if args.is_empty() {
        "cargo run --release --bin sweep".into()
    } else {
        format!("cargo run --release --bin sweep -- {}", args.join(" "))
    }
}
