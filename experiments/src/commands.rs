//! `burn-upcycle`: all commands in one program.

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    bench::BenchArgs,
    evaluate::EvaluateArgs,
    export::ExportArgs,
    generate::GenerateArgs,
    inspect::InspectArgs,
    manual::{CompletionsArgs, ManArgs},
    program,
    report::ReportArgs,
    runs::RunsCommand,
    sweep::SweepCommand,
    train::TrainArgs,
    upcycle::UpcycleArgs,
};

/// Grow Mixture-of-Experts language models, and measure what that is worth.
///
/// A run that is stopped goes on where it was when it is started again. Errors are sentences, with exit code 2.
#[derive(Debug, Parser)]
#[command(name = program::NAME, version = program::version())]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sweep(Box<SweepCommand>),
    Train(Box<TrainArgs>),
    Upcycle(Box<UpcycleArgs>),
    Evaluate(Box<EvaluateArgs>),
    Generate(Box<GenerateArgs>),
    Export(ExportArgs),
    Report(ReportArgs),
    Inspect(InspectArgs),
    Runs(RunsCommand),
    Bench(Box<BenchArgs>),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Program {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Sweep(sweep) => sweep.run(),
            Command::Train(train) => train.run(),
            Command::Upcycle(upcycle) => upcycle.run(),
            Command::Evaluate(evaluate) => evaluate.run(),
            Command::Generate(generate) => generate.run(),
            Command::Export(export) => export.run(),
            Command::Report(report) => report.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Runs(runs) => runs.run(),
            Command::Bench(bench) => bench.run(),
            Command::Completions(completions) => completions.run(Self::command()),
            Command::Man(man) => man.run(Self::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_all_commands_are_consistent() {
        Program::command().debug_assert();
    }
}
