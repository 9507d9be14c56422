//! Flags of `sweep`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use upcycle_kernels::Precision;
use upcycle_lab::{Growth, Protocol, SweepConfig, presets};

use super::{nodes::NodesArgs, plan_file::PlanFile, tasks::TasksArgs};
use crate::{
    amount,
    backend::BackendKind,
    baseline::BaselineArg,
    data_args::DataArgs,
    devices::{DevicesArgs, LinkArgs},
    kernels::KernelsArg,
    limits::{Force, MemoryArgs},
    threads::ThreadsArg,
    ui::UiArg,
};

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Sweep to start from: quick; reproduction, over three lengths of pre-training; of the paper's tables table1, table2a, table2b, table3, table4, table7, table8; multipliers,
    /// topk, exact, softmax; or a TOML file, also the sweep.toml of a sweep that was started. Flags override what it says.
    #[arg(long, value_name = "NAME|FILE", default_value = "quick")]
    pub(super) config: String,
    /// Scales: tiny, tiny-softmax, small, medium; the paper's 154M, 305M, 1B, 2.4B, 0.7B-top1, 1B-interleaved, 7B-interleaved; or TOML
    /// files.
    #[arg(
        long,
        visible_alias = "scale",
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) scales: Option<Vec<String>>,
    /// Experts before upcycling, E. [default: the scale's]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) experts: Option<Vec<usize>>,
    /// Multipliers m: each model grows to m * E experts.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) multipliers: Option<Vec<f64>>,
    /// Experts of a token, K. [default: the scale's]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) top_k: Option<Vec<usize>>,
    /// Budgets of continued pre-training, as fractions of the pre-training steps.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) cpt: Option<Vec<f64>>,
    /// Shares of all steps at which the operator is applied, tau / T; with one --cpt, which then only says how many steps
    /// there are in all.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) transitions: Option<Vec<f64>>,
    /// Stable learning rates after the operator over that before it, for all three models alike: 0.5, or with `--protocol
    /// annealed` the height of the new warmup.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) cpt_lr: Option<Vec<f64>>,
    /// Lengths of pre-training in tokens, such as 1M,4M,16M, in place of the scale's one; all share one trunk.
    #[arg(
        long,
        value_parser = amount::parse,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) lengths: Option<Vec<u64>>,
    /// Recipes: auto, paper, uniform, exact, short-release, separated, released, hyperplane, others that --list shows, or TOML files.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) recipes: Option<Vec<String>>,
    /// Number of seeds.
    #[arg(long, value_name = "N", help_heading = "Axes")]
    pub(super) seeds: Option<u64>,
    /// The first seed. The recipes here were chosen on seeds from 0 on: confirm what you find with seeds from 100 on.
    #[arg(long, value_name = "N", help_heading = "Axes")]
    pub(super) first_seed: Option<u64>,
    /// Ways to more than twice the experts.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) growth: Option<Vec<GrowthArg>>,
    /// When doublings happen, as shares of the stable part of the shortest budget: 0,0.2,0.6. [default: even distances]
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) stages: Option<Vec<f64>>,
    /// When the learning rate decays.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "LIST",
        help_heading = "Axes"
    )]
    pub(super) protocol: Option<Vec<ProtocolArg>>,
    /// Pre-training tokens in place of the scale's, such as 1M or 1.5B.
    #[arg(long, value_parser = amount::parse, value_name = "TOKENS", help_heading = "Size")]
    pub(super) tokens: Option<u64>,
    /// Vocabulary in place of the scale's.
    #[arg(long, value_name = "N", help_heading = "Size")]
    pub(super) vocab: Option<usize>,
    /// Context in place of the scale's, in tokens.
    #[arg(long, value_name = "N", help_heading = "Size")]
    pub(super) context: Option<usize>,
    /// Highest learning rate in place of the scale's. The best one falls as training gets longer.
    #[arg(long, value_name = "RATE", help_heading = "Size")]
    pub(super) peak_lr: Option<f64>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t, help_heading = "Running")]
    pub(super) backend: BackendKind,
    #[command(flatten)]
    pub(super) devices: DevicesArgs,
    #[command(flatten)]
    pub(super) link: LinkArgs,
    /// With --dry-run: what each device computes in training, such as 400TFLOP/s, for a plan of devices that need not be here.
    /// [default: measured where there is one]
    #[arg(long, value_name = "SPEED", value_parser = amount::parse_speed, requires = "dry_run", help_heading = "Running")]
    pub(super) device_speed: Option<f64>,
    /// Precision of matrix products; parameters are always f32.
    #[arg(long, value_enum, help_heading = "Running")]
    pub(super) precision: Option<PrecisionArg>,
    /// Stages at a time. [default: one for each of --threads for small models on a CPU, else 1]
    #[arg(long, value_name = "N", help_heading = "Running")]
    pub(super) jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(super) threads: ThreadsArg,
    /// Seconds between checkpoints of a stage.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        help_heading = "Running"
    )]
    pub(super) checkpoint_seconds: u64,
    /// Folder of all runs; stages in it are never computed twice.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "runs",
        help_heading = "Running"
    )]
    pub(super) out: PathBuf,
    /// Name of this sweep's folder in it. [default: the sweep's name, with a hash if flags change it]
    #[arg(long, value_name = "NAME", help_heading = "Running")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
    #[command(flatten)]
    pub(super) kernels: KernelsArg,
    /// Who runs the stages: this process, or jobs of a Slurm cluster, one a stage.
    #[arg(long, value_enum, default_value_t, help_heading = "Many machines")]
    pub(super) launcher: Launcher,
    /// Further arguments of sbatch, such as --partition=gpu; may be repeated. They override what is worked out.
    #[arg(
        long,
        value_name = "ARG",
        allow_hyphen_values = true,
        help_heading = "Many machines"
    )]
    pub(super) slurm_args: Vec<String>,
    #[command(flatten)]
    pub(super) nodes: NodesArgs,
    /// Only submit the jobs; the same command without this flag collects the results.
    #[arg(long, help_heading = "Many machines")]
    pub(super) detach: bool,
    /// List scales, sweeps and recipes, and stop.
    #[arg(long, help_heading = "Running")]
    pub(super) list: bool,
    /// Print what would run and what it would cost, and stop.
    #[arg(long, help_heading = "Running")]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) baseline: BaselineArg,
    #[command(flatten)]
    pub(super) force: Force,
    #[command(flatten)]
    pub(super) ui: UiArg,
    /// At the end write metrics.jsonl, TensorBoard's event file and curve.csv of every training stage into logs/ of the
    /// sweep's folder.
    #[arg(long, help_heading = "Running")]
    pub(super) logs: bool,
    #[command(flatten)]
    pub(super) tasks: TasksArgs,
    /// Print results (or with --dry-run the estimate) as JSON.
    #[arg(long, help_heading = "Running")]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Launcher {
    /// This process.
    #[default]
    Local,
    /// Jobs of a Slurm cluster; start it where sbatch is, in a folder that all nodes share.
    Slurm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ProtocolArg {
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
pub(super) enum GrowthArg {
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

impl SweepArgs {
    /// The sweep's file with the flags over it.
    pub(super) fn sweep_config(&self) -> Result<SweepConfig> {
        let started = PlanFile::sweep_in(Path::new(&self.config))?;
        let file = match started {
            Some(sweep) => sweep,
            None => presets::sweep(&self.config)?,
        };
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
        set(&mut config.first_seed, &self.first_seed);
        set(&mut config.lengths, &self.lengths);
        set(&mut config.cpt_lr, &self.cpt_lr);
        set(&mut config.transitions, &self.transitions);
        fn converted<A: Copy + Into<T>, T>(args: &Option<Vec<A>>) -> Option<Vec<T>> {
            let convert = |args: &Vec<A>| args.iter().map(|&arg| arg.into()).collect();
            args.as_ref().map(convert)
        }
        set(&mut config.growth, &converted(&self.growth));
        set(&mut config.stages, &self.stages);
        set(&mut config.protocols, &converted(&self.protocol));
        if let Some(precision) = self.precision {
            config.precision = precision.into();
        }
        // A file's tokens are those of its scales. Tokens and lengths of the flags replace both of the file; together they are an
        // error.
        if self.scales.is_some() || self.lengths.is_some() {
            config.tokens = None;
        }
        if self.tokens.is_some() && self.lengths.is_none() {
            config.lengths.clear();
        }
        config.tokens = self.tokens.or(config.tokens);
        config.vocab = self.vocab.or(config.vocab);
        config.context = self.context.or(config.context);
        config.peak_lr = self.peak_lr.or(config.peak_lr);
        if let Some(data) = self.data.config()? {
            config.data = data;
        }
        if let Some(name) = &self.name {
            config.name = name.clone();
        } else if config != file {
            // Another sweep must not overwrite the report of the one in the file.
            config.name = format!("{}-{}", file.name, config.short_hash()?);
        }
        Ok(config)
    }
}
