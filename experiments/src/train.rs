//! `train`: trains one model.

use std::{
    fs::{self, File},
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_lab::{Scale, presets, training_seconds};
use upcycle_lm::{CostModel, LmConfig};
use upcycle_train::{
    BatchConfig, CheckpointInfo, DataSchedule, Engine, EvaluationConfig, Schedule, Start,
    TrainEvent, TrainJob, TrainOutcome, TrainSpec, write_atomically,
};

use crate::{
    amount,
    backend::{BackendKind, engine},
    data_args::DataArgs,
    inspect::checkpoint_of,
    limits::{Force, refusal},
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
    #[command(flatten)]
    force: Force,
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
        output::note!("backend {}: {}", engine.backend(), engine.device());
        if run_is_all_warmup(&spec.schedule, from_step) {
            bail!(
                "--warmup {} leaves none of the {} steps at the peak learning rate; lower it",
                spec.schedule.warmup_steps,
                spec.schedule.end - from_step
            );
        }
        let run = RunFile {
            model: scale.model.clone(),
            seed: self.seed,
            from: parent.as_ref().map(|(path, _)| path.clone()),
            spec,
            data: data.fingerprint().to_owned(),
            backend: engine.backend().to_owned(),
        };
        let cost = CostModel::new(&run.model);
        let batch = &run.spec.batch;
        let flops = cost.train_flops_per_token(batch.context) + cost.head_flops_per_token();
        let tokens = scale.training.pretrain_steps * batch.tokens();
        let seconds = training_seconds(flops * tokens as f64, engine.matmul_rate());
        let memory = cost
            .memory(batch.rows * batch.context, batch.context)
            .total();
        if let Some(refusal) =
            refusal(engine.as_ref(), memory, seconds).filter(|_| !self.force.force)
        {
            bail!(refusal);
        }
        data.check_shape(batch.context)?;
        if data.vocab_size() > run.model.vocab {
            bail!(
                "the data has {} tokens, the model knows {}; give the --data and --tokenizer that it was trained with",
                data.vocab_size(),
                run.model.vocab
            );
        }
        let _lock = claim(&self.out, &run)?;
        let result = self.out.join("result.json");
        if let Ok(text) = fs::read_to_string(&result)
            && let Ok(outcome) = serde_json::from_str(&text)
        {
            output::note!("{} is finished already", self.out.display());
            return self.print(&outcome);
        }
        let start = match parent {
            Some((path, _)) => Start::Checkpoint(path),
            None => Start::Initial {
                model: Box::new(run.model.clone()),
                seed: self.seed,
            },
        };
        let outcome = self.train(engine.as_ref(), &run.spec, &start, &data, from_step)?;
        let json = serde_json::to_string_pretty(&outcome)?;
        write_atomically(&result, json.as_bytes())?;
        self.print(&outcome)
    }

    fn print(&self, outcome: &TrainOutcome) -> Result<()> {
        if self.json {
            output::line(serde_json::to_string_pretty(outcome)?)?;
        } else {
            output::line(format!(
                "step {}, {} tokens, validation loss {:.4}, {} of training",
                outcome.step,
                output::count(outcome.tokens as f64),
                outcome.evaluation.loss,
                output::duration(outcome.train_seconds),
            ))?;
        }
        output::note!("checkpoint: {}", checkpoint_of(&self.out).display());
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

fn run_is_all_warmup(schedule: &Schedule, from: u64) -> bool {
    let stable_end = schedule.decay_from.unwrap_or(schedule.end);
    schedule.warmup_steps > 1 && from + schedule.warmup_steps > stable_end
}

/// Takes a folder for a run and locks it, or checks that it is this run's.
fn claim(dir: &Path, run: &RunFile) -> Result<File> {
    let path = dir.join("run.json");
    let begun = dir.join("metrics.jsonl").exists();
    if begun {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let there: Option<RunFile> = serde_json::from_str(&text).ok();
        if there.as_ref() != Some(run) {
            bail!(
                "{} holds another run; choose another folder for --out, give the flags that it was started with (see run.json there), or remove it",
                dir.display()
            );
        }
    } else if !path.exists() && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
    {
        bail!(
            "{} is not empty and holds no training run; choose another folder for --out",
            dir.display()
        );
    }
    write_atomically(&path, serde_json::to_string_pretty(run)?.as_bytes())?;
    let lock = File::create(dir.join("lock"))
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    if lock.try_lock().is_err() {
        bail!("another process is training in {}", dir.display());
    }
    Ok(lock)
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
                    output::note!(
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
            output::note!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}
