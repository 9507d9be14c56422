//! Growing the experts of a checkpoint: what every tensor of the grown one is made of.

use std::{fs, io::ErrorKind, path::Path};

use serde_json::{Value, json};
use upcycle_files::FileError;
use upcycle_lm::LayerPattern;
use upcycle_moe::ExpertSources;
use upcycle_operator::{
    Choice, DenseSource, Deviation, ExpertInit, ExpertMatrices, Forecaster, GateScore, Grows,
    LayerGrowth, OperatorError, Recipe, RouterBias, RouterExtension, RouterRows, Selection,
    Upcycle,
};

use crate::{
    checkpoint::HfCheckpoint,
    config::ConfigFile,
    error::HfError,
    moe::Moe,
    replica::Replica,
    scores::{GivenScores, check_scores, utility_scores},
};

/// Name of the record of a growth in the folder of a grown checkpoint.
pub(crate) const RECORD: &str = "upcycle.json";

/// How a checkpoint grows.
#[derive(Debug, Clone, PartialEq)]
pub struct GrowthRequest {
    /// Recipe, target and seed.
    pub operator: Upcycle,
    /// Experts of a token afterwards; as before without.
    pub top_k: Option<usize>,
    /// Scores for the recipe's selection.
    pub scores: Option<GivenScores>,
}

/// A checkpoint and all that has been decided on how it grows.
#[derive(Debug)]
pub struct Growth<'a> {
    pub(crate) checkpoint: &'a HfCheckpoint,
    /// The MoE layers before.
    pub moe: Moe,
    /// Recipe, target and seed.
    pub operator: Upcycle,
    /// Experts of a token afterwards.
    pub top_k: usize,
    /// What is copied, and why.
    pub choice: Choice,
    /// For each layer the expert of the plan that every expert of the checkpoint is: replicas stand in their source's
    /// group.
    pub(crate) order: Vec<Vec<usize>>,
    /// The configuration afterwards.
    pub config: ConfigFile,
    /// What the user has to know before, in sentences.
    pub notes: Vec<String>,
    /// The record of the growth that the checkpoint comes from, or null.
    before: Value,
}

impl<'a> Growth<'a> {
    /// Decides how a checkpoint grows, and checks that it can.
    ///
    /// # Errors
    /// If the recipe cannot be carried out on this family, or the target cannot be reached.
    pub fn new(checkpoint: &'a HfCheckpoint, request: GrowthRequest) -> Result<Self, HfError> {
        let GrowthRequest {
            operator,
            top_k,
            scores,
        } = request;
        operator.recipe.validate()?;
        let moe = checkpoint.moe()?;
        check_recipe(&operator, &moe)?;
        let top_k = match &operator.recipe.dense {
            Some(dense) if checkpoint.dense => check_dense(dense, &operator, &moe, top_k)?,
            None if checkpoint.dense => return Err(OperatorError::NoMoeLayer.into()),
            _ => top_k.unwrap_or(moe.top_k),
        };
        if top_k == 0 || top_k > operator.target_experts {
            return Err(HfError::Impossible(format!(
                "`top_k` = {top_k} must lie between 1 and the {} experts",
                operator.target_experts
            )));
        }
        if let Some(given) = &scores {
            check_scores(given, &operator, &moe)?;
        }
        let mut choice = choose(checkpoint, &moe, &operator, scores.as_ref())?;
        if checkpoint.dense {
            choice = choice.of_networks()?;
        }
        let groups = moe.groups();
        let order = choice.plan.layers.iter().map(|plan| match &groups {
            Some(groups) => groups.grown(plan.sources()).order(),
            None => (0..plan.source_of().len()).collect(),
        });
        let order = order.collect();
        let fields = &checkpoint.layout.config;
        let mut config = checkpoint.config.clone();
        config.set(&fields.experts, moe.experts, operator.target_experts)?;
        config.set(&fields.top_k, moe.top_k, top_k)?;
        let mut growth = Self {
            checkpoint,
            moe,
            operator,
            top_k,
            choice,
            order,
            config: config.clone(),
            notes: Vec::new(),
            before: record_of(&checkpoint.dir)?,
        };
        growth.check_tensors()?;
        let mut left = growth.extend_config(&mut config)?;
        let beside = checkpoint.dir.join(ConfigFile::QUANTISATION);
        if beside.is_file() {
            let mut lists = ConfigFile::read_from(&beside)?;
            left.extend(growth.extend_lists(&mut lists, "")?);
        }
        growth.config = config;
        growth.notes = growth.notes(&left);
        Ok(growth)
    }

