//! Stages of one model: a trunk at the stable learning rate, and decays that branch off it.

use std::ops::Range;

use upcycle_data::Dataset;
use upcycle_kernels::Precision;
use upcycle_lm::LmConfig;
use upcycle_operator::Recipe;
use upcycle_train::{
    BatchConfig, DataSchedule, EvaluationConfig, Schedule, TrainSpec, UpcycleSpec,
};

use super::times::{Budget, Times, decay_steps};
use crate::{
    error::LabError,
    graph::{Stage, StageGraph},
    scale::Scale,
    stage::{Origin, StageKey, StageSpec},
    sweep::{Protocol, SweepConfig},
};

/// Batches over which the operator averages gradients (the paper, section 3).
const EVIDENCE_BATCHES: usize = 10;

/// What becomes of the learning rate at tau.
#[derive(Debug, Clone, Copy)]
pub(super) struct After {
    pub(super) protocol: Protocol,
    /// Stable learning rate over that before, in sweeps that change it.
    pub(super) lr: Option<f64>,
}

impl After {
    /// All of a sweep.
    pub(super) fn all(config: &SweepConfig) -> Vec<Self> {
        let lr: Vec<Option<f64>> = match config.cpt_lr.as_slice() {
            [] => vec![None],
            factors => factors.iter().copied().map(Some).collect(),
        };
        let protocols = config.protocols.iter();
        protocols
            .flat_map(|&protocol| lr.iter().map(move |&lr| Self { protocol, lr }))
            .collect()
    }
}

/// Training of one model from one origin.
#[derive(Clone)]
pub(super) struct Line<'a> {
    label: String,
    scale: &'a Scale,
    model: LmConfig,
    origin: Origin,
    /// Step of the origin.
    from: u64,
    warmup_from: u64,
    warmup_steps: u64,
    seed: u64,
    tau: u64,
    after: After,
    /// Steps at which the trunk is needed, in order; the trunk is cut there.
    cuts: Vec<u64>,
}

impl<'a> Line<'a> {
    /// A new model.
    pub(super) fn new(
        scale: &'a Scale,
        model: &LmConfig,
        seed: u64,
        times: &Times,
        after: After,
    ) -> Self {
        let name = match model.moe_layers() {
            0 => "dense".to_owned(),
            _ => format!("fixed-{}{}", model.experts, wider(model, scale)),
        };
        let decays = times.budgets.iter().map(|budget| budget.decay_from);
        let mut cuts: Vec<u64> = decays.chain(times.earlier.iter().copied()).collect();
        cuts.push(times.tau);
        cuts.sort_unstable();
        cuts.dedup();
        Self {
            label: format!("{}/{name} k{} seed {seed}", scale.name, model.top_k),
            scale,
            model: model.clone(),
            origin: Origin::Initial {
                model: Box::new(model.clone()),
                seed,
            },
            from: 0,
            warmup_from: 0,
            warmup_steps: scale.training.warmup_steps,
            seed,
            tau: times.tau,
            after,
            cuts,
        }
    }

    /// Stable learning rate from step `step` on.
    fn peak_lr(&self, step: u64) -> f64 {
        let before = self.scale.training.peak_lr;
        match self.after.lr {
            Some(factor) if step >= self.tau => factor * before,
            _ => before,
        }
    }

    /// The line of the model that the operator of the stage `upcycle` made at step `at`; `growths` are the steps of all.
    pub(super) fn grown(
        &self,
        model: &LmConfig,
        upcycle: &StageKey,
        at: u64,
        recipe: &str,
        growths: &[u64],
    ) -> Self {
        let scale = self.scale;
        let from = match self.model.moe_layers() {
            0 => "dense".to_owned(),
            _ => self.model.experts.to_string(),
        };
        let mut cuts = [&self.cuts, growths].concat();
        cuts.retain(|&cut| cut > at);
        cuts.sort_unstable();
        cuts.dedup();
        Self {
            label: format!(
                "{}/{from}->{}{} {recipe} k{} seed {}",
                scale.name,
                model.experts,
                wider(model, scale),
                model.top_k,
                self.seed
            ),
            model: model.clone(),
            origin: Origin::Stage(upcycle.clone()),
            from: at,
            warmup_from: self.tau,
            warmup_steps: match self.after.protocol {
                Protocol::Trunk => 0,
                Protocol::Annealed => scale.training.warmup_steps,
            },
            cuts,
            ..self.clone()
        }
    }
}

/// Names the width of experts that is not the scale's.
fn wider(model: &LmConfig, scale: &Scale) -> String {
    match model.d_expert == scale.model.d_expert {
        true => String::new(),
        false => format!(" of width {}", model.d_expert),
    }
}

/// What a training stage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The trunk, at the stable learning rate.
    Stable,
    /// A decay that ends pre-training, after which training goes on.
    Annealing,
    /// The decay that ends a budget; its model is a final one, and tested.
    Final,
}

/// Makes stages.
pub(super) struct Planner<'a> {
    backend: &'a str,
    pub(super) data: &'a Dataset,
    precision: Precision,
    pub(super) graph: StageGraph,
}

