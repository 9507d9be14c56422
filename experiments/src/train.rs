//! `train`: trains one model.

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{Scale, presets};
use upcycle_lm::LmConfig;
use upcycle_train::{
    BatchConfig, CheckpointInfo, DataSchedule, Engine, EvaluationConfig, Schedule, Start,
    TrainEvent, TrainJob, TrainOutcome, TrainSpec, write_atomically,
};

use crate::{
    amount,
    backend::{BackendKind, engine},
    data_args::DataArgs,
    inspect::checkpoint_of,
    output,
    progress::style,
    sweep::PrecisionArg,
};

/// Train one model, from scratch or from a checkpoint such as an upcycled one.
///
/// A run that is stopped goes on from its last checkpoint when it is started again with the same flags.
#[derive(Debug, Parser)]
#[command(name = "train", version)]
pub struct TrainArgs {
    /// Folder of the run: metrics.jsonl, result.json and checkpoints.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Scale: tiny, small, 154M, 1B, or a TOML file. With --from it gives batch and learning rate only.
    #[arg(long, value_name = "NAME|FILE", default_value = "tiny")]
    scale: String,
    /// Continue this checkpoint (or training run) on the continued-pre-training split.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Tokens to train on, such as 1M. [default: the scale's]
    #[arg(long, value_parser = amount::parse, value_name = "TOKENS")]
    tokens: Option<u64>,
    /// Experts, in place of the scale's.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    experts: Option<usize>,
    /// Experts of a token, in place of the scale's.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    top_k: Option<usize>,
    /// Highest learning rate, in place of the scale's.
    #[arg(long, value_name = "LR")]
    peak_lr: Option<f64>,
    /// Steps of warmup. [default: the scale's; with --from none]
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u64>,
    /// Keep the learning rate at its peak to the end, for a trunk to be upcycled.
    #[arg(long)]
    no_decay: bool,
    /// Seed of parameters and data order.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    data: DataArgs,
    /// Folder of packed data.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "runs/data",
        help_heading = "Data"
    )]
    data_cache: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    /// Precision of matrix products; parameters are always f32.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    /// Seconds between checkpoints.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    checkpoint_seconds: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What a run's folder belongs to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RunFile {
    model: LmConfig,
    seed: u64,
    from: Option<PathBuf>,
    spec: TrainSpec,
    data: String,
    backend: String,
}

