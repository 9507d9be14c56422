//! `inspect`: shows what a checkpoint holds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use upcycle_lm::{CostModel, ParameterCount, TwoLevel};
use upcycle_train::{CheckpointInfo, StageCheckpoints};

use crate::output;

/// Show what a checkpoint holds.
#[derive(Debug, Parser)]
#[command(name = "inspect", version)]
pub struct InspectArgs {
    /// A checkpoint, or the folder of a training run.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspection<'a> {
    #[serde(flatten)]
    info: &'a CheckpointInfo,
    parameters: ParameterCount,
    total_parameters: u64,
    active_parameters: u64,
}

impl InspectArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let dir = checkpoint_of(&self.dir);
        let info = CheckpointInfo::read(&dir)?;
        info.check_sizes(&dir)?;
        let parameters = CostModel::new(&info.model).parameters();
        if self.json {
            let inspection = Inspection {
                info: &info,
                parameters,
                total_parameters: parameters.total(),
                active_parameters: parameters.active(),
            };
            return Ok(output::line(serde_json::to_string_pretty(&inspection)?)?);
        }
        let model = &info.model;
        let count = |value: u64| output::count(value as f64);
        let mut rows = vec![
            ("checkpoint", dir.display().to_string()),
            ("step", info.step.to_string()),
            ("tokens", count(info.tokens)),
            (
                "layers",
                format!(
                    "{} ({} MoE), d_model {}",
                    model.layers,
                    model.moe_layers(),
                    model.d_model
                ),
            ),
            (
                "experts",
                format!(
                    "{} of width {}, top-{}",
                    model.experts, model.d_expert, model.top_k
                ),
            ),
            (
                "selection",
                match &model.two_level {
                    Some(two_level) => two_level_text(two_level),
                    None => "top-K".into(),
                },
            ),
            (
                "vocabulary",
                format!("{}, context {}", model.vocab, model.context),
            ),
            (
                "parameters",
                format!(
                    "{} total, {} active, {} without embeddings",
                    count(parameters.total()),
                    count(parameters.active()),
                    count(parameters.non_embedding())
                ),
            ),
        ];
        for (layer, lineage) in info.lineage.iter().enumerate() {
            for sources in lineage.growths() {
                rows.push((
                    if layer == 0 { "copies" } else { "" },
                    format!("MoE layer {layer}: {:?} of each source", sources.replicas()),
                ));
            }
        }
        for (name, file) in &info.files {
            rows.push(("file", format!("{name}, {}", output::bytes(file.bytes))));
        }
        for (name, value) in rows {
            output::line(format!("{name:<12} {value}"))?;
        }
        Ok(())
    }
}

fn two_level_text(two_level: &TwoLevel) -> String {
    let strengths: Vec<_> = two_level
        .growths
        .iter()
        .map(|growth| growth.strength.to_string())
        .collect();
    let release = match &two_level.release {
        Some(release) => format!(
            ", released from step {} to {}",
            release.from,
            release.from + release.steps
        ),
        None => String::new(),
    };
    format!("two-level, tie-break {}{release}", strengths.join(", "))
}

/// The folder itself, or the newest checkpoint of a training run in it.
pub(crate) fn checkpoint_of(dir: &Path) -> PathBuf {
    StageCheckpoints::new(dir)
        .latest()
        .unwrap_or_else(|| dir.to_owned())
}
