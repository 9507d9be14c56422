//! `inspect`: shows what a checkpoint holds.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use upcycle_hf::{HfCheckpoint, Layout, RouterStats};
use upcycle_lm::{CostModel, ParameterCount};
use upcycle_moe::TwoLevel;
use upcycle_report::number;
use upcycle_train::{CheckpointInfo, StageCheckpoints};

use crate::{
    backend::{BackendKind, engine},
    limits::refusal,
    output, program,
    routers::Routers,
    sources,
    threads::ThreadsArg,
};

/// Show what a checkpoint holds: one of this program's, or one in the layout of Hugging Face's transformers.
#[derive(Debug, Parser)]
#[command(name = "inspect", version = program::version())]
pub struct InspectArgs {
    /// A checkpoint, the folder of a training run, or a model of the Hugging Face hub.
    #[arg(value_name = "DIR|hf:ORG/NAME[@REVISION]")]
    dir: String,
    /// Layout of a family of Hugging Face checkpoints that is not built in: the name of one that it follows (`upcycle
    /// --families` lists them), or a TOML file, see docs/huggingface.md.
    #[arg(long, value_name = "NAME|FILE")]
    layout: Option<PathBuf>,
    #[command(flatten)]
    threads: ThreadsArg,
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
    routers: Vec<RouterStats>,
}

impl InspectArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        if let Some(model) = self.dir.strip_prefix("hf:") {
            return self.show_hf(&sources::elsewhere(model, self.layout()?, false)?);
        }
        let dir = sources::folder(&self.dir)?;
        if sources::is_hugging_face(&dir) {
            return self.run_hf(&dir);
        }
        let dir = checkpoint_of(&dir);
        let info = CheckpointInfo::read(&dir)?;
        info.check_sizes(&dir)?;
        let parameters = CostModel::new(&info.model).parameters();
        self.threads.apply()?;
        let engine = engine(BackendKind::Auto)?;
        // The file, its bytes decoded, and the model.
        let memory = 3 * 4 * parameters.total();
        let routers = match refusal(engine.as_ref(), memory, 0.0) {
            None => Routers::of(engine.as_ref(), &dir)?,
            Some(_) => {
                output::note!("the model is too large for this machine; its routers are not shown");
                Vec::new()
            }
        };
        if self.json {
            let inspection = Inspection {
                info: &info,
                parameters,
                total_parameters: parameters.total(),
                active_parameters: parameters.active(),
                routers,
            };
            return Ok(output::line(serde_json::to_string_pretty(&inspection)?)?);
        }
        let model = &info.model;
        let count = |value: u64| number::count(value as f64);
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
                match info
                    .growths
                    .first()
                    .and_then(|state| state.two_level.as_ref())
                {
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
        for (layer, stats) in routers.iter().enumerate() {
            rows.push((
                "router",
                format!("MoE layer {layer}: {}", router_text(stats)),
            ));
        }
        for (layer, state) in info.growths.iter().enumerate() {
            for sources in state.lineage.growths() {
                rows.push((
                    if layer == 0 { "copies" } else { "" },
                    format!("MoE layer {layer}: {:?} of each source", sources.replicas()),
                ));
            }
        }
        for (name, file) in &info.files {
            rows.push(("file", format!("{name}, {}", number::bytes(file.bytes))));
        }
        print_rows(rows)
    }

    /// Shows the checkpoint of transformers in `dir`.
    fn run_hf(&self, dir: &Path) -> Result<()> {
        self.show_hf(&HfCheckpoint::open(dir, self.layout()?)?)
    }

    fn layout(&self) -> Result<Option<Layout>> {
        let layout = self.layout.as_deref().map(Layout::named_or_read);
        Ok(layout.transpose()?)
    }

    fn show_hf(&self, checkpoint: &HfCheckpoint) -> Result<()> {
        let found = checkpoint.inspect()?;
        if self.json {
            return Ok(output::line(serde_json::to_string_pretty(&found)?)?);
        }
        let layers = match found.layers {
            Some(layers) => format!("{layers} ({} MoE)", found.moe_layers),
            None => format!("{} MoE", found.moe_layers),
        };
        let rule = &found.routing;
        let groups = match rule.groups {
            1 => String::new(),
            groups => format!(", {} of {groups} groups", rule.top_groups),
        };
        let sum = match rule.renormalize {
            true => "gates sum to 1",
            false => "gates as they are",
        };
        let dtypes = found
            .dtypes
            .iter()
            .map(|(name, &size)| format!("{name} {}", number::bytes(size)));
        let mut rows = vec![
            ("checkpoint", self.dir.clone()),
            ("family", found.family.clone()),
            ("layers", format!("{layers}, d_model {}", found.d_model)),
            (
                "experts",
                format!("{}, top-{}{groups}", found.experts, found.top_k),
            ),
            (
                "selection",
                format!("{:?} scores, {sum}", rule.score).to_lowercase(),
            ),
            (
                "parameters",
                format!(
                    "{} total, {} active, {} in experts",
                    number::count(found.total_parameters as f64),
                    number::count(found.active_parameters as f64),
                    number::count(found.expert_parameters as f64)
                ),
            ),
            ("types", dtypes.collect::<Vec<_>>().join(", ")),
        ];
        for (layer, stats) in &found.routers {
            rows.push(("router", format!("layer {layer}: {}", router_text(stats))));
        }
        for layer in &found.prediction_layers {
            let text =
                format!("layer {layer}: multi-token prediction, which the model does not run");
            rows.push(("MoE layer", text));
        }
        for (name, size) in &found.shards {
            rows.push(("file", format!("{name}, {}", number::bytes(*size))));
        }
        print_rows(rows)
    }
}

fn print_rows(rows: Vec<(&str, String)>) -> Result<()> {
    for (name, value) in rows {
        output::line(format!("{name:<12} {value}"))?;
    }
    Ok(())
}

fn router_text(stats: &RouterStats) -> String {
    let bias = match stats.bias {
        Some([least, most]) => format!(", biases {least:.3} to {most:.3}"),
        None => String::new(),
    };
    format!(
        "row norms {:.3} ({:.3} to {:.3}), largest cosine of two rows {:.3}{bias}",
        stats.mean_norm, stats.least_norm, stats.largest_norm, stats.largest_cosine
    )
}

fn two_level_text(two_level: &TwoLevel) -> String {
    let strengths: Vec<_> = two_level
        .growths
        .iter()
        .map(|growth| growth.strength.to_string())
        .collect();
    let release = match &two_level.release {
        Some(release) => format!(", released from step {} to {}", release.from, release.end()),
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
