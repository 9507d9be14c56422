//! The tasks of a list.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use upcycle_tasks::{RowSource, Task, TaskSpec};

use crate::hub_data;

/// What the entries of a list of tasks stand for.
///
/// # Errors
/// If one is unknown, is named twice, or cannot have so many examples.
pub fn specs(names: &[String], fewshot: Option<usize>) -> Result<Vec<TaskSpec>> {
    let mut specs: Vec<TaskSpec> = Vec::new();
    for name in names {
        for mut spec in TaskSpec::parse(name)? {
            if let Some(fewshot) = fewshot {
                spec = spec.with_fewshot(fewshot)?;
            }
            if specs.iter().any(|other| other.name() == spec.name()) {
                bail!("--tasks names {} twice", spec.name());
            }
            specs.push(spec);
        }
    }
    Ok(specs)
}

/// The items of tasks, whose rows are downloaded where they are on the hub.
///
/// # Errors
/// If rows cannot be read.
pub fn read(specs: &[TaskSpec], limit: Option<usize>) -> Result<Vec<Task>> {
    let tasks = specs.iter().map(|spec| {
        let files = |source| {
            let files = files(source);
            files.with_context(|| format!("the rows of {} cannot be had", spec.name()))
        };
        let (rows, examples) = (files(spec.rows()?)?, files(spec.example_rows()?)?);
        Ok::<_, anyhow::Error>(spec.build(&rows, &examples, limit)?)
    });
    tasks.collect()
}

fn files(source: RowSource) -> Result<Vec<PathBuf>> {
    Ok(match source {
        RowSource::None => Vec::new(),
        RowSource::File(path) => vec![path],
        RowSource::Hub {
            dataset,
            config,
            split,
        } => {
            let config = config.map_or(String::new(), |config| format!(":{config}"));
            hub_data::download(&format!("{dataset}{config}/{split}"))?
        }
    })
}
