//! `report`: renders the report of a finished sweep again, from its `results.json`, or tables from kept rows.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use upcycle_report::Results;

use crate::{baseline::BaselineArg, output, program};

/// Render the report of a finished sweep again.
///
/// Reads results.json in the sweep's folder and writes report.html, results.csv and figures beside it. Of a results.csv, it
/// prints the tables alone: that is what docs/results.md has them from.
#[derive(Debug, Parser)]
#[command(name = "report", version = program::version())]
pub struct ReportArgs {
    /// The sweep's folder, such as runs/quick, or a results.csv.
    #[arg(value_name = "DIR|CSV")]
    from: PathBuf,
    /// Print the results as CSV in place of the table.
    #[arg(long)]
    csv: bool,
    /// Print gap closure as Markdown in place of the table.
    #[arg(long, conflicts_with = "csv")]
    markdown: bool,
    #[command(flatten)]
    baseline: BaselineArg,
}

impl ReportArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        if self.from.extension().is_some_and(|kind| kind == "csv") {
            let path = self.from.display();
            let text = fs::read_to_string(&self.from)
                .with_context(|| format!("cannot read the rows {path}"))?;
            let mut results = upcycle_report::read_csv("rows", &text)
                .with_context(|| format!("{path} is not a results.csv of a sweep"))?;
            self.compare(&mut results)?;
            return self.print(&results);
        }
        let path = self.from.join("results.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; give the folder of a finished sweep, such as runs/quick, or a results.csv",
                path.display()
            )
        })?;
        let mut results: Results = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; run the sweep again", path.display()))?;
        self.compare(&mut results)?;
        let html = upcycle_report::write(&results, &self.from)?;
        self.print(&results)?;
        output::note!("report: {}", html.display());
        Ok(())
    }

    /// Has differences taken against the recipe that was asked for; without one, against that of before.
    fn compare(&self, results: &mut Results) -> Result<()> {
        let asked = self.baseline.among(&results.recipe_names())?;
        if let Some(baseline) = asked {
            results.baseline = Some(baseline.to_owned());
        }
        Ok(())
    }

    fn print(&self, results: &Results) -> Result<()> {
        let text = if self.csv {
            upcycle_report::csv(results)
        } else if self.markdown {
            upcycle_report::markdown(results, results.baseline.as_deref())
        } else {
            upcycle_report::table(results)
        };
        Ok(output::line(text.trim_end())?)
    }
}
