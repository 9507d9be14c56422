//! `train`: trains one model.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_files::{Lock, LockError};
use upcycle_hf::{Export, ExportType, Fit, HfCheckpoint, Import, RouterStats};
use upcycle_lab::{Scale, peak_memory, presets, training_seconds};
use upcycle_lm::{CostModel, LmConfig, WeightSource};
use upcycle_moe::GrowthState;
use upcycle_report::number;
use upcycle_train::{
    BatchConfig, CheckpointInfo, DataSchedule, Engine, EvaluationConfig, PassConfig, Schedule,
    Start, TrainEvent, TrainJob, TrainOutcome, TrainSpec, read_metrics, write_curve,
};

#[cfg(feature = "tui")]
use crate::dashboard::{Dashboard, StageProgress};
use crate::{
    amount,
    backend::{BackendKind, Machine, machine_on},
    data_args::{self, DataArgs, check_vocabulary},
    generate::sample,
    inspect::checkpoint_of,
    interrupt,
    kernels::KernelsArg,
    limits::{self, Force, MemoryArgs, advice, pass_note, refusal, slow_precision},
    output,
    progress::style,
    routers::Routers,
    sources,
    sweep::PrecisionArg,
    ui::{Ui, UiArg},
    upcycle::{HEADING, SHARD_BYTES},
};

/// Train one model, from scratch or from a checkpoint such as an upcycled one.
///
/// A run that is stopped goes on from its last checkpoint when it is started again with the same flags.
#[derive(Debug, Parser)]
#[command(name = "train", version)]
pub struct TrainArgs {
    /// Folder of the run: metrics.jsonl, TensorBoard's event file, checkpoints, and at the end curve.csv and result.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Scale: tiny, tiny-softmax, small, medium; the paper's 154M, 305M, 1B, 2.4B, 0.7B-top1, 1B-interleaved, 7B-interleaved; or a TOML
    /// file. With --from or --init it gives batch and schedule only.
    #[arg(long, value_name = "NAME|FILE", default_value = "tiny")]
    scale: String,
    /// Continue this checkpoint (or training run) on the continued-pre-training split.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Continue a checkpoint of Hugging Face's transformers, a folder or a model of the hub, of a family that can be run here
    /// (`upcycle --families`). Its tokenizer is used for --data; experts are balanced by selection biases where the family has such,
    /// else by an auxiliary loss.
    #[arg(
        long,
        value_name = "DIR|hf:ORG/NAME[@REVISION]",
        conflicts_with = "from",
        help_heading = HEADING
    )]
    init: Option<String>,
    /// Tokens of a sequence with --init. [default: the model's, at most 1024]
    #[arg(
        long,
        value_name = "N",
        requires = "init",
        help_heading = HEADING
    )]
    context: Option<usize>,
    /// Write the trained model to this folder, as transformers loads it: in the layout of --init, or of the family
    /// that fits the model.
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    export: Option<PathBuf>,
    /// Take layout, configuration and all other files of the export from this checkpoint. [default: that of --init]
    #[arg(
        long,
        value_name = "DIR|hf:ORG/NAME[@REVISION]",
        requires = "export",
        help_heading = HEADING
    )]
    export_like: Option<String>,
    /// How exported parameters are stored.
    #[arg(
        long,
        value_enum,
        default_value_t,
        help_heading = HEADING
    )]
    export_type: ExportTypeArg,
    /// Largest size of an exported file, such as 500M or 5GB.
    #[arg(long, value_name = "BYTES", value_parser = amount::parse_bytes, default_value_t = SHARD_BYTES, help_heading = HEADING)]
    shard_size: u64,
    /// Tokens to train on, such as 1M. [default: the scale's]
    #[arg(long, value_parser = amount::parse, value_name = "TOKENS")]
    tokens: Option<u64>,
    /// Experts, in place of the scale's.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "init"])]
    experts: Option<usize>,
    /// Experts of a token, in place of the scale's.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "init"])]
    top_k: Option<usize>,
    /// Highest learning rate, in place of the scale's. [default with --init: 1e-4]
    #[arg(long, value_name = "LR")]
    peak_lr: Option<f64>,
    /// Balance experts by an auxiliary loss of this weight in place of selection biases, which other programs do not
    /// know. [default with --init: 0.01]
    #[arg(long, value_name = "WEIGHT")]
    auxiliary_loss: Option<f32>,
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
    /// Go on with --from on data that the checkpoint was not trained on.
    #[arg(long, requires = "from", help_heading = "Data")]
    other_data: bool,
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
    /// GPUs that train the model together, each a share of the sequences of a batch. Needs the feature multi-device.
    #[arg(long, value_name = "N", default_value = "1")]
    devices: NonZeroUsize,
    /// Precision of matrix products; parameters are always f32.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    kernels: KernelsArg,
    /// Seconds between checkpoints.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    checkpoint_seconds: u64,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    ui: UiArg,
    /// Show how the trained model continues this text. [default with --data: the beginning of the validation text]
    #[arg(long, value_name = "TEXT", conflicts_with = "no_sample")]
    sample: Option<String>,
    /// Show no text of the trained model.
    #[arg(long)]
    no_sample: bool,
    /// A line every N steps, with bars or plain. metrics.jsonl has every step. [default: with --ui plain every 10 seconds]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Running"
    )]
    log_every: Option<u64>,
    /// Keep no event file for TensorBoard.
    #[arg(long, help_heading = "Running")]
    no_tensorboard: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Defaults for models that were trained elsewhere.
