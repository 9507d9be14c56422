//! `runs`: what a folder of runs holds, and what of it can be freed.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use upcycle_lab::{Cleaning, Freeable, RunState, StageState, Store, Usage};
use upcycle_report::number;

use crate::{output, program};

/// List sweeps, their stages, and runs of `train` with their size, age and state, and free what finished sweeps do not need.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RunsCommand {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Clean(CleanArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Folder of runs.
    #[arg(value_name = "DIR", default_value = "runs")]
    dir: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Free what finished sweeps do not need: checkpoints that were only gone on from, and stages of no sweep.
///
/// Results, metrics, reports and the checkpoints of the models that sweeps compare are kept, and what is being computed is left
/// alone, and so are runs of `train` that are not named. A sweep that gets more budgets afterwards computes again what it goes
/// on from.
#[derive(Debug, Args)]
struct CleanArgs {
    /// Folder of runs.
    #[arg(value_name = "DIR", default_value = "runs")]
    dir: PathBuf,
    /// Also free the checkpoints of the models that finished sweeps compare.
    #[arg(long)]
    checkpoints: bool,
    /// Also free this run of `train`, with its checkpoints and all else in its folder; may be repeated.
    #[arg(long, value_name = "NAME")]
    run: Vec<String>,
    /// Also free packed text; the next start packs it again.
    #[arg(long)]
    data: bool,
    /// Print what would be freed, and free nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl RunsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        match self.command {
            Some(Command::Clean(clean)) => clean.run(),
            None => self.list.run(),
        }
    }
}

fn store(dir: &Path) -> Result<Store> {
    Store::of_runs(dir).with_context(|| {
        format!(
            "{} holds no stages of sweeps and no folders of `train`; give the folder that sweeps were run in (--out of `{}`), or the one above the folders of `train`",
            dir.display(),
            program::call("sweep")
        )
    })
}

impl ListArgs {
    fn run(&self) -> Result<()> {
        let usage = Usage::of(&store(&self.dir)?);
        if self.json {
            return Ok(output::line(serde_json::to_string_pretty(&usage)?)?);
        }
        if !usage.sweeps.is_empty() || !usage.stages.is_empty() {
            print_sweeps(&usage)?;
        }
        if !usage.runs.is_empty() {
            print_runs(&usage)?;
        }
        let stages: u64 = usage.stages.iter().map(|stage| stage.bytes).sum();
        let runs: u64 = usage.runs.iter().map(|run| run.bytes).sum();
        output::line(format!(
            "{} of stages, {} of runs of `train`, {} of packed text; `{}` frees what finished sweeps do not need",
            number::bytes(stages),
            number::bytes(runs),
            number::bytes(usage.data_bytes),
            program::call(&format!("runs clean {}", self.dir.display()))
        ))?;
        Ok(())
    }
}

/// Runs of `train`, a line each.
fn print_runs(usage: &Usage) -> Result<()> {
    output::line(format!(
        "{:<24} {:>12} {:>12}  {:<12} last checkpoint",
        "run of train", "size", "age", "state"
    ))?;
    for run in &usage.runs {
        let state = match run.state {
            RunState::Finished => "finished",
            RunState::Running => "running",
            RunState::Interrupted => "interrupted",
        };
        let end = run.end.map(|end| format!(" of {end}")).unwrap_or_default();
        let step = match run.step {
            Some(step) => format!("step {step}{end}"),
            None => "none".into(),
        };
        output::line(format!(
            "{:<24} {:>12} {:>12}  {state:<12} {step}",
            run.name,
            number::bytes(run.bytes),
            number::duration(run.age_seconds as f64),
        ))?;
    }
    output::line("")?;
    Ok(())
}