impl TrainArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let config = self.data.config().unwrap_or_default();
        let data = Dataset::open(&config, &self.data_cache)?;
        let parent = self
            .from
            .as_deref()
            .map(|from| {
                let path = checkpoint_of(from);
                CheckpointInfo::read(&path).map(|info| (path, info))
            })
            .transpose()?;
        let mut scale = self.scale(&data)?;
        if let Some((_, info)) = &parent {
            scale.model = info.model.clone();
        }
        scale.model.validate()?;
        if let Some(tokens) = self.tokens {
            scale = scale.with_pretrain_tokens(tokens);
        }
        let from_step = parent.as_ref().map_or(0, |(_, info)| info.step);
        let spec = self.spec(&scale, parent.is_some(), from_step);
        spec.validate()?;
        let engine = engine(self.backend)?;
        eprintln!("backend {}: {}", engine.backend(), engine.device());
        let run = RunFile {
            model: scale.model.clone(),
            seed: self.seed,
            from: parent.as_ref().map(|(path, _)| path.clone()),
            spec,
            data: data.fingerprint().to_owned(),
            backend: engine.backend().to_owned(),
        };
        claim(&self.out, &run)?;
        let start = match parent {
            Some((path, _)) => Start::Checkpoint(path),
            None => Start::Initial {
                model: Box::new(scale.model),
                seed: self.seed,
            },
        };
        let outcome = self.train(engine.as_ref(), &run.spec, &start, &data, from_step)?;
        let json = serde_json::to_string_pretty(&outcome)?;
        write_atomically(&self.out.join("result.json"), json.as_bytes())?;
        if self.json {
            output::line(json)?;
        } else {
            output::line(format!(
                "step {}, {} tokens, validation loss {:.4}, {} of training",
                outcome.step,
                output::count(outcome.tokens as f64),
                outcome.evaluation.loss,
                output::duration(outcome.train_seconds),
            ))?;
        }
        eprintln!("checkpoint: {}", checkpoint_of(&self.out).display());
        Ok(())
    }

    fn scale(&self, data: &Dataset) -> Result<Scale> {
        let mut scale = presets::scale(&self.scale)?;
        if let Some(experts) = self.experts {
            scale.model.experts = experts;
        }
        if let Some(top_k) = self.top_k {
            scale.model.top_k = top_k;
        }
        if scale.model.vocab == 0 {
            scale.model.vocab = data.vocab_size();
        }
        Ok(scale)
    }

    fn spec(&self, scale: &Scale, continued: bool, from: u64) -> TrainSpec {
        let training = &scale.training;
        let end = from + training.pretrain_steps;
        let decay = (training.pretrain_steps / 10).max(1);
        let warmup = if continued { 0 } else { training.warmup_steps };
        TrainSpec {
            schedule: Schedule {
                peak_lr: self.peak_lr.unwrap_or(training.peak_lr),
                warmup_from: from,
                warmup_steps: self.warmup.unwrap_or(warmup),
                decay_from: (!self.no_decay).then_some(end - decay),
                end,
            },
            optimizer: scale.optimizer.clone(),
            batch: BatchConfig {
                rows: training.rows,
                context: scale.model.context,
                accumulation: training.accumulation,
            },
            data: DataSchedule {
                cpt_from: continued.then_some(from),
                seed: self.seed,
            },
            balancing: scale.balancing.clone(),
            precision: self.precision.map(Into::into).unwrap_or_default(),
            evaluation: EvaluationConfig {
                every: training.evaluation_steps,
                rows: training.evaluation_rows,
            },
        }
    }

    fn train(
        &self,
        engine: &dyn Engine,
        spec: &TrainSpec,
        start: &Start,
        data: &Dataset,
        from: u64,
    ) -> Result<TrainOutcome> {
        let job = TrainJob {
            spec,
            start,
            dir: &self.out,
            data,
            checkpoint_interval: Duration::from_secs(self.checkpoint_seconds),
        };
        let mut display = Display::new(from, spec.schedule.end);
        let outcome = engine.train(&job, &mut |event| display.event(&event));
        display.bar.finish_and_clear();
        Ok(outcome?)
    }
}

/// Takes a folder for a run, or checks that it is this run's.
fn claim(dir: &Path, run: &RunFile) -> Result<()> {
    let path = dir.join("run.json");
    if path.exists() {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let there: Option<RunFile> = serde_json::from_str(&text).ok();
        if there.as_ref() != Some(run) {
            bail!(
                "{} holds another run; choose another folder for --out, or give the flags that it was started with",
                dir.display()
            );
        }
        return Ok(());
    }
    write_atomically(&path, serde_json::to_string_pretty(run)?.as_bytes())?;
    Ok(())
}

/// A bar on a terminal, plain lines elsewhere.
struct Display {
    bar: ProgressBar,
    from: u64,
    end: u64,
    plain: bool,
    last_line: Instant,
}

impl Display {
    fn new(from: u64, end: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(end - from), ProgressDrawTarget::stderr());
        bar.set_style(style(
            "{bar:30.cyan/black} {pos}/{len} steps  {msg}  {elapsed_precise} elapsed, {eta} left",
        ));
        Self {
            bar,
            from,
            end,
            plain,
            last_line: Instant::now(),
        }
    }

    fn event(&mut self, event: &TrainEvent) {
        match *event {
            TrainEvent::Resumed { step } => {
                self.bar.set_position(step - self.from);
                self.bar.reset_eta();
                self.say(&format!("resumed at step {step}"));
            }
            TrainEvent::Step {
                step,
                loss,
                tokens,
                seconds,
            } => {
                let rate = output::count(tokens as f64 / seconds.max(1e-9));
                self.bar.set_position(step - self.from);
                self.bar
                    .set_message(format!("loss {loss:.4}  {rate} tokens/s"));
                if self.plain && self.last_line.elapsed() >= Duration::from_secs(10) {
                    self.last_line = Instant::now();
                    let left = self.bar.eta().as_secs_f64();
                    eprintln!(
                        "step {step} of {}  loss {loss:.4}  {rate} tokens/s  {} left",
                        self.end,
                        output::duration(left)
                    );
                }
            }
            TrainEvent::Evaluated { step, loss } => {
                self.say(&format!("step {step}  validation loss {loss:.4}"));
            }
        }
    }

    fn say(&self, line: &str) {
        if self.plain {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}
