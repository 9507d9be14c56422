//! `evaluate`: what checkpoints can do.

mod subject;
mod table;
mod tasks;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use upcycle_report::number;
use upcycle_tasks::{Encoder, Outcome, ScoringModel, Task, catalogue};

pub(crate) use self::{
    subject::Subject,
    tasks::{read, specs},
};
use crate::{
    backend::{BackendKind, engine},
    output, program,
    progress::style,
    threads::ThreadsArg,
};

/// Evaluate checkpoints on downstream tasks, by the likelihood of answers, as lm-evaluation-harness does.
#[derive(Debug, Parser)]
#[command(name = "evaluate", version = program::version())]
pub struct EvaluateArgs {
    /// A checkpoint or training run of this program, or a checkpoint of Hugging Face's transformers of a family that can be run
    /// here; may be repeated, to stand side by side.
    #[arg(
        long,
        value_name = "DIR|hf:ORG/NAME[@REVISION]",
        required_unless_present = "list"
    )]
    from: Vec<String>,
    /// Tasks: names (--list has them), NAME=FILE with the rows in a .jsonl, .parquet or .txt file, TOML files of one's own,
    /// knowledge:PERSONS and the like, or synthetic for all that need no download; separated by commas.
    #[arg(
        long,
        value_name = "TASK",
        value_delimiter = ',',
        required_unless_present = "list"
    )]
    tasks: Vec<String>,
    /// The first items of each task only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Examples before each item, in place of the tasks' own number; the first rows of their data for examples.
    #[arg(long, value_name = "N")]
    fewshot: Option<usize>,
    /// Tokenizer of the models: `bytes`, or a tokenizer.json. [default: that of each checkpoint]
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    /// Show the built-in tasks, and do nothing.
    #[arg(long)]
    list: bool,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadsArg,
}

/// What a checkpoint reached.
#[derive(Debug, Serialize)]
struct Column {
    checkpoint: String,
    tasks: Vec<Outcome>,
}

#[derive(Serialize)]
struct Results<'a> {
    backend: &'a str,
    checkpoints: &'a [Column],
}

impl EvaluateArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        self.threads.apply()?;
        if self.list {
            for (name, about) in catalogue() {
                output::line(format!("{name:14} {about}"))?;
            }
            return Ok(());
        }
        // All that can be wrong with tasks and folders is said before a model is loaded.
        let limit = self.limit.map(|limit| limit as usize);
        let specs = tasks::specs(&self.tasks, self.fewshot)?;
        let tokenizer = self.tokenizer.as_deref();
        let subjects = self.from.iter().map(|from| {
            let subject = Subject::open(from, tokenizer);
            subject.with_context(|| from.clone())
        });
        let subjects = subjects.collect::<Result<Vec<Subject>>>()?;
        let tasks = tasks::read(&specs, limit)?;
        let engine = engine(self.backend)?;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let mut columns = Vec::new();
        for (subject, from) in subjects.iter().zip(&self.from) {
            let model = subject.load(engine.as_ref());
            let mut model = model.with_context(|| from.clone())?;
            let outcomes = (tasks.iter())
                .map(|task| outcome(model.as_mut(), &subject.encoder, from, task))
                .collect::<Result<Vec<Outcome>>>();
            columns.push(Column {
                checkpoint: from.clone(),
                tasks: outcomes.with_context(|| from.clone())?,
            });
        }
        if self.json {
            let results = Results {
                backend: engine.backend(),
                checkpoints: &columns,
            };
            return Ok(output::line(serde_json::to_string_pretty(&results)?)?);
        }
        Ok(output::line(table::table(&columns))?)
    }
}

/// A model on a task, with its progress under a label.
///
/// # Errors
/// If the task cannot be scored.
pub(crate) fn outcome(
    model: &mut dyn ScoringModel,
    encoder: &Encoder,
    label: &str,
    task: &Task,
) -> Result<Outcome> {
    let mut display = Display::new(label, task);
    let outcome = upcycle_tasks::evaluate(task, model, encoder, &mut |done, count| {
        display.show(done, count);
    });
    display.bar.finish_and_clear();
    Ok(outcome?)
}

/// A bar on a terminal, plain lines elsewhere.
struct Display {
    label: String,
    bar: ProgressBar,
    last_line: Instant,
}

impl Display {
    fn new(checkpoint: &str, task: &Task) -> Self {
        let items = number::plural(task.items.len(), "item");
        let label = format!("{checkpoint}: {}, {items}", task.name);
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(style(
            "{prefix}  {bar:30.cyan/black} {pos}/{len} sequences, {eta} left",
        ));
        bar.set_prefix(label.clone());
        Self {
            label,
            bar,
            last_line: Instant::now(),
        }
    }

    fn show(&mut self, done: usize, count: usize) {
        self.bar.set_length(count as u64);
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && self.last_line.elapsed() >= Duration::from_secs(10) {
            self.last_line = Instant::now();
            let left = number::duration(self.bar.eta().as_secs_f64());
            output::note!("{}: {done} of {count} sequences, {left} left", self.label);
        }
    }
}
