//! `upcycle`: grows the experts of a checkpoint.

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Result, bail};
use clap::Parser;
use upcycle_data::Dataset;
use upcycle_lab::presets;
use upcycle_lm::CostModel;
use upcycle_train::{BatchConfig, CheckpointInfo, UpcycleJob, UpcycleOutcome, UpcycleSpec};

use crate::{
    backend::{BackendKind, engine},
    data_args::DataArgs,
    inspect::checkpoint_of,
    limits::{Force, refusal},
    output,
};

/// Grow the experts of a checkpoint: a bigger model at the same compute per token, ready for continued pre-training.
#[derive(Debug, Parser)]
#[command(name = "upcycle", version)]
pub struct UpcycleArgs {
    /// The checkpoint to grow, or the folder of a training run.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Folder for the new checkpoint; must not exist.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    to: Option<PathBuf>,
    /// Experts a layer afterwards. [default: twice as many]
    #[arg(long, value_name = "N")]
    experts: Option<usize>,
    /// Recipe: paper, uniform, exact, or a TOML file.
    #[arg(long, value_name = "NAME|FILE", default_value = "exact")]
    recipe: String,
    /// Seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Batches over which gradients are averaged and tokens collected, where the recipe needs them.
    #[arg(long, value_name = "N", default_value = "10")]
    batches: NonZeroUsize,
    /// Sequences of such a batch.
    #[arg(long, value_name = "N", default_value = "16")]
    rows: NonZeroUsize,
    #[command(flatten)]
    data: DataArgs,
    /// Allow data that the checkpoint was not trained on.
    #[arg(long, help_heading = "Data")]
    other_data: bool,
    /// Folder of packed data.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "runs/data",
        help_heading = "Data"
    )]
    data_cache: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    /// Print what would be copied and the losses before and after; write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Validation sequences for the losses before and after.
const EVALUATION_ROWS: usize = 256;

impl UpcycleArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let from = checkpoint_of(&self.from);
        let info = CheckpointInfo::read(&from)?;
        let to = self.to.as_deref().filter(|_| !self.dry_run);
        if let Some(to) = to.filter(|to| to.exists()) {
            bail!(
                "{} exists already; choose another folder for --to or remove it",
                to.display()
            );
        }
        let recipe = presets::recipe(&self.recipe)?;
        let data = self.data.config().unwrap_or_default();
        let data = Dataset::open(&data, &self.data_cache)?;
        if data.vocab_size() > info.model.vocab {
            bail!(
                "the data has {} tokens, the model in {} knows {}; give the --data and --tokenizer that it was trained with",
                data.vocab_size(),
                from.display(),
                info.model.vocab
            );
        }
        if data.fingerprint() != info.data && !self.other_data {
            bail!(
                "{} was not trained on the data `{}`; give the --data and --tokenizer that it was trained with, or --other-data if that is meant",
                from.display(),
                data.label()
            );
        }
        data.check_shape(info.model.context)?;
        let spec = UpcycleSpec {
            recipe,
            target_experts: self.experts.unwrap_or(2 * info.model.experts),
            seed: self.seed,
            evidence_batches: self.batches.get(),
            data_seed: self.seed,
            batch: BatchConfig {
                rows: self.rows.get(),
                context: info.model.context,
                accumulation: 1,
            },
            precision: Default::default(),
            evaluation_rows: EVALUATION_ROWS,
        };
        let mut grown = info.model.clone();
        grown.experts = spec.target_experts;
        grown.validate()?;
        let engine = engine(self.backend)?;
        let tokens = self.rows.get() * info.model.context;
        let memory = CostModel::new(&grown).memory(tokens, info.model.context);
        if let Some(refusal) =
            refusal(engine.as_ref(), memory.total(), 0.0).filter(|_| !self.force.force)
        {
            bail!(refusal);
        }
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let outcome = engine.upcycle(&UpcycleJob {
            spec: &spec,
            from: &from,
            to,
            data: &data,
        })?;
        if self.json {
            output::line(serde_json::to_string_pretty(&outcome)?)?;
        } else {
            print_outcome(&outcome)?;
        }
        if let Some(to) = to {
            output::note!("checkpoint: {}", to.display());
        }
        Ok(())
    }
}

fn print_outcome(outcome: &UpcycleOutcome) -> Result<()> {
    for (index, layer) in outcome.plan.layers.iter().enumerate() {
        output::line(format!(
            "MoE layer {index}: {} -> {} experts, copies of each {:?}",
            layer.experts(),
            layer.source_of().len(),
            layer.counts()
        ))?;
    }
    let sources = |routing: &[upcycle_train::RoutingStats]| {
        routing
            .iter()
            .map(|stats| stats.distinct_sources)
            .sum::<f64>()
            / routing.len() as f64
    };
    output::line(format!(
        "validation loss {:.6} before, {:.6} after; distinct sources of a token {:.3} before, {:.3} after",
        outcome.before.loss,
        outcome.after.loss,
        sources(&outcome.before.routing),
        sources(&outcome.after.routing),
    ))?;
    Ok(())
}
