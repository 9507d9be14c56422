//! `completions` and `man`: what shells and manuals are to know of the program.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

use crate::output;

/// Print a script that completes commands and flags in a shell.
///
/// For bash: burn-upcycle completions bash > ~/.local/share/bash-completion/completions/burn-upcycle
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Write manual pages, one a command.
///
/// Pages in ~/.local/share/man/man1 are found by `man burn-upcycle`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder of the pages; it is made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl CompletionsArgs {
    /// Prints the script for a program.
    ///
    /// # Errors
    /// If it cannot be printed.
    pub fn run(self, mut program: Command) -> Result<()> {
        let name = program.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        Ok(output::line(String::from_utf8(script)?.trim_end())?)
    }
}

impl ManArgs {
    /// Writes the pages of a program.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn run(self, program: Command) -> Result<()> {
        let dir = self.dir.display();
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {dir}"))?;
        clap_mangen::generate_to(program, &self.dir)
            .with_context(|| format!("cannot write manual pages into {dir}"))?;
        output::note!("manual pages: {dir}");
        Ok(())
    }
}
