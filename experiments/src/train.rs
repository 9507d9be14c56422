//! `train`: trains one model.

mod run_file;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget};
use upcycle_data::{Dataset, Split};
use upcycle_hf::{Fit, HfCheckpoint, Import};
use upcycle_lab::{Needs, Scale, peak_memory, presets, processor, training_seconds};
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
    backend::{BackendKind, Machine, machine_of},
    data_args::{self, DataArgs, check_vocabulary},
    devices::DevicesArgs,
    export::{self, ExportTypeArg, Exporter},
    generate::sample,
    hub_data,
    inspect::checkpoint_of,
    interrupt::{self, Work},
    kernels::KernelsArg,
    limits::{self, Force, MemoryArgs, advice, pass_note, refusal, slow_precision},
    output,
    processes::{MeetArgs, Member},
    program,
    progress::style,
    repetition, sources,
    sweep::PrecisionArg,
    threads::ThreadsArg,
    training_file::{self, TrainingFile},
    ui::{Ui, UiArg},
    upcycle::{HEADING, SHARD_BYTES},
};
use run_file::RunFile;

/// Train one model, from scratch or from a checkpoint such as an upcycled one.
///
/// A run that is stopped goes on from its last checkpoint when it is started again with the same flags.
#[derive(Debug, Parser)]
#[command(name = "train", version = program::version())]
pub struct TrainArgs {
    /// Folder of the run: metrics.jsonl, TensorBoard's event file, checkpoints, and at the end curve.csv and result.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Scale: tiny, tiny-softmax, small, medium; the paper's 154M, 305M, 1B, 2.4B, 0.7B-top1, 1B-interleaved, 7B-interleaved; or a TOML
    /// file. With --from or --init it gives batch and schedule only. [default: tiny; with --from those of the run before]
    #[arg(long, value_name = "NAME|FILE")]
    scale: Option<String>,
    /// Continue this checkpoint (or training run) on the continued-pre-training split, with its data, tokenizer, optimizer and
    /// balancing.
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
    /// Tokens to train on, such as 1M. A run with --no-decay can be started again with more. [default: the scale's]
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
    /// Seed of parameters and data order. [default: 0; with --from that of the run before]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    devices: DevicesArgs,
    /// Precision of matrix products; parameters are always f32.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    #[command(flatten)]
    meet: MeetArgs,
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

const DEFAULT_SCALE: &str = "tiny";

/// Defaults for models that were trained elsewhere.
const INIT_PEAK_LR: f64 = 1e-4;
const INIT_AUXILIARY_LOSS: f32 = 0.01;
const INIT_CONTEXT: usize = 1024;

/// The checkpoint that is trained on.
struct Parent {
    path: PathBuf,
    info: CheckpointInfo,
    /// How it was trained; none where nobody has written it down.
    training: Option<TrainingFile>,
}

impl TrainArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        // Said before models are loaded.
        let ui = self.ui.choice()?;
        self.threads.apply()?;
        self.devices.check_team(self.meet.is_team())?;
        self.meet.join(|member| self.run_with(member, ui))
    }

    fn run_with(&self, member: &Member, ui: Ui) -> Result<()> {
        let init = member.after_leader(|| self.import())?;
        let like = match member.is_leader() {
            true => export::sample(self.export_like.as_deref())?,
            false => None,
        };
        let like = like.as_ref().or(init.as_deref().map(Import::checkpoint));
        let exporter = self.exporter(like).filter(|_| member.is_leader());
        let parent = self.parent()?;
        let before = parent.as_ref().and_then(|parent| parent.training.as_ref());
        let mut config = match (&init, &parent) {
            (Some(init), _) => {
                let config = self.data.config_with(&init.checkpoint().dir)?;
                config.context("--init needs text to train on; give it with --data")?
            }
            (None, Some(parent)) => {
                let data = before.map(|before| &before.data);
                self.data
                    .config_after(data, &parent.path, self.other_data)?
            }
            (None, None) => self.data.config()?.unwrap_or_default(),
        };
        let mut scale = self.scale(before)?;
        if let Some(parent) = &parent {
            scale.model = parent.info.model.clone();
        }
        if let Some(init) = &init {
            scale.model = init.config().clone();
            scale.training.peak_lr = INIT_PEAK_LR;
        }
        if let Some(tokens) = self.tokens {
            scale = scale.with_pretrain_tokens(tokens);
        }
        let before_data = before.map(|before| &before.data);
        let config = member.of_leader(|| {
            hub_data::settle(&mut config, before_data, Needs::of_scale(&scale))?;
            Ok(config)
        })?;
        let data = member.after_leader(|| data_args::open(&config, &self.data_cache, ui))?;
        if scale.model.vocab == 0 {
            scale.model.vocab = data.vocab_size();
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
        if let Some(peak_lr) = self.peak_lr {
            scale.training.peak_lr = peak_lr;
        }
        let from_step = parent.as_ref().map_or(0, |parent| parent.info.step);
        let seed = self.seed.or(before.map(|before| before.seed)).unwrap_or(0);
        let order = DataSchedule {
            cpt_from: match (&init, &parent) {
                (Some(_), _) => Some(0),
                // It goes on where the run before was in the data.
                (None, Some(_)) => (before.filter(|_| !self.other_data))
                    .and_then(|before| before.cpt_from)
                    .or(Some(from_step)),
                (None, None) => None,
            },
            seed,
        };
        let spec = self.spec(&scale, order, parent.is_some(), from_step);
        spec.validate()?;
        let devices = self.devices.of_processes(member.processes())?;
        devices.check(&scale.model, &spec.batch)?;
        let growths = parent.as_ref().map_or(&[][..], |it| &it.info.growths);
        let fit = match &exporter {
            Some(exporter) => Some(self.check_export(exporter, &scale.model, growths, &spec)?),
            None => None,
        };
        let Machine { engine, meter } = machine_of(self.backend, devices, member)?;
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
            seed,
            from: parent.as_ref().map(|parent| parent.path.clone()),
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
        let limit = self.memory.limit(engine.as_ref(), devices, member, 1);
        let processor = processor(engine.backend(), run.spec.precision);
        let passes = limit.passes_of(member.team(), &run.model, batch, processor)?;
        if let Some(note) = pass_note(passes) {
            output::note!("{note}");
        }
        // Training that goes on reads on where the run before was in the split.
        let (split, first) = match run.spec.data.cpt_from {
            Some(first) => (Split::Cpt, first),
            None => (Split::Pretrain, 0),
        };
        let read = run.spec.schedule.end.saturating_sub(first) * batch.tokens();
        if let Some(note) = repetition::note(&data, split, read) {
            output::note!("note: {note}");
        }
        let share = devices.share(batch);
        let memory = peak_memory(&run.model, &share, processor, passes, &devices);
        let too_large = (limit.bytes)
            .filter(|&available| memory > available)
            .map(|available| advice(&limits::too_large("it", memory, available)));
        let refusal = too_large.or_else(|| refusal(engine.as_ref(), 0, seconds));
        if let Some(refusal) = refusal.filter(|_| !self.force.force) {
            bail!(refusal);
        }
        data.check_shape(batch.context)?;
        check_vocabulary(&data, "the model", run.model.vocab)?;
        if let Some(Parent { path, info, .. }) = &parent {
            if !self.other_data {
                let checked = info.check_data(&data);
                checked.with_context(|| path.display().to_string())?;
            }
            if let (Some(exporter), Some(fit)) = (&exporter, &fit) {
                exporter.check_biases(engine.as_ref(), path, fit)?;
            }
        }
        let (run, _lock) = run.claim_for(member, &self.out)?;
        if member.is_leader() {
            let training = TrainingFile {
                scale,
                data: training_file::in_full(&config)?,
                seed,
                cpt_from: run.spec.data.cpt_from,
            };
            training.write(&self.out)?;
        }
        let result = self.out.join("result.json");
        let finished = member.of_leader(|| {
            let text = fs::read_to_string(&result).ok();
            let outcome = text.and_then(|text| serde_json::from_str::<TrainOutcome>(&text).ok());
            // A run that has become longer is not finished any more.
            Ok(outcome.filter(|outcome| outcome.step >= run.spec.schedule.end))
        })?;
        if let Some(outcome) = finished {
            output::note!("{} is finished already", self.out.display());
            self.print(&outcome)?;
            return self.write_export(engine.as_ref(), exporter.as_ref());
        }
        let start = match (&parent, &init) {
            (Some(parent), _) => Start::Checkpoint(parent.path.clone()),
            (None, Some(init)) => Start::Weights(init.clone()),
            (None, None) => Start::Initial {
                model: Box::new(run.model.clone()),
                seed,
            },
        };
        let precision = run.spec.precision;
        self.kernels.choose(engine.as_ref(), precision, member)?;
        let spec = devices.spec(&run.spec);
        let outcome = self.train(engine.as_ref(), &spec, &start, &data, from_step, passes)?;
        if !member.is_leader() {
            return Ok(());
        }
        if let Some(taken) = engine.memory() {
            output::note!(
                "memory of the device: {} were taken, {} planned",
                number::bytes(taken.reserved),
                number::bytes(memory)
            );
        }
        let lines = read_metrics(&self.out.join("metrics.jsonl"))?;
        write_curve(&self.out.join("curve.csv"), &lines)?;
        let json = serde_json::to_string_pretty(&outcome)?;
        upcycle_files::write(&result, json.as_bytes())?;
        self.print(&outcome)?;
        self.show_sample(engine.as_ref(), &data);
        self.write_export(engine.as_ref(), exporter.as_ref())
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
        exporter: &Exporter,
        model: &LmConfig,
        growths: &[GrowthState],
        spec: &TrainSpec,
    ) -> Result<Fit> {
        let end = spec.schedule.end;
        let growths: Vec<_> = growths.iter().map(|state| state.at_step(end)).collect();
        let fit = exporter.check(model, &growths)?;
        if spec.balancing.bias_rate > 0.0 && !fit.selection_biases {
            bail!(
                "--export: routers of {} do not know selection biases; balance with --auxiliary-loss 0.01",
                fit.family
            );
        }
        Ok(fit)
    }

    fn exporter<'a>(&'a self, like: Option<&'a HfCheckpoint>) -> Option<Exporter<'a>> {
        let to = self.export.as_deref()?;
        Some(Exporter {
            like,
            dtype: self.export_type.into(),
            shard_bytes: self.shard_size,
            to,
        })
    }

    fn write_export(&self, engine: &dyn Engine, exporter: Option<&Exporter>) -> Result<()> {
        match exporter {
            Some(exporter) => exporter.write(engine, &checkpoint_of(&self.out)),
            None => Ok(()),
        }
    }

    /// The checkpoint of `--from`.
    fn parent(&self) -> Result<Option<Parent>> {
        let Some(from) = &self.from else {
            return Ok(None);
        };
        sources::check(from)?;
        if sources::is_hugging_face(from) {
            bail!(
                "{} is a checkpoint of Hugging Face's transformers; train it with --init",
                from.display()
            );
        }
        let path = checkpoint_of(from);
        let info = CheckpointInfo::read(&path)?;
        let training = TrainingFile::of(&path)?;
        if training.is_none() && self.scale.is_none() {
            bail!(
                "{} does not say how it was trained (it has no training.json); give the --scale that it was trained with, for batch, schedule and balancing",
                from.display()
            );
        }
        Ok(Some(Parent {
            path,
            info,
            training,
        }))
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
        match sample::take(
            engine,
            &dir,
            self.sample.as_deref(),
            data,
            self.seed.unwrap_or(0),
        ) {
            Ok(sample) => output::note!("sample: {:?} {:?}", sample.prompt, sample.continuation),
            Err(error) => output::note!("there is no sample: {error:#}"),
        }
    }

    /// The scale that was asked for, but for what a model that was trained before keeps.
    fn scale(&self, before: Option<&TrainingFile>) -> Result<Scale> {
        let before = before.map(|before| &before.scale);
        let mut scale = match (&self.scale, before) {
            (Some(name), _) => presets::scale(name)?,
            (None, Some(before)) => before.clone(),
            (None, None) => presets::scale(DEFAULT_SCALE)?,
        };
        if let Some(before) = before {
            scale.optimizer = before.optimizer.clone();
            scale.balancing = before.balancing.clone();
        }
        if let Some(experts) = self.experts {
            scale.model.experts = experts;
        }
        if let Some(top_k) = self.top_k {
            scale.model.top_k = top_k;
        }
        Ok(scale)
    }

    fn spec(&self, scale: &Scale, data: DataSchedule, continued: bool, from: u64) -> TrainSpec {
        let training = &scale.training;
        let end = from + training.pretrain_steps;
        let decay = (training.pretrain_steps / 10).max(1);
        let warmup = if continued { 0 } else { training.warmup_steps };
        TrainSpec {
            schedule: Schedule {
                peak_lr: training.peak_lr,
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
            data,
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
        let ui = match output::is_silent() {
            true => Ui::None,
            false => self.ui.choice()?,
        };
        let work = Work::Training {
            checkpoints: job.checkpoint_interval,
        };
        let mut display = Display::new(ui, self.log_every, from, spec.schedule.end);
        let outcome = interrupt::during(work, || {
            engine.train(&job, &mut |event| display.event(&event))
        })?;
        display.bar.finish_and_clear();
        drop(display);
        Ok(outcome?)
    }
}

fn run_is_all_warmup(schedule: &Schedule, from: u64) -> bool {
    let stable_end = schedule.decay_from.unwrap_or(schedule.end);
    schedule.warmup_steps > 1 && from + schedule.warmup_steps > stable_end
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
            TrainEvent::Recut { micro_batches } => {
                self.say(&format!(
                    "there is less memory than before: {micro_batches} micro-batches a batch, sums have another order from here on"
                ));
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
