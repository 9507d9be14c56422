//! `bench`: speed and memory of training steps and operations, against the machine's own rates and PyTorch.

pub mod cases;
pub mod measure;
pub mod model;
mod operations;
mod operator;
mod process;
mod scaling;
mod steps;
mod streaming;

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use upcycle_lab::Workload;

use crate::{
    backend::{BackendKind, Machine, machine},
    limits::on_cpu,
    output, program,
    sweep::PrecisionArg,
    threads::ThreadsArg,
};
use model::Model;

/// Measure training steps and single operations, each beside its reference body, against the machine's own rates.
///
/// Prints tables; `--json` prints everything measured. Steps run in processes of their own, alternating with
/// PyTorch's where asked for, so that ratios hold on a machine whose speed drifts.
#[derive(Debug, Parser)]
#[command(name = "bench", version = program::version())]
pub struct BenchArgs {
    /// What to measure.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "steps,operations"
    )]
    what: Vec<What>,
    /// Models to measure: t (3.5 million parameters, 16 experts), s (41 million, 32), w (307 million, 256), 154m (the paper's, for a
    /// GPU), or scales by name or TOML file, whose operations are measured with as many key-value heads as heads.
    #[arg(
        long,
        visible_alias = "model",
        value_delimiter = ',',
        value_name = "NAME|FILE",
        default_value = "t,s,w"
    )]
    models: Vec<String>,
    /// Measured steps of a round; two more go before.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Rounds of each model, alternating with PyTorch's.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// A Python with PyTorch, to compare with; needs --torch-script.
    #[arg(long, value_name = "PYTHON", requires = "torch_script")]
    compare_torch: Option<PathBuf>,
    /// A script that takes the model's sizes as flags and prints a JSON line with `tokens_per_s`.
    #[arg(long, value_name = "FILE")]
    torch_script: Option<PathBuf>,
    /// Values of the script's `--experts-impl`; the best one of a round counts.
    #[arg(long, value_delimiter = ',', default_value = "loop,grouped")]
    torch_impls: Vec<String>,
    /// Further flags of the script, such as "--device cuda --bf16".
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    torch_flags: Option<String>,
    /// Leave out the whole steps with reference bodies, which are slow.
    #[arg(long)]
    no_reference: bool,
    /// The device's peak in TFLOP/s, as its data sheet has it, for the model FLOPs utilisation.
    #[arg(long, value_name = "TFLOPS", value_parser = positive)]
    peak_tflops: Option<f64>,
    /// MoE layers of the generated checkpoint, of 0.8 GB each; a round needs five times as much disk.
    #[arg(long, value_name = "N", default_value = "3")]
    checkpoint_layers: NonZeroUsize,
    /// Where checkpoints are generated.
    #[arg(long, value_name = "DIR", default_value = ".")]
    scratch: PathBuf,
    /// Precision of matrix products in whole steps.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    #[command(flatten)]
    threads: ThreadsArg,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Measure this job, as JSON, and print times as JSON.
    #[arg(long, hide = true)]
    worker: Option<String>,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Whole training steps.
    Steps,
    /// Single operations, forward and backward.
    Operations,
    /// Model S with more experts at the same top-K.
    Scaling,
    /// Growing a model with 1 GB of parameters, beside a plain copy of the result.
    Operator,
    /// Growing a generated checkpoint of transformers on disk, beside a plain copy of its output.
    Streaming,
}

/// Everything measured.
#[derive(Debug, Default, Serialize)]
struct Figures {
    backend: String,
    device: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<steps::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<operations::Table>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<scaling::Table>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<operator::Table>,
    #[serde(skip_serializing_if = "Option::is_none")]
    streaming: Option<streaming::Table>,
}

impl BenchArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        self.threads.apply()?;
        if let Some(job) = &self.worker {
            let job: process::Job = serde_json::from_str(job)?;
            return Ok(output::line(serde_json::to_string(&job.here()?)?)?);
        }
        let models = self.models.iter().map(|name| Model::named(name));
        let models: Vec<Model> = models.collect::<Result<_>>()?;
        let Machine { engine, meter } = machine(self.backend)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let mut figures = Figures {
            backend: engine.backend().to_owned(),
            device: engine.device().to_owned(),
            ..Figures::default()
        };
        for what in &self.what {
            match what {
                What::Steps => {
                    for model in &models {
                        let row = steps::measure(model, &self)?;
                        self.show(|| row.lines())?;
                        figures.steps.push(row);
                    }
                }
                What::Operations => {
                    for model in &models {
                        let table =
                            operations::measure(model, meter.as_ref(), on_cpu(engine.as_ref()));
                        self.show(|| table.lines())?;
                        figures.operations.push(table);
                    }
                }
                What::Scaling => {
                    let table = scaling::measure(&self)?;
                    self.show(|| table.lines())?;
                    figures.scaling = Some(table);
                }
                What::Operator => {
                    let table = operator::measure(self.rounds.into(), meter.as_ref())?;
                    self.show(|| table.lines())?;
                    figures.operator = Some(table);
                }
                What::Streaming => {
                    let layers = self.checkpoint_layers.get();
                    let table = streaming::measure(layers, self.rounds.into(), &self.scratch)?;
                    self.show(|| table.lines())?;
                    figures.streaming = Some(table);
                }
            }
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&figures)?)?;
        }
        Ok(())
    }

    /// Prints a table as soon as it is there.
    fn show(&self, lines: impl FnOnce() -> Vec<String>) -> Result<()> {
        if !self.json {
            for line in lines() {
                output::line(line)?;
            }
        }
        Ok(())
    }

    /// A job on training steps of a model.
    fn job(&self, model: &Model) -> process::Job {
        process::Job {
            backend: self.backend,
            reference: false,
            workload: Workload {
                model: model.config.clone(),
                batch: model.batch.clone(),
                precision: self.precision.map(Into::into).unwrap_or_default(),
                warmup: 2,
                steps: self.steps.into(),
            },
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && *value > 0.0)
        .ok_or_else(|| "a number above 0 is needed".into())
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
