//! How a run shows how it goes.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use clap::ValueEnum;

/// How a run shows how it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ui {
    /// Burn's terminal dashboard, with plots; q, then s, stops the run. Needs the feature tui, and takes a core for itself.
    Tui,
    /// Bars.
    Bars,
    /// A line now and then.
    Plain,
    /// Nothing.
    None,
}

impl Ui {
    /// Bars on a terminal, else plain.
    pub fn fitting() -> Self {
        match std::io::stderr().is_terminal() {
            true => Self::Bars,
            false => Self::Plain,
        }
    }
}

/// The flag that chooses it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct UiArg {
    /// How to show progress. [default: bars on a terminal, else plain]
    #[arg(long, value_enum, help_heading = "Running")]
    ui: Option<Ui>,
}

impl UiArg {
    /// What was chosen, if it can be had.
    ///
    /// # Errors
    /// If the dashboard is not compiled in, or there is no terminal for it.
    pub fn choice(self) -> Result<Ui> {
        match self.ui {
            Some(Ui::Tui) if !cfg!(feature = "tui") => bail!(
                "--ui tui is not compiled in; add `--features tui` to `cargo run`, `cargo build` or `cargo install`, or use --ui bars"
            ),
            Some(Ui::Tui)
                if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) =>
            {
                bail!("--ui tui needs a terminal; use --ui plain")
            }
            Some(ui) => Ok(ui),
            None => Ok(Ui::fitting()),
        }
    }
}
