//! From the axes of a sweep to cells and stages.

use upcycle_data::Dataset;
use upcycle_lm::LmConfig;
use upcycle_operator::{Recipe, Upcycle};
use upcycle_train::{
    BatchConfig, DataSchedule, EvaluationConfig, Schedule, TrainSpec, UpcycleSpec,
};

use crate::{
    error::LabError,
    graph::{Stage, StageGraph},
    presets,
    results::Setting,
    scale::Scale,
    stage::{Origin, StageKey, StageSpec},
    sweep::{Protocol, SweepConfig},
};

/// Share of a run over which the learning rate decays (the paper, section 4: 10 %).
const DECAY_SHARE: f64 = 0.1;

/// Batches over which the operator averages gradients (the paper, section 3).
const EVIDENCE_BATCHES: usize = 10;

/// All cells of a sweep and the stages that they need.
#[derive(Debug, Clone)]
pub struct SweepPlan {
    /// The comparisons.
    pub cells: Vec<CellPlan>,
    /// The stages.
    pub graph: StageGraph,
}

/// One comparison of Fixed-E, Upcycled and Fixed-mE.
#[derive(Debug, Clone)]
pub struct CellPlan {
    /// Where in the sweep.
    pub setting: Setting,
    /// Name of the recipe.
    pub recipe: String,
    /// Seed.
    pub seed: u64,
    /// Tokens before the operator.
    pub pretrain_tokens: u64,
    /// Tokens after it.
    pub cpt_tokens: u64,
    /// Last stage of Fixed-E.
    pub fixed_e: StageKey,
    /// The operator.
    pub upcycle: StageKey,
    /// Last stage of Upcycled.
    pub upcycled: StageKey,
    /// Last stage of Fixed-mE.
    pub fixed_me: StageKey,
}

impl SweepPlan {
    /// Expands the axes of a sweep on a dataset and backend.
    ///
    /// # Errors
    /// If an axis has an impossible value, a preset is unknown, a model cannot be built or the data is too small.
    pub fn new(config: &SweepConfig, data: &Dataset, backend: &str) -> Result<Self, LabError> {
        config.validate()?;
        let recipes = config
            .recipes
            .iter()
            .map(|name| presets::recipe(name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut planner = Planner {
            backend,
            data,
            protocol: config.protocol,
            graph: StageGraph::default(),
            cells: Vec::new(),
        };
        for name in &config.scales {
            let scale = adapt(presets::scale(name)?, config, data)?;
            data.check_shape(scale.model.context)?;
            for experts in or_own(&config.experts, scale.model.experts) {
                for top_k in or_own(&config.top_k, scale.model.top_k) {
                    let mut scale = scale.clone();
                    (scale.model.experts, scale.model.top_k) = (experts, top_k);
                    scale.model.validate()?;
                    for &multiplier in &config.multipliers {
                        let target = target_experts(experts, multiplier)?;
                        for recipe in &recipes {
                            for seed in 0..config.seeds {
                                planner.cells(config, &scale, multiplier, target, recipe, seed)?;
                            }
                        }
                    }
                }
            }
        }
        for stage in planner.graph.stages() {
            if let StageSpec::Train { spec, .. } = &stage.spec {
                spec.validate()?;
            }
        }
        Ok(Self {
            cells: planner.cells,
            graph: planner.graph,
        })
    }
}

fn or_own(axis: &[usize], own: usize) -> Vec<usize> {
    if axis.is_empty() {
        vec![own]
    } else {
        axis.to_vec()
    }
}

/// The scale with the sweep's tokens, vocabulary and context.
fn adapt(mut scale: Scale, config: &SweepConfig, data: &Dataset) -> Result<Scale, LabError> {
    if let Some(context) = config.context {
        scale.model.context = context;
    }
    if let Some(vocab) = config.vocab {
        scale.model.vocab = vocab;
    }
    if scale.model.vocab == 0 {
        scale.model.vocab = data.vocab_size();
    }
    if scale.model.vocab < data.vocab_size() {
        return Err(LabError::Sweep {
            field: "vocab",
            problem: format!(
                "{} is less than the {} tokens of the data; leave it out or raise it",
                scale.model.vocab,
                data.vocab_size()
            ),
        });
    }
    scale.model.validate()?;
    Ok(match config.tokens {
        Some(tokens) => scale.with_pretrain_tokens(tokens),
        None => scale,
    })
}

fn target_experts(experts: usize, multiplier: f64) -> Result<usize, LabError> {
    let target = experts as f64 * multiplier;
    if target.fract() != 0.0 || target <= experts as f64 {
        return Err(LabError::Sweep {
            field: "multipliers",
            problem: format!(
                "{multiplier} times {experts} experts is {target}; the target must be a whole number above {experts}"
            ),
        });
    }
    Ok(target as usize)
}

/// Training of one model from one origin: a trunk at the stable learning rate, and decays that branch off it.
struct Line<'a> {
    label: String,
    scale: &'a Scale,
    config: &'a SweepConfig,
    model: LmConfig,
    origin: Origin,
    /// Step of the origin.
    from: u64,
    warmup_steps: u64,
    seed: u64,
    tau: u64,
    /// Steps at which the trunk is needed, in order; the trunk is cut there.
    cuts: Vec<u64>,
}

struct Planner<'a> {
    backend: &'a str,
    data: &'a Dataset,
    protocol: Protocol,
    graph: StageGraph,
    cells: Vec<CellPlan>,
}