const INIT_PEAK_LR: f64 = 1e-4;
const INIT_AUXILIARY_LOSS: f32 = 0.01;
const INIT_CONTEXT: usize = 1024;

/// How exported parameters are stored.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ExportTypeArg {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits with a longer fraction.
    F16,
}

impl From<ExportTypeArg> for ExportType {
    fn from(arg: ExportTypeArg) -> Self {
        match arg {
            ExportTypeArg::F32 => Self::F32,
            ExportTypeArg::Bf16 => Self::Bf16,
            ExportTypeArg::F16 => Self::F16,
        }
    }
}

/// What a run's folder belongs to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RunFile {
    model: LmConfig,
    seed: u64,
    from: Option<PathBuf>,
    #[serde(default)]
    init: Option<PathBuf>,
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
        // Said before models are loaded.
        self.ui.choice()?;
        let init = self.import()?;
        let like = match &self.export_like {
            Some(like) => Some(HfCheckpoint::open(&sources::folder(like)?, None)?),
            None => None,
        };
        let like = like.as_ref().or(init.as_deref().map(Import::checkpoint));
        let config = match &init {
            Some(init) => {
                let config = self.data.config_with(&init.checkpoint().dir)?;
                Some(config.context("--init needs text to train on; give it with --data")?)
            }
            None => self.data.config()?,
        };
        let data = data_args::open(&config.unwrap_or_default(), &self.data_cache)?;
        let parent = self
            .from
            .as_deref()
            .map(|from| {
                sources::check(from)?;
                if sources::is_hugging_face(from) {
                    bail!(
                        "{} is a checkpoint of Hugging Face's transformers; train it with --init",
                        from.display()
                    );
                }
                let path = checkpoint_of(from);
                let info = CheckpointInfo::read(&path)?;
                Ok((path, info))
            })
            .transpose()?;
        let mut scale = self.scale(&data)?;
        if let Some((_, info)) = &parent {
            scale.model = info.model.clone();
        }
        if let Some(init) = &init {
            scale.model = init.config().clone();
            scale.training.peak_lr = INIT_PEAK_LR;
        }
        scale.model.validate()?;
        // A public model is balanced as its family is: by selection biases, or by a loss where it has none.
        let unbiased = init.as_ref().filter(|init| !init.has_selection_biases());
        if let Some(weight) = self
            .auxiliary_loss
            .or(unbiased.map(|_| INIT_AUXILIARY_LOSS))
        {
            scale.balancing.bias_rate = 0.0;
            scale.balancing.auxiliary_loss = weight;
        }
        if let Some(tokens) = self.tokens {
            scale = scale.with_pretrain_tokens(tokens);
        }
        let from_step = parent.as_ref().map_or(0, |(_, info)| info.step);
        let mut spec = self.spec(&scale, parent.is_some(), from_step);
        if init.is_some() {
            spec.data.cpt_from = Some(0);
        }
        spec.validate()?;
        let growths = parent.as_ref().map_or(&[][..], |(_, info)| &info.growths);
        let fit = self.check_export(&scale.model, growths, like, &spec)?;
        let Machine { engine, meter } = machine_on(self.backend, self.devices.get())?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let slow = slow_precision(engine.as_ref(), spec.precision);
        if let Some(slow) = slow.filter(|_| !self.force.force) {
            bail!(slow);
        }
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
            init: init.as_ref().map(|init| init.checkpoint().dir.clone()),
            spec,
            data: data.fingerprint().to_owned(),
            backend: engine.backend().to_owned(),
        };
        let cost = CostModel::new(&run.model);
        let batch = &run.spec.batch;
        let flops = cost.train_flops_per_token(batch.context) + cost.head_flops_per_token();
        let tokens = scale.training.pretrain_steps * batch.tokens();
        let seconds = training_seconds(flops * tokens as f64, meter.matmul_rate());
        let limit = self.memory.limit(engine.as_ref(), self.devices, 1);
        let passes = limit.passes(&run.model, batch, engine.backend());
        if let Some(note) = pass_note(passes) {
            output::note!("{note}");
        }
        let share = limit.share(batch);
        let memory = peak_memory(&run.model, &share, engine.backend(), passes);
        let too_large = (self.memory.available(engine.as_ref()))
            .filter(|&available| memory > available)
            .map(|available| advice(&limits::too_large("it", memory, available)));
        let refusal = too_large.or_else(|| refusal(engine.as_ref(), 0, seconds));
        if let Some(refusal) = refusal.filter(|_| !self.force.force) {
            bail!(refusal);
        }
        data.check_shape(batch.context)?;
        check_vocabulary(&data, "the model", run.model.vocab)?;
        if let Some((path, info)) = &parent {
            if !self.other_data {
                let checked = info.check_data(&data);
                checked.with_context(|| path.display().to_string())?;
            }
            self.check_biases(engine.as_ref(), path, fit.as_ref())?;
        }
        let _lock = claim(&self.out, &run)?;
        let result = self.out.join("result.json");
        if let Ok(text) = fs::read_to_string(&result)
            && let Ok(outcome) = serde_json::from_str(&text)
        {
            output::note!("{} is finished already", self.out.display());
            self.print(&outcome)?;
            return self.write_export(engine.as_ref(), like);
        }
        let start = match (parent, &init) {
            (Some((path, _)), _) => Start::Checkpoint(path),
            (None, Some(init)) => Start::Weights(init.clone()),
            (None, None) => Start::Initial {
                model: Box::new(run.model.clone()),
                seed: self.seed,
            },
        };
        self.kernels.choose(engine.as_ref(), run.spec.precision);
        let outcome = self.train(engine.as_ref(), &run.spec, &start, &data, from_step, passes)?;
        let json = serde_json::to_string_pretty(&outcome)?;
        upcycle_files::write(&result, json.as_bytes())?;
        self.print(&outcome)?;
        self.show_sample(engine.as_ref(), &data);
        self.write_export(engine.as_ref(), like)
    }

    /// The model of `--init`.
    fn import(&self) -> Result<Option<Arc<Import>>> {
        let Some(init) = &self.init else {
            return Ok(None);
        };
        let dir = sources::folder(init)?;
        if dir.join("checkpoint.json").exists() {
            bail!("{init} is a checkpoint of this program; continue it with --from");
        }
        let import = Import::new(HfCheckpoint::open(&dir, None)?)?;
        let left_out = import.left_out();
        if !left_out.is_empty() {
            output::note!(
                "layers of multi-token prediction ({left_out:?}) are left out: models here have none"
            );
        }
        let longest = import.config().context;
        let context = self.context.unwrap_or(longest.min(INIT_CONTEXT));
        if context > longest {
            bail!("--context {context} is longer than the {longest} tokens that {init} knows");
        }
        Ok(Some(Arc::new(import.with_context(context))))
    }

    /// What stands against `--export` is better said before training.
    fn check_export(
        &self,
        model: &LmConfig,
        growths: &[GrowthState],
        like: Option<&HfCheckpoint>,
        spec: &TrainSpec,
    ) -> Result<Option<Fit>> {
        let Some(to) = &self.export else {
            return Ok(None);
        };
        let end = spec.schedule.end;
        let growths: Vec<_> = growths.iter().map(|state| state.at_step(end)).collect();
        let fit = Export::check(model, &growths, like, self.export_type.into(), to)?;
        if spec.balancing.bias_rate > 0.0 && !fit.selection_biases {
            bail!(
                "--export: routers of {} do not know selection biases; balance with --auxiliary-loss 0.01",
                fit.family
            );
        }
        if fit.adds_shared_experts {
            output::note!(
                "exported as {}, which has shared experts: they are written as zeros, and change nothing",
                fit.family
            );
        }
        Ok(Some(fit))
    }

    /// A parent that was balanced by selection biases keeps them.
    fn check_biases(&self, engine: &dyn Engine, parent: &Path, fit: Option<&Fit>) -> Result<()> {
        let biased = |stats: &RouterStats| stats.bias.is_some();
        let Some(fit) = fit.filter(|fit| !fit.selection_biases) else {
            return Ok(());
        };
        if Routers::of(engine, parent)?.iter().any(biased) {
            bail!(
                "{} was balanced by selection biases, which routers of {} do not know, so it cannot be exported; train it from the beginning with --auxiliary-loss 0.01",
                parent.display(),
                fit.family
            );
        }
        Ok(())
    }

    fn write_export(&self, engine: &dyn Engine, like: Option<&HfCheckpoint>) -> Result<()> {
        let Some(to) = &self.export else {
            return Ok(());
        };
        let from = checkpoint_of(&self.out);
        let info = CheckpointInfo::read(&from)?;
        let (model, growths) = (&info.model, &info.growths);
        let tokenizer = fs::read_to_string(from.join("tokenizer.json")).ok();
        let dtype = self.export_type.into();
        let mut export = Export::new(model, growths, like, tokenizer, dtype, self.shard_size, to)?;
        let family = export.family().to_owned();
        engine.export(&from, &mut export)?;
        export.finish()?;
        output::note!("exported as {family}: {}", to.display());
        Ok(())
    }

    fn print(&self, outcome: &TrainOutcome) -> Result<()> {
        if self.json {
            output::line(serde_json::to_string_pretty(outcome)?)?;
        } else {
            output::line(format!(
                "step {}, {} tokens, validation loss {:.4}, {} of training",
                outcome.step,
                number::count(outcome.tokens as f64),
                outcome.evaluation.loss,
                number::duration(outcome.train_seconds),
            ))?;
        }
        output::note!("checkpoint: {}", checkpoint_of(&self.out).display());
        Ok(())
    }

    /// Shows a text of the trained model, where it was trained on text. What stands against it is told and no error: the model
    /// is there.
    fn show_sample(&self, engine: &dyn Engine, data: &Dataset) {
        let is_text = data.tokenizer_json().is_some();
        if self.json || self.no_sample || !(is_text || self.sample.is_some()) {
            return;
        }
        let dir = checkpoint_of(&self.out);
        match sample::take(engine, &dir, self.sample.as_deref(), data, self.seed) {
            Ok(sample) => output::note!("sample: {:?} {:?}", sample.prompt, sample.continuation),
            Err(error) => output::note!("there is no sample: {error:#}"),
        }
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
                test_rows: 0,
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
        passes: PassConfig,
    ) -> Result<TrainOutcome> {
        let job = TrainJob {
            spec,
            start,
            dir: &self.out,
            data,
            other_data: self.other_data,
            event_file: !self.no_tensorboard,
            passes,
            cancelled: &AtomicBool::new(false),
            stop: interrupt::flag(),
            checkpoint_interval: Duration::from_secs(self.checkpoint_seconds),
        };
        let ui = self.ui.choice()?;
        let mut display = Display::new(ui, self.log_every, from, spec.schedule.end);
        let outcome = interrupt::during(|| engine.train(&job, &mut |event| display.event(&event)))?;
        display.bar.finish_and_clear();
        drop(display);
        let outcome = outcome?;
        let lines = read_metrics(&self.out.join("metrics.jsonl"))?;
        write_curve(&self.out.join("curve.csv"), &lines)?;
        Ok(outcome)
    }
}