impl<'a> Planner<'a> {
    pub(super) fn new(backend: &'a str, data: &'a Dataset, precision: Precision) -> Self {
        Self {
            backend,
            data,
            precision,
            graph: StageGraph::default(),
        }
    }

    /// A line as a protocol begins it: `annealed` ends pre-training with a decay of its own, and goes on from its end with
    /// a new warmup.
    pub(super) fn begin<'b>(&mut self, mut line: Line<'b>) -> Result<Line<'b>, LabError> {
        if line.after.protocol == Protocol::Trunk {
            return Ok(line);
        }
        let (tau, decay_from) = (line.tau, line.tau - decay_steps(line.tau, line.tau));
        let later = line.cuts.iter().copied().filter(|&cut| cut > tau).collect();
        line.cuts = vec![decay_from];
        let parent = self.stable(&line, decay_from)?;
        line.origin =
            Origin::Stage(self.train(&line, parent, decay_from..tau, Phase::Annealing)?);
        (line.from, line.warmup_from, line.cuts) = (tau, tau, later);
        Ok(line)
    }

    /// The trunk at `step`: the line's origin, or the end of a stage at the stable learning rate.
    fn stable(&mut self, line: &Line, step: u64) -> Result<Option<StageKey>, LabError> {
        let mut parent = match &line.origin {
            Origin::Stage(key) => Some(key.clone()),
            Origin::Initial { .. } => None,
        };
        let mut from = line.from;
        for &cut in line
            .cuts
            .iter()
            .filter(|&&cut| cut > line.from && cut <= step)
        {
            parent = Some(self.train(line, parent, from..cut, Phase::Stable)?);
            from = cut;
        }
        Ok(parent)
    }

    /// The end of a budget, by a decay that branches off the trunk.
    pub(super) fn decay(&mut self, line: &Line, budget: &Budget) -> Result<StageKey, LabError> {
        let from = budget.decay_from;
        let parent = self.stable(line, from)?;
        self.train(line, parent, from..budget.end, Phase::Final)
    }

    fn train(
        &mut self,
        line: &Line,
        parent: Option<StageKey>,
        steps: Range<u64>,
        phase: Phase,
    ) -> Result<StageKey, LabError> {
        let training = &line.scale.training;
        let Range {
            start: from,
            end: to,
        } = steps;
        let spec = StageSpec::Train {
            origin: line.origin.clone(),
            spec: Box::new(TrainSpec {
                schedule: Schedule {
                    peak_lr: line.peak_lr(from),
                    warmup_from: line.warmup_from,
                    warmup_steps: line.warmup_steps,
                    decay_from: (phase != Phase::Stable).then_some(from),
                    end: to,
                },
                optimizer: line.scale.optimizer.clone(),
                batch: batch(line.scale),
                data: DataSchedule {
                    cpt_from: (to > line.tau).then_some(line.tau),
                    seed: line.seed,
                },
                balancing: line.scale.balancing.clone(),
                precision: self.precision,
                evaluation: EvaluationConfig {
                    every: training.evaluation_steps,
                    rows: training.evaluation_rows,
                    test_rows: match phase {
                        Phase::Final => training.evaluation_rows,
                        Phase::Stable | Phase::Annealing => 0,
                    },
                },
            }),
        };
        let phase = match phase {
            Phase::Stable => "stable",
            Phase::Annealing | Phase::Final => "decay",
        };
        let key = spec.key(self.backend, self.data.fingerprint())?;
        Ok(self.add(Stage {
            key,
            spec,
            parent,
            label: format!("{} {phase} {from}..{to}", line.label),
            model: line.model.clone(),
            from,
            to,
        }))
    }

    /// The operator on a line at step `at`.
    pub(super) fn upcycle(
        &mut self,
        line: &Line,
        at: u64,
        recipe: &Recipe,
        target: usize,
        grown: &LmConfig,
    ) -> Result<StageKey, LabError> {
        // `at` is behind the first step of the line, or the line begins with a stage.
        let parent = match self.stable(line, at)? {
            Some(parent) => parent,
            None => self.train(line, None, 0..at, Phase::Stable)?,
        };
        let spec = StageSpec::Upcycle {
            parent: parent.clone(),
            spec: Box::new(UpcycleSpec {
                // Whose recipe it is changes no result, and so must not change the stage's address.
                recipe: Recipe {
                    of_paper: false,
                    ..recipe.clone()
                },
                target_experts: target,
                seed: line.seed,
                evidence_batches: EVIDENCE_BATCHES,
                data_seed: line.seed,
                batch: batch(line.scale),
                precision: self.precision,
                evaluation_rows: line.scale.training.evaluation_rows,
            }),
        };
        let key = spec.key(self.backend, self.data.fingerprint())?;
        Ok(self.add(Stage {
            key,
            spec,
            parent: Some(parent),
            label: format!("{} upcycle to {target} by {}", line.label, recipe.name),
            model: grown.clone(),
            from: at,
            to: at,
        }))
    }

    fn add(&mut self, stage: Stage) -> StageKey {
        let key = stage.key.clone();
        self.graph.add(stage);
        key
    }
}

fn batch(scale: &Scale) -> BatchConfig {
    BatchConfig {
        rows: scale.training.rows,
        context: scale.model.context,
        accumulation: scale.training.accumulation,
    }
}