    fn notes(&self, left: &[String]) -> Vec<String> {
        let mut notes = Vec::new();
        let target = self.operator.target_experts;
        let layers = self.moe.layers.iter().filter(|layer| !layer.runs);
        let layers: Vec<&str> = layers.map(|layer| layer.weight.as_str()).collect();
        if !layers.is_empty() {
            notes.push(format!(
                "layers of multi-token prediction are grown as well, by their weights alone: {}",
                layers.join(", ")
            ));
        }
        for field in left {
            notes.push(format!(
                "`{field}` names experts, and was left as it is; see that it holds for replicas, too"
            ));
        }
        // LLAMA_MAX_EXPERTS in llama.cpp's src/llama-hparams.h.
        if target > 512 {
            notes.push(format!(
                "llama.cpp reads at most 512 experts a layer, and there will be {target}"
            ));
        }
        notes
    }

    /// MoE layers whose routers are looked at before anything is written: all, or, of a checkpoint that is only looked at, a
    /// few.
    fn looked_at(&self) -> Vec<usize> {
        match self.checkpoint.sampled {
            true => Forecaster::layers(self.moe.layers.len()),
            false => (0..self.moe.layers.len()).collect(),
        }
    }

    /// What cannot be computed is better said before anything is written.
    fn check_tensors(&self) -> Result<(), HfError> {
        let recipe = &self.operator.recipe;
        for index in self.looked_at() {
            let layer = &self.moe.layers[index];
            let rows = self.rounded_rows(index)?;
            if layer.bias.is_none() && rows.bias.iter().any(|&bias| bias != 0.0) {
                return Err(HfError::Impossible(format!(
                    "the router extension of recipe `{}` is made of biases, and the {} family has none (or layer {} of this checkpoint lacks them); use `router.kind` = `hyperplane` or `noise`",
                    recipe.name, self.checkpoint.layout.name, layer.layer
                )));
            }
            let mut values = rows.weight.iter().chain(&rows.bias);
            if values.any(|value| !value.is_finite()) {
                let problem = "has or would get values that are no numbers; is the router's strength too large?";
                return Err(self.checkpoint.fault(&layer.weight, problem));
            }
            if recipe.experts != (ExpertInit::Copy {}) {
                self.checkpoint.check_experts(layer, self.moe.experts)?;
                let matrices = self.checkpoint.storage(layer).names().count();
                if layer.parts.len() > matrices
                    && matches!(recipe.experts, ExpertInit::Shuffle { .. })
                {
                    return Err(HfError::Impossible(format!(
                        "experts of layer {} have biases ({}), which would have to move with the shuffled neurons; use another `experts.kind`",
                        layer.layer,
                        layer.parts.join(", ")
                    )));
                }
            }
        }
        Ok(())
    }

    /// What was done, for people and programs that find the checkpoint: `upcycle.json` in its folder. A source that was
    /// grown itself has one, which becomes part of it.
    pub(crate) fn record(&self, deviations: &[Deviation]) -> Value {
        let layers = self.moe.layers.iter().enumerate().map(|(index, layer)| {
            let source_of: Vec<usize> = self.source_of(index).collect();
            json!({ "layer": layer.layer, "source_of": source_of })
        });
        json!({
            "program": concat!("burn-upcycle ", env!("CARGO_PKG_VERSION")),
            "from": self.checkpoint.dir,
            "family": self.checkpoint.layout.name,
            "recipe": self.operator.recipe,
            "seed": self.operator.seed,
            "experts": [self.moe.experts, self.operator.target_experts],
            "top_k": [self.moe.top_k, self.top_k],
            "layers": layers.collect::<Vec<_>>(),
            "scores": self.choice.scores,
            "deviations": deviations,
            "before": self.before,
        })
    }

    /// Whether some experts of a layer are copied more often than others.
    pub fn is_uneven(&self) -> bool {
        let layers = &self.choice.plan.layers;
        layers.iter().any(|plan| {
            let counts = plan.counts();
            counts.iter().any(|&count| count != counts[0])
        })
    }