fn run_is_all_warmup(schedule: &Schedule, from: u64) -> bool {
    let stable_end = schedule.decay_from.unwrap_or(schedule.end);
    schedule.warmup_steps > 1 && from + schedule.warmup_steps > stable_end
}

/// Takes a folder for a run and locks it, or checks that it is this run's.
fn claim(dir: &Path, run: &RunFile) -> Result<Lock> {
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
    upcycle_files::write(&path, serde_json::to_string_pretty(run)?.as_bytes())?;
    match Lock::take(&dir.join("lock")) {
        Ok(lock) => Ok(lock),
        Err(LockError::File(error)) => Err(error.into()),
        Err(LockError::Busy) => bail!("another process is training in {}", dir.display()),
        Err(LockError::Unsupported) => bail!(
            "{} lies on a file system without locks, so that two processes could train in it; choose another folder for --out",
            dir.display()
        ),
    }
}

/// Time between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A bar, plain lines, or a dashboard.
struct Display {
    bar: ProgressBar,
    from: u64,
    end: u64,
    ui: Ui,
    /// Steps between lines, if they do not come by time.
    log_every: Option<u64>,
    last_line: Instant,
    #[cfg(feature = "tui")]
    dashboard: Option<Dashboard>,
}

impl Display {
    fn new(ui: Ui, log_every: Option<u64>, from: u64, end: u64) -> Self {
        let target = match ui {
            Ui::Bars => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(end - from), target);
        bar.set_style(style(
            "{bar:30.cyan/black} {pos}/{len} steps  {msg}  {elapsed_precise} elapsed, {eta} left",
        ));
        Self {
            bar,
            from,
            end,
            ui,
            log_every,
            last_line: Instant::now(),
            #[cfg(feature = "tui")]
            dashboard: None,
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
                let rate = number::count(tokens as f64 / seconds.max(1e-9));
                self.bar.set_position(step - self.from);
                self.bar
                    .set_message(format!("loss {loss:.4}  {rate} tokens/s"));
                #[cfg(feature = "tui")]
                if self.ui == Ui::Tui {
                    let seconds = seconds.max(1e-9);
                    self.show(loss, tokens as f64 / seconds);
                }
                let due = match self.log_every {
                    Some(every) => step.is_multiple_of(every),
                    None => self.ui == Ui::Plain && self.last_line.elapsed() >= PLAIN_INTERVAL,
                };
                if due {
                    self.last_line = Instant::now();
                    let left = number::duration(self.bar.eta().as_secs_f64());
                    self.say(&format!(
                        "step {step} of {}  loss {loss:.4}  {rate} tokens/s  {left} left",
                        self.end
                    ));
                }
            }
            TrainEvent::Evaluated { step, loss } => {
                #[cfg(feature = "tui")]
                if let Some(dashboard) = &mut self.dashboard {
                    dashboard.evaluated(loss);
                }
                self.say(&format!("step {step}  validation loss {loss:.4}"));
            }
        }
    }

    fn say(&self, line: &str) {
        match self.ui {
            Ui::Plain => output::note!("{line}"),
            Ui::Bars => self.bar.println(line),
            Ui::Tui | Ui::None => {}
        }
    }

    /// Shows a step on the dashboard.
    #[cfg(feature = "tui")]
    fn show(&mut self, loss: f64, rate: f64) {
        let steps = self.end - self.from;
        let stage = StageProgress {
            label: "steps".into(),
            done: self.bar.position(),
            steps,
        };
        let done = stage.done;
        Dashboard::show(&mut self.dashboard, loss, rate, [done, steps], &[stage]);
    }
}
