//! `upcycle`: grows the experts of a checkpoint.

mod hf;

pub(crate) use hf::{HEADING, SHARD_BYTES};

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Result, bail};
use clap::Parser;
use upcycle_data::Dataset;
use upcycle_lab::intermediates;
use upcycle_lm::CostModel;
use upcycle_operator::{LayerPlan, Upcycle, Verification};
use upcycle_train::{
    BatchConfig, CheckpointInfo, UpcycleJob, UpcycleOutcome, UpcycleSpec, check_growth, grown_shape,
};

use crate::{
    backend::{BackendKind, engine},
    data_args::{DataArgs, check_vocabulary},
    inspect::checkpoint_of,
    limits::{Force, refusal},
    output,
    recipe_args::RecipeArgs,
    sources,
};

/// Grow the experts of a checkpoint: a bigger model at the same compute per token, ready for continued pre-training.
///
/// The checkpoint is one of this program's or a public one in the layout of Hugging Face's transformers, which is
/// copied shard by shard in little memory.
#[derive(Debug, Parser)]
#[command(name = "upcycle", version)]
pub struct UpcycleArgs {
    /// The checkpoint to grow, the folder of a training run, or a model of the Hugging Face hub.
    #[arg(long, value_name = "DIR|hf:ORG/NAME[@REVISION]")]
    from: String,
    /// Folder for the new checkpoint; must not exist.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    to: Option<PathBuf>,
    /// Experts a layer afterwards; any number above the model's. [default: twice as many]
    #[arg(long, value_name = "N")]
    experts: Option<usize>,
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    hf: hf::HfArgs,
    /// Seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Batches over which gradients are averaged and tokens collected, where the recipe needs them. [default: 10]
    #[arg(long, value_name = "N")]
    batches: Option<NonZeroUsize>,
    /// Sequences of such a batch. [default: 16]
    #[arg(long, value_name = "N")]
    rows: Option<NonZeroUsize>,
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
    /// Print what would be copied and what that would change; write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    force: Force,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Batches for evidence, and sequences of each.
const EVIDENCE_BATCHES: usize = 10;
const EVIDENCE_ROWS: usize = 16;

/// Validation sequences for the losses before and after.
const EVALUATION_ROWS: usize = 256;

impl UpcycleArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        let from = sources::folder(&self.from)?;
        if sources::is_hugging_face(&from) {
            return self.run_hf(&from);
        }
        self.hf.refuse(&from)?;
        let from = checkpoint_of(&from);
        let info = CheckpointInfo::read(&from)?;
        let to = self.to.as_deref().filter(|_| !self.dry_run);
        if let Some(to) = to.filter(|to| to.exists()) {
            bail!(
                "{} exists already; choose another folder for --to or remove it",
                to.display()
            );
        }
        let recipe = self.recipe.recipe("exact")?;
        let dense = info.model.moe_layers() == 0;
        let target_experts = match self.experts {
            Some(experts) => experts,
            None if dense => bail!(
                "{} is a dense model; say with --experts how many experts it is to have",
                from.display()
            ),
            None => 2 * info.model.experts,
        };
        let operator = Upcycle::new(recipe, target_experts).at_step(info.step);
        check_growth(&operator, &info.model, &info.growths)?;
        let grown = grown_shape(&operator, &info.model)?;
        let data = self.data.config().unwrap_or_default();
        let data = Dataset::open(&data, &self.data_cache)?;
        let model = format!("the model in {}", from.display());
        check_vocabulary(&data, &model, info.model.vocab)?;
        if data.fingerprint() != info.data && !self.other_data {
            bail!(
                "{} was not trained on the data `{}`; give the --data and --tokenizer that it was trained with, or --other-data if that is meant",
                from.display(),
                data.label()
            );
        }
        data.check_shape(info.model.context)?;
        let rows = self.rows.map_or(EVIDENCE_ROWS, NonZeroUsize::get);
        let spec = UpcycleSpec {
            recipe: operator.recipe,
            target_experts,
            seed: self.seed,
            evidence_batches: self.batches.map_or(EVIDENCE_BATCHES, NonZeroUsize::get),
            data_seed: self.seed,
            batch: BatchConfig {
                rows,
                context: info.model.context,
                accumulation: 1,
            },
            precision: Default::default(),
            evaluation_rows: EVALUATION_ROWS,
        };
        let engine = engine(self.backend)?;
        let tokens = rows * info.model.context;
        let memory = CostModel::new(&grown).memory(
            tokens,
            info.model.context,
            intermediates(engine.backend()),
        );
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
            print_outcome(&outcome, self.dry_run)?;
        }
        if let Some(to) = to {
            output::note!("checkpoint: {}", to.display());
        }
        Ok(())
    }
}

fn print_outcome(outcome: &UpcycleOutcome, tables: bool) -> Result<()> {
    for deviation in &outcome.deviations {
        output::note!("note: {deviation}");
    }
    for (index, layer) in outcome.plan.layers.iter().enumerate() {
        output::line(format!(
            "MoE layer {index}: {} -> {} experts, copies of each {:?}",
            layer.experts(),
            layer.source_of().len(),
            layer.counts()
        ))?;
        if tables {
            let scores = outcome.scores.get(index).map_or(&[][..], Vec::as_slice);
            print_sources(layer, scores)?;
        }
    }
    output::line(format!(
        "validation loss {:.6} before, {:.6} after",
        outcome.before.loss, outcome.after.loss
    ))?;
    print_verification(&outcome.verification)
}

fn print_verification(verified: &Verification) -> Result<()> {
    output::line(format!(
        "on {} tokens: loss {:+.2e} nats, logits {:.2e} relative and {:.2e} at most",
        verified.tokens,
        verified.loss_difference(),
        verified.relative_logit_difference,
        verified.largest_logit_difference
    ))?;
    for (index, layer) in verified.layers.iter().enumerate() {
        let routing = &layer.routing;
        let changed = match layer.changed_sources {
            Some(share) => format!(", {:.1} % of tokens with other sources", 100.0 * share),
            None => String::new(),
        };
        output::line(format!(
            "MoE layer {index}: {:.2} distinct sources a token, twins together in {:.1} % of tokens{changed}, largest load {:.2} of the mean",
            routing.distinct_sources,
            100.0 * routing.twin_coselection,
            routing.max_violation + 1.0
        ))?;
    }
    Ok(())
}

/// A line for every source: its score, its copies, and the experts that it becomes.
fn print_sources(layer: &LayerPlan, scores: &[f64]) -> Result<()> {
    output::line(format!(
        "  {:>6}  {:>10}  {:>6}  experts",
        "source", "score", "copies"
    ))?;
    for (source, copies) in layer.counts().into_iter().enumerate() {
        let score = match scores.get(source) {
            Some(score) => format!("{score:.4e}"),
            None => "-".into(),
        };
        let experts = layer.source_of().iter().enumerate();
        let experts: Vec<_> = experts
            .filter(|(_, of)| **of == source)
            .map(|(expert, _)| expert.to_string())
            .collect();
        output::line(format!(
            "  {source:>6}  {score:>10}  {copies:>6}  {}",
            experts.join(" ")
        ))?;
    }
    Ok(())
}
