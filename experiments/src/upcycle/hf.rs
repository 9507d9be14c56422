//! Growing a checkpoint of Hugging Face's transformers.

use std::{
    fs,
    io::IsTerminal,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use upcycle_data::Dataset;
use upcycle_hf::{
    GivenScores, Growth, GrowthRequest, HfCheckpoint, Import, Layout, Moe, MoeLayer, Progress,
    WriteOptions, Written, check_free,
};
use upcycle_lab::Needs;
use upcycle_lm::{CostModel, LmConfig, WeightSource};
use upcycle_moe::ExpertSources;
use upcycle_operator::{
    ExpertInit, GateScore, Recipe, ReplicationPlan, RouterBias, RoutingForecast, Selection,
    Upcycle, Verification,
};
use upcycle_report::number;
use upcycle_train::{CompareJob, Engine};

use super::{
    args::{HfArgs, SHARD_BYTES, UpcycleArgs},
    verification,
};
use crate::{
    backend::engine,
    data_args::{self, check_vocabulary},
    hub_data,
    interrupt::{self, Work},
    limits::refusal,
    output,
    progress::style,
    recipe_args::in_words,
    ui::Ui,
};

/// Tokens of a sequence, and sequences, on which logits are compared.
const VERIFICATION_CONTEXT: usize = 256;
const VERIFICATION_ROWS: usize = 8;

/// What happened, as JSON.
#[derive(Serialize)]
struct HfOutcome<'a> {
    family: &'a str,
    recipe: &'a Recipe,
    experts: [usize; 2],
    top_k: [usize; 2],
    /// Number in tensor names of every MoE layer.
    layers: Vec<usize>,
    plan: &'a ReplicationPlan,
    scores: &'a [Vec<f64>],
    /// None where nothing can be foretold.
    forecast: Option<RoutingForecast>,
    output: Written,
    verification: Option<Verification>,
    seconds: f64,
}

/// What `--verify` compares with.
struct Trial {
    before: Import,
    data: Option<Dataset>,
    engine: Box<dyn Engine>,
}

impl HfArgs {
    /// None of the flags has a meaning for this program's checkpoints.
    pub fn refuse(&self, from: &Path) -> Result<()> {
        let flags = [
            ("--top-k", self.top_k.is_some()),
            ("--scores", self.scores.is_some()),
            ("--shard-size", self.shard_size.is_some()),
            ("--resume", self.resume),
            ("--verify", self.verify),
            ("--layout", self.layout.is_some()),
            ("--without-index", self.without_index),
        ];
        match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!(
                "{flag} is for Hugging Face checkpoints, and {} is none (it has no config.json); leave it out",
                from.display()
            ),
            None => Ok(()),
        }
    }

    /// The layout that `--layout` names.
    pub(super) fn layout(&self) -> Result<Option<Layout>> {
        let layout = self.layout.as_deref().map(Layout::named_or_read);
        Ok(layout.transpose()?)
    }

    fn scores(&self) -> Result<Option<GivenScores>> {
        let Some(path) = &self.scores else {
            return Ok(None);
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let scores = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is no file of scores (numbers only, no NaN): {{\"score\": \"load\", \"layers\": [[0.01, ..], ..]}}",
                path.display()
            )
        })?;
        Ok(Some(scores))
    }
}

/// Lists the families of checkpoints: names for `--layout`, model types, and how they route or why they cannot be grown.
pub(super) fn print_families() -> Result<()> {
    for (name, layout) in Layout::named() {
        let (dense, runs) = (layout.dense_model_types(), layout.runs());
        let mut lines = vec![layout.name.clone(), layout.model_types.join(", ")];
        lines.extend((layout.refused.iter()).map(|it| format!("cannot be grown: {it}")));
        lines.extend((layout.no_forecast()).map(|it| format!("nothing can be foretold: {it}")));
        if !dense.is_empty() {
            let dense = dense.join(", ");
            lines.push(format!("dense models that can become one: {dense}"));
        }
        if !runs.is_empty() {
            let runs = runs.join(", ");
            lines.push(format!("can be run here (import, train, export): {runs}"));
        }
        for (index, line) in lines.iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            output::line(format!("{name:<16} {line}"))?;
        }
    }
    Ok(())
}

