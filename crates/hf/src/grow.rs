//! Growing the experts of a checkpoint: what every tensor of the grown one is made of.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    path::Path,
};

use serde_json::{Value, json};
use upcycle_files::FileError;
use upcycle_operator::{
    Choice, Deviation, ExpertInit, ExpertMatrices, Forecaster, GateScore, Grows, LayerGrowth,
    LayerPlan, OperatorError, Recipe, RouterBias, RouterExtension, RouterRows, Selection, Upcycle,
};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry},
    config::ConfigFile,
    error::HfError,
    layout::{Matrix, Stacking},
    moe::Moe,
    pattern::{Pattern, Place},
    quantisation::QUANTISATION,
    replica::Replica,
    scores::{GivenScores, check_scores, utility_scores},
    shards::TensorMeta,
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
    order: Vec<Vec<usize>>,
    /// The configuration afterwards.
    pub config: ConfigFile,
    /// What the user has to know before, in sentences.
    pub notes: Vec<String>,
    /// The record of the growth that the checkpoint comes from, or null.
    before: Value,
}

/// A tensor of the grown checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutTensor {
    pub meta: TensorMeta,
    /// Its bytes, in order.
    pub parts: Vec<Part>,
}

/// Consecutive bytes of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// Bytes of the source.
    Copy {
        shard: usize,
        offset: u64,
        bytes: u64,
    },
    /// Router rows of a MoE layer.
    Rows { layer: usize },
    /// Router biases of a MoE layer.
    Bias { layer: usize },
    /// A matrix of an expert of the plan that is not a copy.
    Replica {
        layer: usize,
        expert: usize,
        matrix: Matrix,
    },
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
        let top_k = top_k.unwrap_or(moe.top_k);
        if top_k == 0 || top_k > operator.target_experts {
            return Err(HfError::Impossible(format!(
                "`top_k` = {top_k} must lie between 1 and the {} experts",
                operator.target_experts
            )));
        }
        if let Some(given) = &scores {
            check_scores(given, &operator, &moe)?;
        }
        let groups = moe.routing.groups;
        let choice = choose(checkpoint, &moe, &operator, scores.as_ref())?;
        let group = moe.experts / groups;
        let order = choice.plan.layers.iter().map(|plan| {
            let mut order: Vec<usize> = (0..plan.source_of().len()).collect();
            order.sort_by_key(|&expert| plan.source_of()[expert] / group);
            order
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
        let beside = checkpoint.dir.join(QUANTISATION);
        if beside.is_file() {
            let mut lists = ConfigFile::read_from(&beside)?;
            left.extend(growth.extend_lists(&mut lists, None)?);
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

    /// MoE layers whose routers are looked at before anything is written: all, or, where every byte comes over a network, a
    /// few.
    fn looked_at(&self) -> Vec<usize> {
        match self.checkpoint.is_elsewhere() {
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
                let matrices = self.checkpoint.layout.storage(layer).names().count();
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

    /// Router rows and biases of a MoE layer before.
    pub(crate) fn rows_before(&self, layer: usize) -> Result<RouterRows, HfError> {
        self.checkpoint
            .router_rows(&self.moe, &self.moe.layers[layer])
    }

    /// Router rows and biases of a MoE layer afterwards, in the checkpoint's order.
    pub(crate) fn rows(&self, layer: usize) -> Result<RouterRows, HfError> {
        let before = self.rows_before(layer)?;
        let (grown, _) = self.layer(layer).rows(&before);
        let d = grown.d;
        let order = &self.order[layer];
        let rows = order
            .iter()
            .flat_map(|&expert| &grown.weight[expert * d..][..d]);
        let keep = self.bias_factor(layer);
        let biases = order.iter().map(|&expert| keep * grown.bias[expert]);
        Ok(RouterRows {
            weight: rows.copied().collect(),
            bias: biases.collect(),
            ..grown
        })
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
    fn layer(&self, layer: usize) -> LayerGrowth<'_> {
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
            layout: self.checkpoint.layout.storage(tensors),
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

    /// All tensors of the grown checkpoint.
    pub(crate) fn tensors(&self) -> Result<Vec<OutTensor>, HfError> {
        let checkpoint = self.checkpoint;
        let layers = &self.moe.layers;
        let mut in_order: Vec<(&String, &TensorEntry)> = checkpoint.tensors.iter().collect();
        in_order.sort_by_key(|(_, tensor)| (tensor.shard, tensor.offset));
        let mut written = vec![false; layers.len()];
        let mut tensors = Vec::with_capacity(in_order.len());
        let of_routers = self.router_tensors();
        for (name, tensor) in in_order {
            if let Some(&(layer, role)) = of_routers.get(name.as_str()) {
                tensors.push(self.router_tensor(name, tensor, layer, role)?);
                continue;
            }
            if let Some((layer, place, pattern)) = self.layer_of(name) {
                if let Some(behind) = place.expert.and_then(|it| it.checked_sub(self.moe.experts)) {
                    let expert = Some(self.operator.target_experts + behind);
                    let name = pattern.name(Place { expert, ..place });
                    let parts = vec![Part::copy(tensor, 0, tensor.bytes)];
                    tensors.push(self.out_tensor(&name, tensor, tensor.shape.clone(), parts));
                    continue;
                }
                // All experts of a layer go where its first tensor was.
                if !std::mem::replace(&mut written[layer], true) {
                    self.expert_tensors(layer, &mut tensors)?;
                }
                continue;
            }
            let parts = vec![Part::copy(tensor, 0, tensor.bytes)];
            tensors.push(self.out_tensor(name, tensor, tensor.shape.clone(), parts));
        }
        let mut names = HashSet::new();
        match tensors
            .iter()
            .find(|tensor| !names.insert(&tensor.meta.name))
        {
            Some(twice) => {
                let problem = "would be there twice, as a replica has the name of another tensor; the layout does not tell experts from what else there is";
                Err(checkpoint.fault(&twice.meta.name, problem))
            }
            None => Ok(tensors),
        }
    }

    /// Tensors of routers, by name: the layer, and what they are.
    fn router_tensors(&self) -> HashMap<&str, (usize, OfRouter)> {
        let mut tensors = HashMap::new();
        for (index, layer) in self.moe.layers.iter().enumerate() {
            tensors.insert(layer.weight.as_str(), (index, OfRouter::Rows));
            let bias = layer.bias.iter().map(|name| (name, OfRouter::Bias));
            let further = layer.further.iter().map(|name| (name, OfRouter::Further));
            for (name, role) in bias.chain(further) {
                tensors.insert(name, (index, role));
            }
        }
        tensors
    }

    fn router_tensor(
        &self,
        name: &str,
        tensor: &TensorEntry,
        layer: usize,
        role: OfRouter,
    ) -> Result<OutTensor, HfError> {
        let mut shape = tensor.shape.clone();
        let parts = match role {
            OfRouter::Further => {
                shape[0] = self.operator.target_experts;
                self.slices(layer, name, tensor, 1, None)?
            }
            OfRouter::Rows | OfRouter::Bias => {
                let axis = match role {
                    OfRouter::Rows => 0,
                    _ => shape.len() - 1,
                };
                // Biases may be those of experts alone.
                let further = shape[axis] - self.moe.experts;
                let kept = tensor.bytes / shape[axis] as u64 * further as u64;
                shape[axis] = self.operator.target_experts + further;
                let computed = match role {
                    OfRouter::Rows => Part::Rows { layer },
                    _ => Part::Bias { layer },
                };
                let mut parts = vec![computed];
                if kept > 0 {
                    parts.push(Part::copy(tensor, tensor.bytes - kept, kept));
                }
                parts
            }
        };
        Ok(self.out_tensor(name, tensor, shape, parts))
    }

    fn out_tensor(
        &self,
        name: &str,
        tensor: &TensorEntry,
        shape: Vec<usize>,
        parts: Vec<Part>,
    ) -> OutTensor {
        let elements = shape.iter().map(|&dim| dim as u64).product();
        OutTensor {
            meta: TensorMeta {
                name: name.to_owned(),
                dtype: tensor.dtype,
                shape,
                parameters: self.checkpoint.layout.parameters(name, elements),
            },
            parts,
        }
    }

    /// The MoE layer that a tensor of an expert belongs to, its place there, and the pattern of its name.
    fn layer_of<'n>(&self, name: &'n str) -> Option<(usize, Place<'n>, &'a Pattern)> {
        let sets = self.checkpoint.layout.sets();
        sets.iter().enumerate().find_map(|(set, (storages, _))| {
            storages.iter().enumerate().find_map(|(storage, layout)| {
                let place = layout.tensors.find(name)?;
                let layer = self.moe.layers.iter().position(|layer| {
                    let is_part = || layer.parts.iter().any(|part| part == place.after);
                    layer.storage == storage && layer.is_at(set, &place) && is_part()
                })?;
                Some((layer, place, &layout.tensors))
            })
        })
    }

    fn expert_tensors(&self, index: usize, tensors: &mut Vec<OutTensor>) -> Result<(), HfError> {
        let layer = &self.moe.layers[index];
        let layout = self.checkpoint.layout.storage(layer);
        if layout.stacking() != Stacking::Separate {
            for part in &layer.parts {
                tensors.push(self.stacked_tensor(index, part)?);
            }
            return Ok(());
        }
        let plan = &self.choice.plan.layers[index];
        // By source: what is read twice is then still in memory.
        let mut places: Vec<(usize, usize)> =
            self.order[index].iter().copied().enumerate().collect();
        places.sort_by_key(|&(_, expert)| plan.source_of()[expert]);
        for (place, expert) in places {
            let source = plan.source_of()[expert];
            for part in &layer.parts {
                let from = layout.tensors.name(layer.place(Some(source), part));
                let to = layout.tensors.name(layer.place(Some(place), part));
                let tensor = self.checkpoint.tensor(&from)?;
                let replica = self.replica_part(plan, index, expert, part);
                let parts = vec![replica.unwrap_or(Part::copy(tensor, 0, tensor.bytes))];
                tensors.push(self.out_tensor(&to, tensor, tensor.shape.clone(), parts));
            }
        }
        Ok(())
    }

    /// The part of an expert that is changed; none if it is copied.
    fn replica_part(
        &self,
        plan: &LayerPlan,
        layer: usize,
        expert: usize,
        part: &str,
    ) -> Option<Part> {
        if self.layer(layer).copies_experts() || expert < plan.first_replica() {
            return None;
        }
        let layer_of = &self.moe.layers[layer];
        let matrix = self.checkpoint.layout.storage(layer_of).matrix(part)?;
        Some(Part::Replica {
            layer,
            expert,
            matrix,
        })
    }

    fn stacked_tensor(&self, index: usize, part: &str) -> Result<OutTensor, HfError> {
        let layer = &self.moe.layers[index];
        let layout = self.checkpoint.layout.storage(layer);
        let name = layout.tensors.name(layer.place(None, part));
        let tensor = self.checkpoint.tensor(&name)?;
        let outer: usize = tensor.shape[..layout.axis].iter().product();
        let parts = self.slices(index, &name, tensor, outer, Some(part))?;
        let mut shape = tensor.shape.clone();
        shape[layout.axis] = shape[layout.axis] / self.moe.experts * self.operator.target_experts;
        Ok(self.out_tensor(&name, tensor, shape, parts))
    }

    /// The slices of all experts of a stacked tensor, `outer` times, where `part` of an expert may be changed.
    fn slices(
        &self,
        index: usize,
        name: &str,
        tensor: &TensorEntry,
        outer: usize,
        part: Option<&str>,
    ) -> Result<Vec<Part>, HfError> {
        let plan = &self.choice.plan.layers[index];
        let slices = (outer * self.moe.experts) as u64;
        let slice = tensor.bytes / slices.max(1);
        if slice * slices != tensor.bytes {
            return Err(self.checkpoint.fault(name, "has experts that share a byte"));
        }
        let mut parts: Vec<Part> = Vec::new();
        for row in 0..outer {
            for &expert in &self.order[index] {
                let replica = part.and_then(|part| self.replica_part(plan, index, expert, part));
                if let Some(replica) = replica {
                    parts.push(replica);
                    continue;
                }
                let at = (row * self.moe.experts + plan.source_of()[expert]) as u64 * slice;
                let next = Part::copy(tensor, at, slice);
                match (parts.last_mut(), &next) {
                    (
                        Some(Part::Copy {
                            shard: _,
                            offset,
                            bytes,
                        }),
                        Part::Copy { offset: start, .. },
                    ) if *offset + *bytes == *start => *bytes += slice,
                    _ => parts.push(next),
                }
            }
        }
        Ok(parts)
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
    let (experts, groups, count) = (moe.experts, moe.routing.groups, moe.layers.len());
    let scored = scores.map_or(count, |given| given.layers.len());
    let mut choice = operator.choose(count, experts, groups, |layer| match layer < scored {
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
        let even = even.choose(count, experts, groups, none)?;
        choice.plan.layers[scored..].clone_from_slice(&even.plan.layers[scored..]);
        choice.scores[scored..].fill(Vec::new());
    }
    Ok(choice)
}

/// What a tensor of a router is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfRouter {
    Rows,
    Bias,
    /// Something more of every expert.
    Further,
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

impl Part {
    fn copy(tensor: &TensorEntry, start: u64, bytes: u64) -> Self {
        Self::Copy {
            shard: tensor.shard,
            offset: tensor.offset + start,
            bytes,
        }
    }
}

/// Far above any model, far below what fills the memory with names.
const MOST_EXPERTS: usize = 1 << 16;

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