impl Planner<'_> {
    /// The cells of all budgets for one model, recipe and seed.
    fn cells(
        &mut self,
        config: &SweepConfig,
        scale: &Scale,
        multiplier: f64,
        target: usize,
        recipe: &Recipe,
        seed: u64,
    ) -> Result<(), LabError> {
        let tau = scale.training.pretrain_steps;
        let mut grown = scale.model.clone();
        grown.experts = target;
        grown.validate()?;
        // The recipe must be able to reach the target; better said now than in the middle of the sweep.
        let operator = Upcycle {
            recipe: recipe.clone(),
            target_experts: target,
            seed,
        };
        operator.check(&scale.model, tau)?;

        let budgets = budgets(tau, &config.cpt)?;
        let mut cuts: Vec<u64> = budgets.iter().map(|budget| budget.decay_from).collect();
        cuts.push(tau);
        cuts.sort_unstable();
        cuts.dedup();
        let line = |model: &LmConfig, name: String| Line {
            label: format!("{}/{name} k{} seed {seed}", scale.name, model.top_k),
            scale,
            config,
            model: model.clone(),
            origin: Origin::Initial {
                model: Box::new(model.clone()),
                seed,
            },
            from: 0,
            warmup_steps: scale.training.warmup_steps,
            seed,
            tau,
            cuts: cuts.clone(),
        };
        let fixed_e = line(&scale.model, format!("fixed-{}", scale.model.experts));
        let fixed_me = line(&grown, format!("fixed-{target}"));
        let (fixed_e, fixed_me) = match self.protocol {
            Protocol::Trunk => (fixed_e, fixed_me),
            Protocol::Annealed => (self.anneal(fixed_e), self.anneal(fixed_me)),
        };

        let parent = self.stable(&fixed_e, tau);
        let upcycle = self.upcycle(&fixed_e, parent, recipe, target);
        let upcycled = Line {
            label: format!(
                "{}/{}->{target} {} k{} seed {seed}",
                scale.name, scale.model.experts, recipe.name, scale.model.top_k
            ),
            scale,
            config,
            model: grown,
            origin: Origin::Stage(upcycle.clone()),
            from: tau,
            warmup_steps: match self.protocol {
                Protocol::Trunk => 0,
                Protocol::Annealed => scale.training.warmup_steps,
            },
            seed,
            tau,
            cuts: cuts.into_iter().filter(|&cut| cut > tau).collect(),
        };
        for budget in budgets {
            let cell = CellPlan {
                setting: Setting {
                    scale: scale.name.clone(),
                    data: self.data.label(),
                    protocol: self.protocol.name().into(),
                    experts: scale.model.experts,
                    multiplier,
                    target_experts: target,
                    top_k: scale.model.top_k,
                    cpt_fraction: budget.share,
                },
                recipe: recipe.name.clone(),
                seed,
                pretrain_tokens: tau * scale.tokens_per_step(),
                cpt_tokens: (budget.end - tau) * scale.tokens_per_step(),
                fixed_e: self.decay(&fixed_e, budget.decay_from, budget.end),
                upcycled: self.decay(&upcycled, budget.decay_from, budget.end),
                fixed_me: self.decay(&fixed_me, budget.decay_from, budget.end),
                upcycle: upcycle.clone(),
            };
            self.cells.push(cell);
        }
        Ok(())
    }

    /// Pre-training with a decay of its own; the line goes on from its end, with a new warmup.
    fn anneal<'b>(&mut self, mut line: Line<'b>) -> Line<'b> {
        let decay_from = line.tau - decay_steps(line.tau, line.tau);
        let cuts = std::mem::replace(&mut line.cuts, vec![decay_from]);
        let annealed = self.decay(&line, decay_from, line.tau);
        line.origin = Origin::Stage(annealed);
        line.from = line.tau;
        line.cuts = cuts.into_iter().filter(|&cut| cut > line.tau).collect();
        line
    }

    /// The trunk at `step`: the line's origin, or the end of a stage at the stable learning rate.
    fn stable(&mut self, line: &Line, step: u64) -> Option<StageKey> {
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
            parent = Some(self.train(line, parent, from, cut, None));
            from = cut;
        }
        parent
    }

    /// The end of a decay that branches off the trunk.
    fn decay(&mut self, line: &Line, from: u64, end: u64) -> StageKey {
        let parent = self.stable(line, from);
        self.train(line, parent, from, end, Some(from))
    }

    fn train(
        &mut self,
        line: &Line,
        parent: Option<StageKey>,
        from: u64,
        to: u64,
        decay_from: Option<u64>,
    ) -> StageKey {
        let training = &line.scale.training;
        let spec = StageSpec::Train {
            origin: line.origin.clone(),
            spec: Box::new(TrainSpec {
                schedule: Schedule {
                    peak_lr: training.peak_lr,
                    warmup_from: line.from,
                    warmup_steps: line.warmup_steps,
                    decay_from,
                    end: to,
                },
                optimizer: line.scale.optimizer.clone(),
                batch: batch(line.scale),
                data: DataSchedule {
                    cpt_from: (to > line.tau).then_some(line.tau),
                    seed: line.seed,
                },
                balancing: line.scale.balancing.clone(),
                precision: line.config.precision,
                evaluation: EvaluationConfig {
                    every: training.evaluation_steps,
                    rows: training.evaluation_rows,
                },
            }),
        };
        let phase = if decay_from.is_some() {
            "decay"
        } else {
            "stable"
        };
        self.add(Stage {
            key: spec.key(self.backend, self.data.fingerprint()),
            spec,
            parent,
            label: format!("{} {phase} {from}..{to}", line.label),
            model: line.model.clone(),
            from,
            to,
        })
    }

    fn upcycle(
        &mut self,
        line: &Line,
        parent: Option<StageKey>,
        recipe: &Recipe,
        target: usize,
    ) -> StageKey {
        let mut model = line.model.clone();
        model.experts = target;
        // tau is at least one step, so there is always a stage before the operator.
        let parent = parent.unwrap_or_else(|| self.train(line, None, 0, line.tau, None));
        let spec = StageSpec::Upcycle {
            parent: parent.clone(),
            spec: Box::new(UpcycleSpec {
                recipe: recipe.clone(),
                target_experts: target,
                seed: line.seed,
                evidence_batches: EVIDENCE_BATCHES,
                data_seed: line.seed,
                batch: batch(line.scale),
                precision: line.config.precision,
                evaluation_rows: line.scale.training.evaluation_rows,
            }),
        };
        self.add(Stage {
            key: spec.key(self.backend, self.data.fingerprint()),
            spec,
            parent: Some(parent),
            label: format!("{} upcycle to {target} by {}", line.label, recipe.name),
            model,
            from: line.tau,
            to: line.tau,
        })
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

/// One budget of continued pre-training.
struct Budget {
    share: f64,
    decay_from: u64,
    end: u64,
}

/// The budgets of all shares; each must be steps of its own.
fn budgets(tau: u64, shares: &[f64]) -> Result<Vec<Budget>, LabError> {
    let mut budgets: Vec<Budget> = Vec::new();
    for &share in shares {
        let cpt = (tau as f64 * share).round() as u64;
        let end = tau + cpt;
        let same = budgets.iter().find(|budget| budget.end == end);
        if cpt == 0 || same.is_some() {
            let problem = match same {
                Some(other) => format!("{share} and {} are the same number of steps", other.share),
                None => format!("{share} is less than one step"),
            };
            return Err(LabError::Sweep {
                field: "cpt",
                problem: format!("{problem} of a pre-training of {tau}; raise `tokens`"),
            });
        }
        budgets.push(Budget {
            share,
            decay_from: end - decay_steps(end, cpt),
            end,
        });
    }
    Ok(budgets)
}

/// Steps of the decay that ends a run of `total` steps: 10 %, but no more than the `last` stage has.
fn decay_steps(total: u64, last: u64) -> u64 {
    ((total as f64 * DECAY_SHARE).round() as u64).clamp(1, last)
}