impl UpcycleArgs {
    /// Grows the checkpoint in `from`.
    pub(super) fn run_hf(&self, from: &Path) -> Result<()> {
        self.grow_hf(self.open_hf(from)?, Some(from))
    }

    /// Grows a checkpoint, which may lie in a folder.
    pub(super) fn grow_hf(&self, checkpoint: HfCheckpoint, from: Option<&Path>) -> Result<()> {
        let started = Instant::now();
        self.refuse_own()?;
        let to = self.to.as_deref().filter(|_| !self.dry_run);
        if let Some(to) = to {
            check_free(to)?;
        }
        let moe = checkpoint.moe()?;
        let target_experts = match self.experts {
            Some(experts) => experts,
            None if checkpoint.dense => bail!(
                "the checkpoint is a dense model; say with --experts how many experts it is to have"
            ),
            None => 2 * moe.experts,
        };
        let recipe = self.hf_recipe(&checkpoint, &moe, target_experts)?;
        let checkpoint = match &recipe.dense {
            Some(dense) if checkpoint.dense => checkpoint.cut(dense.shards)?,
            _ => checkpoint,
        };
        let operator = Upcycle::new(recipe, target_experts).with_seed(self.seed);
        let request = GrowthRequest {
            operator,
            top_k: self.hf.top_k,
            scores: self.hf.scores()?,
        };
        let growth = Growth::new(&checkpoint, request)?;
        for note in &growth.notes {
            output::note!("note: {note}");
        }
        // What stands against it is better said before hours of copying.
        let trial = match from.filter(|_| self.hf.verify) {
            Some(from) => Some(self.trial(from, target_experts)?),
            None => None,
        };
        let forecast = growth.forecast()?;
        if !self.json {
            print_plan(&growth, self.dry_run)?;
            match &forecast {
                Some(forecast) => print_forecast(&growth, forecast)?,
                None => output::line(format!(
                    "what routers will choose cannot be foretold: {}",
                    moe.no_forecast.as_deref().unwrap_or_default()
                ))?,
            }
        }
        let written = self.copy(&growth, to)?;
        let seconds = started.elapsed().as_secs_f64();
        let verification = match (to, &trial) {
            (Some(to), Some(trial)) => {
                let verified = self.verify(trial, &growth.sources(), to);
                let context = || format!("{} is written, but was not verified", to.display());
                Some(verified.with_context(context)?)
            }
            _ => None,
        };
        if self.json {
            let outcome = HfOutcome {
                family: &checkpoint.layout.name,
                recipe: &growth.operator.recipe,
                experts: [moe.experts, growth.operator.target_experts],
                top_k: [moe.top_k, growth.top_k],
                layers: moe.layers.iter().map(|layer| layer.layer).collect(),
                plan: &growth.choice.plan,
                scores: &growth.choice.scores,
                forecast,
                output: written,
                verification,
                seconds,
            };
            output::line(serde_json::to_string_pretty(&outcome)?)?;
        } else {
            let verb = if to.is_some() { "wrote" } else { "would write" };
            output::line(format!(
                "{verb} {} parameters, {} in {}",
                number::parameters(written.parameters),
                number::bytes(written.bytes),
                number::plural(written.shards, "file")
            ))?;
            if let Some(verification) = &verification {
                verification::print(verification)?;
            }
        }
        if let Some(to) = to {
            output::note!(
                "checkpoint: {} ({})",
                to.display(),
                number::duration(seconds)
            );
        }
        Ok(())
    }

