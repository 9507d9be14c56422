//! From the axes of a sweep to cells and stages.

mod choice;
mod line;
mod needs;
mod times;

use std::collections::{BTreeMap, BTreeSet};

use upcycle_data::Dataset;
use upcycle_lm::{LayerPattern, LmConfig};
use upcycle_moe::Release;
use upcycle_operator::{Grows, Recipe, RouterExtension, Upcycle};
use upcycle_report::Setting;
use upcycle_train::{check_growth, grown_shape};

use crate::{
    error::LabError,
    graph::{Stage, StageGraph},
    presets,
    scale::Scale,
    stage::{StageKey, StageSpec},
    sweep::{Growth, SweepConfig},
};
use choice::Choice;
use line::{After, Line, Planner};
pub use needs::Needs;
use needs::sized;
use times::{Budget, Times, times};

/// All cells of a sweep and the stages that they need.
#[derive(Debug, Clone)]
pub struct SweepPlan {
    /// The comparisons.
    pub cells: Vec<CellPlan>,
    /// The stages.
    pub graph: StageGraph,
}

/// Results tell recipes and scales apart by their names: two of one name would be taken for seeds of one.
fn check_names<'a>(
    field: &'static str,
    values: &'a [String],
    names: impl Iterator<Item = &'a str>,
) -> Result<(), LabError> {
    let mut known = BTreeMap::new();
    for (value, name) in values.iter().zip(names) {
        if let Some(other) = known.insert(name, value) {
            let problem = format!(
                "{other} and {value} both have the name `{name}`, and results could not tell them apart; give one of the files another `name`"
            );
            return Err(LabError::Sweep { field, problem });
        }
    }
    Ok(())
}

/// One comparison of Fixed-E, Upcycled and Fixed-mE.
#[derive(Debug, Clone)]
pub struct CellPlan {
    /// Where in the sweep.
    pub setting: Setting,
    /// Name of the recipe, and of the way of growth where it is not one jump.
    pub recipe: String,
    /// Whether the paper has this recipe, with this way of growth.
    pub of_paper: bool,
    /// Seed.
    pub seed: u64,
    /// Tokens before the operator.
    pub pretrain_tokens: u64,
    /// Tokens after it.
    pub cpt_tokens: u64,
    /// Last stage of Fixed-E.
    pub fixed_e: StageKey,
    /// The operator, at tau.
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
            .map(|name| Choice::named(name))
            .collect::<Result<Vec<_>, _>>()?;
        let scales = config.scales.iter();
        let scales = scales.map(|name| presets::scale(name));
        let scales = scales.collect::<Result<Vec<_>, _>>()?;
        let names = recipes.iter().map(|recipe| recipe.name.as_str());
        check_names("recipes", &config.recipes, names)?;
        let names = scales.iter().map(|scale| scale.name.as_str());
        check_names("scales", &config.scales, names)?;
        let mut planner = Planner::new(backend, data, config.precision);
        let mut cells = Vec::new();
        for scale in scales {
            let scale = adapt(scale, config, data)?;
            data.check_shape(scale.model.context)?;
            let times = times(config, &scale)?;
            for experts in or_own(&config.experts, scale.model.experts) {
                for top_k in or_own(&config.top_k, scale.model.top_k) {
                    let mut scale = scale.clone();
                    (scale.model.experts, scale.model.top_k) = (experts, top_k);
                    scale.model.validate()?;
                    for &multiplier in &config.multipliers {
                        for path in paths(config, experts, multiplier)? {
                            let points = Points {
                                scale: &scale,
                                multiplier,
                                path,
                                times: &times,
                                recipes: &recipes,
                            };
                            points.plan(config, &mut planner, &mut cells)?;
                        }
                    }
                }
            }
        }
        let graph = planner.graph;
        for stage in graph.stages() {
            if let StageSpec::Train { spec, .. } = &stage.spec {
                spec.validate()?;
            }
        }
        Ok(Self { cells, graph })
    }

    /// The stages whose models are compared.
    pub fn last_stages(&self) -> BTreeSet<&StageKey> {
        let cells = self.cells.iter();
        cells
            .flat_map(|cell| [&cell.fixed_e, &cell.upcycled, &cell.fixed_me])
            .collect()
    }

    /// What a reader of the results has to know: budgets that end while a recipe still holds replicas apart, so that their
    /// models are not the plain top-K models that the recipe promises.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for cell in &self.cells {
            let chain = self.graph.chain(&cell.upcycled);
            let last = chain.iter().rev().find_map(|stage| release_of(stage));
            let (Some(release), Some(decay)) = (last, chain.last()) else {
                continue;
            };
            if release.end() < decay.from {
                continue;
            }
            let setting = &cell.setting;
            let length = setting.length_name();
            let length = length.map_or(String::new(), |name| format!(", {name}"));
            let what = match release.end() > decay.to {
                true => "holds replicas apart beyond the end of",
                false => "releases replicas only in the decay that ends",
            };
            let note = format!(
                "{} {what} {} ({}, {} experts, top-{}{length}): its release takes {} steps after the operator, and the budget has {}, of which {} are the decay",
                cell.recipe,
                setting.place_name(setting.place()),
                setting.scale,
                setting.target_experts,
                setting.top_k,
                release.steps,
                decay.to - release.from,
                decay.steps(),
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }
}