/// Sweeps, then stages, a line each.
fn print_sweeps(usage: &Usage) -> Result<()> {
    output::line(format!(
        "{:<24} {:>12} {:>12}  stages",
        "sweep", "size", "age"
    ))?;
    for sweep in &usage.sweeps {
        let stages = match sweep.stages {
            Some([all, finished]) if all == finished => format!("all {all} finished"),
            Some([all, finished]) => format!("{finished} of {all} finished"),
            None => "not listed; start it again to have them listed".into(),
        };
        output::line(format!(
            "{:<24} {:>12} {:>12}  {stages}",
            sweep.name,
            number::bytes(sweep.bytes),
            number::duration(sweep.age_seconds as f64),
        ))?;
    }
    output::line(format!(
        "\n{:<20} {:>12} {:>12} {:>12}  {:<12} needed by",
        "stage", "size", "checkpoints", "age", "state"
    ))?;
    for stage in &usage.stages {
        let state = match &stage.state {
            StageState::Finished => "finished".to_owned(),
            StageState::Running { host, pid } => format!("running on {host}, process {pid}"),
            StageState::Interrupted => "interrupted".to_owned(),
        };
        let sweeps = match stage.sweeps.is_empty() {
            true => "no sweep that lists its stages".to_owned(),
            false => stage.sweeps.join(", "),
        };
        let label = stage.label.as_deref().unwrap_or_default();
        output::line(format!(
            "{:<20} {:>12} {:>12} {:>12}  {state:<12} {sweeps}  {label}",
            stage.key.to_string(),
            number::bytes(stage.bytes),
            number::bytes(stage.checkpoint_bytes),
            number::duration(stage.age_seconds as f64),
        ))?;
    }
    output::line("")?;
    Ok(())
}

impl CleanArgs {
    fn run(&self) -> Result<()> {
        let store = store(&self.dir)?;
        let usage = Usage::of(&store);
        let cleaning = Cleaning {
            checkpoints: self.checkpoints,
            data: self.data,
        };
        let mut freeable = usage.freeable(cleaning);
        for name in &self.run {
            let run = usage.freeable_run(name).with_context(|| {
                format!(
                    "{} holds no run of `train` called {name} that nobody trains; `{}` lists them",
                    self.dir.display(),
                    program::call(&format!("runs {}", self.dir.display()))
                )
            })?;
            if !freeable.contains(&run) {
                freeable.push(run);
            }
        }
        for sweep in usage.sweeps.iter().filter(|sweep| sweep.stages.is_none()) {
            output::note!(
                "note: {} does not list its stages, so that no stage is freed, which it may need; start the sweep again to have them listed",
                sweep.name
            );
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&freeable)?)?;
        } else {
            for what in &freeable {
                output::line(said(&usage, what))?;
            }
        }
        let bytes: u64 = freeable.iter().map(Freeable::bytes).sum();
        let sum = number::bytes(bytes);
        if freeable.is_empty() {
            output::note!("nothing can be freed");
            return Ok(());
        }
        if self.dry_run {
            output::note!("{sum} would be freed");
            return Ok(());
        }
        if !self.yes && !confirmed(&sum)? {
            output::note!("nothing is freed");
            return Ok(());
        }
        let mut freed = 0;
        for what in &freeable {
            // A sweep may have been started meanwhile.
            let still = matches!(what, Freeable::Run { .. })
                || Usage::of(&store).freeable(cleaning).contains(what);
            match still && store.free(what)? {
                true => freed += what.bytes(),
                false => output::note!(
                    "left alone, as it is needed or worked on by now: {}",
                    said(&usage, what)
                ),
            }
        }
        output::note!("freed {}", number::bytes(freed));
        Ok(())
    }
}

/// Asks the person at the terminal.
fn confirmed(sum: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nothing is freed where nobody can be asked; add --yes, or --dry-run to look");
    }
    let mut stderr = io::stderr();
    write!(stderr, "Free {sum}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Something that can be freed, as a line.
fn said(usage: &Usage, what: &Freeable) -> String {
    let (kind, key) = match what {
        Freeable::Checkpoints { key, .. } => ("checkpoints", Some(key)),
        Freeable::Stage { key, .. } => ("stage", Some(key)),
        Freeable::Run { .. } => ("run", None),
        Freeable::Data { .. } => ("packed text", None),
    };
    let stage = key.and_then(|key| usage.stages.iter().find(|stage| stage.key == *key));
    let label = stage.and_then(|stage| stage.label.as_deref());
    let key = match what {
        Freeable::Run { name, .. } => name.clone(),
        _ => key.map_or(String::new(), ToString::to_string),
    };
    let line = format!(
        "{kind:<12} {:>12}  {key:<20}  {}",
        number::bytes(what.bytes()),
        label.unwrap_or_default()
    );
    line.trim_end().to_owned()
}