    /// Writes the grown checkpoint, or says what it would be.
    fn copy(&self, growth: &Growth, to: Option<&Path>) -> Result<Written> {
        let shard_bytes = self.hf.shard_size.unwrap_or(SHARD_BYTES);
        let written = match to {
            Some(to) => {
                let options = WriteOptions {
                    shard_bytes,
                    resume: self.hf.resume,
                    force: self.force.force,
                };
                let mut display = Display::new();
                let written = interrupt::during(Work::Copying, || {
                    let stop = interrupt::flag();
                    growth.write_until(to, options, stop, &mut |progress| display.show(progress))
                })?;
                display.bar.finish_and_clear();
                written?
            }
            None => growth.preview(shard_bytes)?,
        };
        for deviation in &written.deviations {
            output::note!("note: {deviation}");
        }
        if !written.left_out.is_empty() {
            output::note!(
                "left out, as not of the checkpoint: {}",
                written.left_out.join(", ")
            );
        }
        Ok(written)
    }

    /// Flags that have a meaning for this program's checkpoints only.
    fn refuse_own(&self) -> Result<()> {
        let flags = [
            ("--batches", self.batches.is_some()),
            ("--rows", self.rows.is_some()),
            ("--other-data", self.other_data),
            (
                "--data without --verify",
                !self.data.data.is_empty() && !self.hf.verify,
            ),
        ];
        let given = flags
            .iter()
            .find(|(_, given)| *given)
            .map(|(flag, _)| *flag);
        match given.or(self.recipe.of_training()) {
            Some(flag) => {
                bail!("{flag} has no meaning for a Hugging Face checkpoint; leave it out")
            }
            None => Ok(()),
        }
    }

    fn open_hf(&self, dir: &Path) -> Result<HfCheckpoint> {
        let layout = self.hf.layout()?;
        Ok(match self.hf.without_index {
            true => HfCheckpoint::open_without_index(dir, layout)?,
            false => HfCheckpoint::open(dir, layout)?,
        })
    }

    /// A checkpoint as a model for short sequences.
    fn import(&self, dir: &Path) -> Result<Import> {
        let import = Import::new(self.open_hf(dir)?)?;
        Ok(import.with_context(VERIFICATION_CONTEXT))
    }

    /// Prepares the comparison with the grown model.
    fn trial(&self, from: &Path, target_experts: usize) -> Result<Trial> {
        let before = self.import(from)?;
        let config = before.config();
        let data = match self.data.config_with(from)? {
            Some(mut data) => {
                let tokens = (VERIFICATION_ROWS * config.context) as u64;
                let needs = Needs {
                    training: tokens,
                    evaluation: tokens,
                };
                hub_data::settle(&mut data, None, needs)?;
                Some(data_args::open(&data, &self.data_cache, Ui::fitting())?)
            }
            None => None,
        };
        if let Some(data) = &data {
            data.check_shape(config.context)?;
            check_vocabulary(data, "the model", config.vocab)?;
        }
        let engine = engine(self.backend)?;
        let grown = LmConfig {
            experts: target_experts,
            ..config.clone()
        };
        let parameters = |config: &LmConfig| CostModel::new(config).parameters().total();
        let memory = 4 * (parameters(config) + parameters(&grown));
        if let Some(refusal) = refusal(engine.as_ref(), memory, 0.0).filter(|_| !self.force.force) {
            bail!("--verify: {refusal}");
        }
        Ok(Trial {
            before,
            data,
            engine,
        })
    }

    /// Runs the model before and after.
    fn verify(&self, trial: &Trial, sources: &[ExpertSources], to: &Path) -> Result<Verification> {
        Ok(trial.engine.compare(&CompareJob {
            before: &trial.before,
            after: &self.import(to)?,
            sources,
            data: trial.data.as_ref(),
            context: trial.before.config().context,
            rows: VERIFICATION_ROWS,
        })?)
    }