/// The release of two-level selection that an upcycling stage begins.
fn release_of(stage: &Stage) -> Option<Release> {
    let StageSpec::Upcycle { spec, .. } = &stage.spec else {
        return None;
    };
    release_at(&spec.recipe, stage.from)
}

/// The release of two-level selection that a recipe begins at a step.
fn release_at(recipe: &Recipe, step: u64) -> Option<Release> {
    let RouterExtension::TwoLevel { release, .. } = recipe.router else {
        return None;
    };
    let release = release?;
    Some(Release {
        shape: release.shape,
        from: step,
        steps: release.steps_after(step),
    })
}

/// A model grows again only when the release of the growth before is over.
fn check_releases(recipe: &Recipe, growths: &[u64]) -> Result<(), LabError> {
    for pair in growths.windows(2) {
        if let Some(release) = release_at(recipe, pair[0]).filter(|it| it.end() > pair[1]) {
            return Err(LabError::Sweep {
                field: "growth",
                problem: format!(
                    "by doubling the model grows at step {}, and `{}` releases its replicas at step {}; raise the shortest budget, or take a recipe without a release",
                    pair[1],
                    recipe.name,
                    release.end()
                ),
            });
        }
    }
    Ok(())
}

fn or_own(axis: &[usize], own: usize) -> Vec<usize> {
    if axis.is_empty() {
        vec![own]
    } else {
        axis.to_vec()
    }
}

/// The scale with the sweep's tokens, vocabulary, context and learning rate.
fn adapt(scale: Scale, config: &SweepConfig, data: &Dataset) -> Result<Scale, LabError> {
    let mut scale = sized(scale, config);
    if let Some(lr) = config.peak_lr {
        scale.training.peak_lr = lr;
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
    Ok(scale)
}

/// Experts after each growth of one way from E to mE.
struct Path {
    growth: Growth,
    targets: Vec<usize>,
}

/// The ways of a sweep from `experts` to `multiplier` times as many.
fn paths(config: &SweepConfig, experts: usize, multiplier: f64) -> Result<Vec<Path>, LabError> {
    let target = target_experts(experts, multiplier)?;
    let doublings = multiplier.log2();
    let several = doublings.fract() == 0.0 && doublings > 1.0;
    let mut paths = Vec::new();
    for &growth in &config.growth {
        match growth {
            Growth::Jump => paths.push(Path {
                growth,
                targets: vec![target],
            }),
            Growth::Doubling if several => paths.push(Path {
                growth,
                targets: (1..=doublings as u32).map(|i| experts << i).collect(),
            }),
            // A single doubling, or what is none, is one jump.
            Growth::Doubling if config.growth.contains(&Growth::Jump) => {}
            Growth::Doubling => {
                return Err(LabError::Sweep {
                    field: "growth",
                    problem: format!(
                        "{multiplier} is not 4, 8 or another power of two above 2, so it cannot be reached by several doublings; add `jump`, or leave the multiplier out"
                    ),
                });
            }
        }
    }
    Ok(paths)
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

/// Those of them that have one operator in common.
struct Point<'a> {
    after: After,
    times: &'a Times,
    /// Some of the budgets.
    budgets: Vec<&'a Budget>,
    /// What the sweep calls the recipe.
    name: &'a str,
    recipe: &'a Recipe,
    seed: u64,
}

/// The points of a sweep that have a scale, E, K and a way to mE in common.
struct Points<'a> {
    /// With E and K of the points.
    scale: &'a Scale,
    multiplier: f64,
    path: Path,
    times: &'a [Times],
    recipes: &'a [Choice],
}

