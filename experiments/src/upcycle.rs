//! `upcycle`: grows the experts of a checkpoint.

mod args;
mod hf;
mod verification;

pub use args::UpcycleArgs;
pub(crate) use args::{HEADING, SHARD_BYTES};

use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};
use upcycle_lab::{Needs, available_memory, growth_memory, processor};
use upcycle_operator::{LayerPlan, Upcycle};
use upcycle_train::{
    BatchConfig, CheckpointInfo, UpcycleJob, UpcycleOutcome, UpcycleSpec, check_growth, grown_shape,
};

use crate::{
    backend::machine_on,
    data_args::{self, check_vocabulary},
    hub_data,
    inspect::checkpoint_of,
    interrupt::{self, Work},
    limits::{on_cpu, too_large},
    output, sources,
    training_file::TrainingFile,
    ui::Ui,
};

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
        if self.hf.families {
            return hf::print_families();
        }
        self.threads.apply()?;
        let of_hub = self.from.strip_prefix("hf:");
        if let Some(model) = of_hub.filter(|_| self.dry_run || self.hf.stream) {
            let whole = !self.dry_run;
            let checkpoint = sources::elsewhere(model, self.hf.layout()?, whole)?;
            return self.grow_hf(checkpoint, None);
        }
        if self.hf.stream {
            bail!("--stream is for models of the hub (--from hf:ORG/NAME); leave it out");
        }
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
        // With K = 1 a copy is exact, and the separation loss does harm before replicas have parted.
        let default = match info.model.top_k {
            1 => "exact",
            _ => "short-release",
        };
        let recipe = self.recipe.recipe(default)?;
        let dense = info.model.moe_layers() == 0;
        if default == "short-release" && self.recipe.router_is_open() && !dense {
            output::note!(
                "recipe short-release, for some thousand further steps; for fewer than 1000 --recipe exact is better"
            );
        }
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
        let training = TrainingFile::of(&from)?;
        let before = training.as_ref().map(|training| &training.data);
        let rows = self.rows.map_or(EVIDENCE_ROWS, NonZeroUsize::get);
        let batches = self.batches.map_or(EVIDENCE_BATCHES, NonZeroUsize::get);
        let mut config = (self.data).config_after(before, &from, self.other_data)?;
        let needs = Needs {
            training: batches
                .saturating_mul(rows)
                .saturating_mul(info.model.context) as u64,
            evaluation: (EVALUATION_ROWS * info.model.context) as u64,
        };
        hub_data::settle(&mut config, before, needs)?;
        let data = data_args::open(&config, &self.data_cache, Ui::fitting())?;
        let model = format!("the model in {}", from.display());
        check_vocabulary(&data, &model, info.model.vocab)?;
        if !self.other_data {
            let checked = info.check_data(&data);
            checked.with_context(|| from.display().to_string())?;
        }
        data.check_shape(info.model.context)?;
        let spec = UpcycleSpec {
            recipe: operator.recipe,
            target_experts,
            seed: self.seed,
            evidence_batches: batches,
            data_seed: self.seed,
            batch: BatchConfig {
                rows,
                context: info.model.context,
                accumulation: 1,
            },
            precision: Default::default(),
            evaluation_rows: EVALUATION_ROWS,
        };
        let devices = self.devices.of_processes(NonZeroUsize::MIN)?;
        let engine = machine_on(self.backend, devices)?.engine;
        let models = [&info.model, &grown];
        let share = devices.share(&spec.batch);
        let processor = processor(engine.backend(), spec.precision);
        let each = growth_memory(models, &share, processor, &devices);
        // Devices of a processor are all in its memory; that of others is not known.
        let memory = each * devices.count.get() as u64;
        let available = available_memory().filter(|_| on_cpu(engine.as_ref()));
        if let Some(available) = available.filter(|&there| memory > there && !self.force.force) {
            bail!(
                "{}; lower --rows, run it on a GPU (--backend cuda), or go on all the same with --force",
                too_large("the growth", memory, available)
            );
        }
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let job = UpcycleJob {
            spec: &spec,
            from: &from,
            to,
            data: &data,
            stop: interrupt::flag(),
        };
        let outcome = interrupt::during(Work::Growing, || engine.upcycle(&job))??;
        if self.json {
            output::line(serde_json::to_string_pretty(&outcome)?)?;
        } else {
            let was = &info.model;
            for (what, before, after) in [
                ("experts of a token", was.top_k, grown.top_k),
                ("hidden width of an expert", was.d_expert, grown.d_expert),
            ] {
                if before != after && !dense {
                    output::line(format!("{what}: {before} -> {after}"))?;
                }
            }
            print_outcome(&outcome, self.dry_run)?;
        }
        if let Some(to) = to {
            if let Some(training) = &training {
                training.write(to)?;
            }
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
    verification::print(&outcome.verification)
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
