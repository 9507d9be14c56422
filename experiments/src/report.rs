//! `report`: renders the report of a finished sweep again, from its `results.json`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use upcycle_report::Results;

use crate::output;

/// Render the report of a finished sweep again.
///
/// Reads results.json in the sweep's folder and writes report.html, results.csv and figures beside it.
#[derive(Debug, Parser)]
#[command(name = "report", version)]
pub struct ReportArgs {
    /// The sweep's folder, such as runs/quick.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print the results as CSV in place of the table.
    #[arg(long)]
    csv: bool,
}

impl ReportArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let path = self.dir.join("results.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; give the folder of a finished sweep, such as runs/quick",
                path.display()
            )
        })?;
        let results: Results = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; run the sweep again", path.display()))?;
        let html = upcycle_report::write(&results, &self.dir)?;
        if self.csv {
            output::line(upcycle_report::csv(&results).trim_end())?;
        } else {
            output::line(upcycle_report::table(&results))?;
        }
        output::note!("report: {}", html.display());
        Ok(())
    }
}