    /// Source of every expert of the grown checkpoint in a MoE layer, in the checkpoint's order.
    pub fn source_of(&self, layer: usize) -> impl Iterator<Item = usize> {
        let sources = self.choice.plan.layers[layer].source_of();
        self.order[layer].iter().map(|&expert| sources[expert])
    }

    /// Where the experts of the grown checkpoint come from, for each MoE layer that the model runs, in the checkpoint's order.
    pub fn sources(&self) -> Vec<ExpertSources> {
        let layers = self.moe.layers.iter().enumerate();
        let runs = layers.filter(|(_, layer)| layer.runs);
        let sources =
            runs.filter_map(|(layer, _)| ExpertSources::new(self.source_of(layer).collect()));
        sources.collect()
    }

    /// Router rows and biases of a MoE layer before.
    pub(crate) fn rows_before(&self, layer: usize) -> Result<RouterRows, HfError> {
        self.checkpoint
            .router_rows(&self.moe, &self.moe.layers[layer])
    }

    /// Router rows and biases of a MoE layer afterwards, in the checkpoint's order.
    pub(crate) fn rows(&self, layer: usize) -> Result<RouterRows, HfError> {
        let before = self.rows_before(layer)?;
        let (grown, _) = self.layer(layer).rows(&before);
        let mut rows = grown.in_order(&self.order[layer]);
        let keep = self.bias_factor(layer);
        rows.bias.iter_mut().for_each(|bias| *bias *= keep);
        Ok(rows)
    }

    /// What biases are multiplied by. A softmax over m equal copies of each expert has scores of 1/m, which biases that are
    /// added to them for the selection have to follow; with other softmaxes, or uneven copies, nothing restores the order.
    fn bias_factor(&self, layer: usize) -> f32 {
        let rule = &self.moe.routing;
        let counts = self.choice.plan.layers[layer].counts();
        let even = counts.iter().all(|&count| count == counts[0]);
        let softmax = rule.score == GateScore::Softmax && rule.bias_of == RouterBias::Selection;
        match softmax && rule.renormalize && even && self.moe.further_rows == 0 {
            true => 1.0 / counts[0] as f32,
            false => 1.0,
        }
    }

    /// What is computed of a MoE layer.
    pub(crate) fn layer(&self, layer: usize) -> LayerGrowth<'_> {
        self.operator.layer(layer, &self.choice.plan.layers[layer])
    }

    /// An expert of the plan that is not a copy, in the layout's shape, and whether it had to become one all the same.
    pub(crate) fn replica(
        &self,
        layer: usize,
        expert: usize,
    ) -> Result<(Replica<'_>, Option<Deviation>), HfError> {
        let tensors = &self.moe.layers[layer];
        let source = self.choice.plan.layers[layer].source_of()[expert];
        let (own, [d, f]) = self.checkpoint.expert(tensors, source)?;
        let (neighbour, _) = self
            .checkpoint
            .expert(tensors, (source + 1) % self.moe.experts)?;
        let (own, neighbour) = (matrices(&own, [d, f]), matrices(&neighbour, [d, f]));
        let (matrices, deviation) = self.layer(layer).replica(own, neighbour, expert);
        let replica = Replica {
            layer,
            expert,
            matrices,
            shape: [d, f],
            layout: self.checkpoint.storage(tensors),
        };
        Ok((replica, deviation))
    }

    /// Router rows that could not be made as the recipe says.
    pub fn deviations(&self) -> Result<Vec<Deviation>, HfError> {
        let mut deviations = Vec::new();
        for layer in self.looked_at() {
            let (_, deviation) = self.layer(layer).rows(&self.rows_before(layer)?);
            deviations.extend(deviation);
        }
        Ok(deviations)
    }
}

/// Which experts are copied. Layers that the model does not run are copied evenly where scores are given, which are of those
/// that it runs.
fn choose(
    checkpoint: &HfCheckpoint,
    moe: &Moe,
    operator: &Upcycle,
    scores: Option<&GivenScores>,
) -> Result<Choice, HfError> {
    let (experts, count) = (moe.experts, moe.layers.len());
    let groups = vec![moe.groups().map(|groups| groups.of); count];
    let scored = scores.map_or(count, |given| given.layers.len());
    let mut choice = operator.choose(experts, &groups, |layer| match layer < scored {
        true => utility_scores(checkpoint, moe, operator, scores, layer),
        false => Ok(vec![1.0; experts]),
    })?;
    if scored < count {
        let recipe = Recipe {
            selection: Selection::Uniform {},
            ..operator.recipe.clone()
        };
        let even = Upcycle {
            recipe,
            ..operator.clone()
        };
        let none = |_| Ok::<_, HfError>(Vec::new());
        let even = even.choose(experts, &groups, none)?;
        choice.plan.layers[scored..].clone_from_slice(&even.plan.layers[scored..]);
        choice.scores[scored..].fill(Vec::new());
    }
    Ok(choice)
}