    /// The recipe of the flags, or one that fits the family's router.
    fn hf_recipe(&self, checkpoint: &HfCheckpoint, moe: &Moe, target: usize) -> Result<Recipe> {
        if checkpoint.dense {
            return self.recipe.recipe("sparse-upcycling");
        }
        if !self.recipe.router_is_open() {
            return self.recipe.recipe("hyperplane");
        }
        let own_gates = moe.routing.renormalize || moe.routing.score == GateScore::Sigmoid;
        let selects =
            moe.routing.bias_of != RouterBias::Logits && moe.layers.iter().all(MoeLayer::has_bias);
        if moe.top_k == 1 && own_gates {
            // Twins compute the same: any difference of their logits parts them.
            self.recipe.with_router("hyperplane", "strength=0.02")
        } else if selects {
            // Scores of sigmoids and softmaxes are at most 1; logits and what grows with them have no bound.
            let scores = match (moe.routing.score, moe.routing.bias_of) {
                (GateScore::SqrtSoftplus, _) | (_, RouterBias::LogitsOfSelection) => 1000.0,
                _ => 1.0,
            };
            let range = scores + checkpoint.bias_range(moe)?;
            self.recipe.with_router("dormant", &format!("bias={range}"))
        } else if self.copies_evenly(moe, target)? {
            self.recipe.recipe("hyperplane")
        } else {
            // A set without all experts should not be preferred much.
            self.recipe.with_router("hyperplane", "strength=1")
        }
    }

    /// Whether every expert is copied equally often.
    fn copies_evenly(&self, moe: &Moe, target: usize) -> Result<bool> {
        let recipe = self.recipe.recipe("hyperplane")?;
        Ok(recipe.selection == Selection::Uniform {} && target.is_multiple_of(moe.experts))
    }
}

fn print_plan(growth: &Growth, tables: bool) -> Result<()> {
    let (moe, target) = (&growth.moe, growth.operator.target_experts);
    output::line(format!(
        "{}, {} -> {target} experts, top-{}{}",
        number::plural(moe.layers.len(), "MoE layer"),
        moe.experts,
        growth.top_k,
        match growth.top_k == moe.top_k {
            true => String::new(),
            false => format!(
                " (before top-{}, so {:.1} times the compute in experts)",
                moe.top_k,
                growth.top_k as f64 / moe.top_k as f64
            ),
        },
    ))?;
    output::line(in_words(&growth.operator.recipe))?;
    if !tables {
        return Ok(());
    }
    for (index, plan) in growth.choice.plan.layers.iter().enumerate() {
        let layer = moe.layers[index].layer;
        output::line(format!(
            "MoE layer {index} (layers.{layer}): copies of each {:?}",
            plan.counts()
        ))?;
    }
    Ok(())
}

fn print_forecast(growth: &Growth, forecast: &RoutingForecast) -> Result<()> {
    output::line(format!(
        "routing of random inputs: {:.1} % choose other sources, gates move by {:.2} %: {}",
        100.0 * forecast.changed_sources,
        100.0 * forecast.gate_change,
        forecast.in_words()
    ))?;
    if growth.is_uneven() && forecast.is_a_jump() {
        output::line(
            "experts are copied unequally often, which no plain router can make up for: a multiple of their number with --selection uniform jumps less",
        )?;
    }
    if growth.operator.recipe.experts != (ExpertInit::Copy {}) {
        output::line("replicas are no copies of their sources, which changes the model further")?;
    }
    if growth.operator.recipe.sleeps() && forecast.is_exact() {
        output::line(
            "replicas sleep until the bias updates of continued pre-training raise them: train with loss-free balancing",
        )?;
    }
    Ok(())
}

/// A bar on a terminal, plain lines elsewhere.
struct Display {
    bar: ProgressBar,
    last_line: Instant,
}

impl Display {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(style(
            "{bar:30.cyan/black} {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed_precise} elapsed, {eta} left",
        ));
        Self {
            bar,
            last_line: Instant::now(),
        }
    }

    fn show(&mut self, progress: Progress) {
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.bytes);
        if !std::io::stderr().is_terminal() && self.last_line.elapsed() >= Duration::from_secs(10) {
            self.last_line = Instant::now();
            output::note!(
                "{} of {}, {} a second, {} left",
                number::bytes(progress.bytes),
                number::bytes(progress.total),
                number::bytes(self.bar.per_sec() as u64),
                number::duration(self.bar.eta().as_secs_f64())
            );
        }
    }
}