impl Points<'_> {
    fn plan(
        &self,
        config: &SweepConfig,
        planner: &mut Planner,
        cells: &mut Vec<CellPlan>,
    ) -> Result<(), LabError> {
        for after in After::all(config) {
            for times in self.times {
                for choice in self.recipes {
                    for seed in config.first_seed..config.first_seed + config.seeds {
                        for (recipe, budgets) in choice.by_budget(times, &self.scale.model) {
                            let point = Point {
                                after,
                                times,
                                budgets,
                                name: &choice.name,
                                recipe,
                                seed,
                            };
                            self.cells(point, &config.stages, planner, cells)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The cells of a point's budgets; several growths happen at `stages`.
    fn cells(
        &self,
        point: Point,
        stages: &[f64],
        planner: &mut Planner,
        cells: &mut Vec<CellPlan>,
    ) -> Result<(), LabError> {
        let Point {
            after,
            times,
            budgets,
            name,
            recipe,
            seed,
        } = point;
        let (scale, tau) = (self.scale, times.tau);
        let source = self.source(recipe);
        let mut shapes = vec![source.clone()];
        if recipe.grows == Grows::Width && self.path.targets.len() > 1 {
            return Err(LabError::Sweep {
                field: "growth",
                problem: format!(
                    "`{}` grows the width of experts, which several doublings cannot; leave `doubling` out",
                    recipe.name
                ),
            });
        }
        for &target in &self.path.targets {
            let operator = Upcycle::new(recipe.clone(), target).at_step(tau);
            // The recipe must be able to reach the target; better said now than in the middle of the sweep.
            let before = &shapes[shapes.len() - 1];
            check_growth(&operator, before, &[])?;
            shapes.push(grown_shape(&operator, before)?);
        }
        let grown = &shapes[shapes.len() - 1];
        let mut big = scale.model.clone();
        big.experts = grown.experts;
        if recipe.dense.is_none() {
            (big.top_k, big.d_expert) = (grown.top_k, grown.d_expert);
        }
        big.validate()?;
        check_equal_compute(recipe, grown, &big)?;

        let mut begin = |model| planner.begin(Line::new(scale, model, seed, times, after));
        let (fixed_e, fixed_me) = (begin(&scale.model)?, begin(&big)?);
        let mut line = match source == scale.model {
            true => fixed_e.clone(),
            false => begin(&source)?,
        };
        let mut operators = Vec::new();
        let steps = times.growth_steps(self.path.targets.len(), stages)?;
        check_releases(recipe, &steps)?;
        let targets = self.path.targets.iter();
        for ((shape, &target), at) in shapes[1..].iter().zip(targets).zip(&steps) {
            let upcycle = planner.upcycle(&line, *at, recipe, target, shape)?;
            line = line.grown(shape, &upcycle, *at, &recipe.name, &steps);
            operators.push(upcycle);
        }
        let grows = match recipe.grows {
            Grows::Experts => None,
            Grows::ExpertsAndTopK => Some(upcycle_report::Grows::ExpertsAndTopK),
            Grows::Width => Some(upcycle_report::Grows::Width),
        };
        let (recipe, of_paper) = match self.path.growth {
            Growth::Jump => (name.to_owned(), recipe.of_paper),
            // The paper grows at once.
            Growth::Doubling => (format!("{name} by doubling"), false),
        };
        for budget in budgets {
            cells.push(CellPlan {
                setting: Setting {
                    scale: scale.name.clone(),
                    data: planner.data.label(),
                    protocol: after.protocol.to_string(),
                    experts: scale.model.experts,
                    multiplier: self.multiplier,
                    target_experts: big.experts,
                    top_k: scale.model.top_k,
                    cpt_fraction: budget.share,
                    transition: times.transition,
                    length: times.length,
                    cpt_lr: after.lr,
                    grows,
                },
                recipe: recipe.clone(),
                of_paper,
                seed,
                pretrain_tokens: tau * scale.tokens_per_step(),
                cpt_tokens: (budget.end - tau) * scale.tokens_per_step(),
                fixed_e: planner.decay(&fixed_e, budget)?,
                upcycled: planner.decay(&line, budget)?,
                fixed_me: planner.decay(&fixed_me, budget)?,
                upcycle: operators[0].clone(),
            });
        }
        Ok(())
    }

    /// The model that a recipe grows: that of the scale, or a dense one with the width of as many experts as the recipe
    /// makes of a network.
    fn source(&self, recipe: &Recipe) -> LmConfig {
        let mut source = self.scale.model.clone();
        if let Some(dense) = &recipe.dense {
            source.d_ffn = source.d_expert * dense.shards;
            source.pattern = LayerPattern::AllDense;
            // What a dense model has no use for must not tell two of them apart.
            (source.experts, source.top_k) = (1, 1);
        }
        source
    }
}

/// What grows out of a dense model must be what it is compared with.
fn check_equal_compute(recipe: &Recipe, grown: &LmConfig, big: &LmConfig) -> Result<(), LabError> {
    let fail = |problem: String| {
        Err(LabError::Sweep {
            field: "recipes",
            problem: format!(
                "`{}` makes a MoE model of a dense one {problem}",
                recipe.name
            ),
        })
    };
    if grown.top_k != big.top_k {
        return fail(format!(
            "with K = {}, and here K = {}; give `top_k` = {}, or a recipe with another `dense.top_k`",
            grown.top_k, big.top_k, grown.top_k
        ));
    }
    if grown.pattern != big.pattern {
        return fail(
            "with other layers than the scale; set `dense.layers` to its `pattern`".into(),
        );
    }
    Ok(())
}