/// The record in a checkpoint's folder; null without one.
fn record_of(dir: &Path) -> Result<Value, HfError> {
    let path = dir.join(RECORD);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Value::Null),
        text => text.map_err(FileError::of("read", &path))?,
    };
    serde_json::from_str(&text).map_err(|error| {
        let problem = format!(
            "is not JSON ({error}); mend it, or remove it to lose what it says of earlier growths"
        );
        HfError::file(&path, problem)
    })
}

/// Far above any model, far below what fills the memory with names.
const MOST_EXPERTS: usize = 1 << 16;

/// Experts of a token of a model that was dense.
fn check_dense(
    dense: &DenseSource,
    operator: &Upcycle,
    moe: &Moe,
    top_k: Option<usize>,
) -> Result<usize, HfError> {
    let fail = |problem: &str| {
        Err(HfError::Impossible(format!(
            "a dense checkpoint: {problem}"
        )))
    };
    let shards = dense.shards;
    if shards != moe.experts {
        return fail(&format!(
            "its networks are cut into {}, not into `dense.shards` = {shards}",
            moe.experts
        ));
    }
    if shards > 1 && operator.recipe.experts != (ExpertInit::Copy {}) {
        return fail(
            "experts that networks are cut into are copied; leave `dense.shards` or `experts.kind` out",
        );
    }
    if let Some(k) = top_k.filter(|k| !k.is_multiple_of(shards)) {
        return fail(&format!(
            "tokens go to whole networks, and `top_k` = {k} is not a multiple of `dense.shards` = {shards}"
        ));
    }
    if dense.layers != LayerPattern::AllMoe {
        return fail("all of its layers become MoE; leave `dense.layers` out");
    }
    if !matches!(operator.recipe.router, RouterExtension::Hyperplane { .. }) {
        return fail(
            "its routers start from zero, from which only `router.kind` = `hyperplane` tells experts apart",
        );
    }
    let own = dense.experts_of_a_token(operator.target_experts)?;
    Ok(top_k.unwrap_or(own))
}

/// What no router of transformers can do.
fn check_recipe(operator: &Upcycle, moe: &Moe) -> Result<(), HfError> {
    let recipe = &operator.recipe;
    if let RouterExtension::TwoLevel { .. } = recipe.router {
        return Err(HfError::Impossible(format!(
            "recipe `{}` has two-level selection, which routers of transformers do not know; use `router.kind` = `hyperplane`, or import the model, and grow it in memory",
            recipe.name
        )));
    }
    if recipe.grows != Grows::Experts {
        return Err(HfError::Impossible(format!(
            "recipe `{}` grows more than the number of experts; leave `grows` out, with `--top-k` for another K, or import the model, and grow it in memory",
            recipe.name
        )));
    }
    if recipe.boost.is_some() {
        return Err(HfError::Impossible(format!(
            "recipe `{}` has a boost, learning rates that a checkpoint cannot tell another program's training; leave `boost` out, or import the model, and grow it in memory",
            recipe.name
        )));
    }
    if let ExpertInit::SparseCode { .. } = recipe.experts {
        return Err(HfError::Impossible(
            "sparse-code learns from all experts of a layer at once, which would take their memory; use another `experts.kind`, or import the model, and grow it in memory".into(),
        ));
    }
    let target = operator.target_experts;
    if target > MOST_EXPERTS {
        let problem = format!("{target} experts a layer are more than {MOST_EXPERTS}");
        return Err(OperatorError::GrownModel(problem).into());
    }
    if target <= moe.experts {
        return Err(OperatorError::TargetNotAbove {
            target,
            experts: moe.experts,
        }
        .into());
    }
    Ok(())
}

fn matrices([gate, up, down]: &[Vec<f32>; 3], [d, f]: [usize; 2]) -> ExpertMatrices<'_> {
    ExpertMatrices {
        gate,
        up,
        down,
        d,
        f,
    }
}
