//! Growing the experts of a checkpoint: what every tensor of the grown one is made of.

use std::{fs, io::ErrorKind, path::Path};

use serde_json::{Value, json};
use upcycle_files::FileError;
use upcycle_operator::{
    Choice, Deviation, ExpertInit, ExpertMatrices, Grows, LayerGrowth, LayerPlan, OperatorError,
    RouterExtension, RouterRows, Upcycle,
};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry},
    config::ConfigFile,
    error::HfError,
    layout::Matrix,
    moe::{Moe, MoeLayer},
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
        let choice = operator.choose(moe.layers.len(), moe.experts, groups, |layer| {
            utility_scores(checkpoint, &moe, &operator, scores.as_ref(), layer)
        })?;
        let group = moe.experts / groups;
        let order = choice.plan.layers.iter().map(|plan| {
            let mut order: Vec<usize> = (0..plan.source_of().len()).collect();
            order.sort_by_key(|&expert| plan.source_of()[expert] / group);
            order
        });
        let order = order.collect();
        let fields = &checkpoint.layout.config;
        let mut config = checkpoint.config.clone();
        config.set(&fields.experts, operator.target_experts)?;
        config.set(&fields.top_k, top_k)?;
        let growth = Self {
            checkpoint,
            moe,
            operator,
            top_k,
            choice,
            order,
            config,
            before: record_of(&checkpoint.dir)?,
        };
        growth.check_tensors()?;
        Ok(growth)
    }

    /// What cannot be computed is better said before anything is written.
    fn check_tensors(&self) -> Result<(), HfError> {
        let recipe = &self.operator.recipe;
        for (index, layer) in self.moe.layers.iter().enumerate() {
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
                let matrices = self.checkpoint.layout.experts.names().count();
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
        Ok(RouterRows {
            weight: rows.copied().collect(),
            bias: order.iter().map(|&expert| grown.bias[expert]).collect(),
            ..grown
        })
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
    ) -> Result<(Replica, Option<Deviation>), HfError> {
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
            orientation: self.checkpoint.layout.experts.orientation,
        };
        Ok((replica, deviation))
    }

    /// Router rows that could not be made as the recipe says.
    pub fn deviations(&self) -> Result<Vec<Deviation>, HfError> {
        let mut deviations = Vec::new();
        for layer in 0..self.moe.layers.len() {
            let (_, deviation) = self.layer(layer).rows(&self.rows_before(layer)?);
            deviations.extend(deviation);
        }
        Ok(deviations)
    }

    /// All tensors of the grown checkpoint.
    pub(crate) fn tensors(&self) -> Result<Vec<OutTensor>, HfError> {
        let checkpoint = self.checkpoint;
        let pattern = &checkpoint.layout.experts.tensors;
        let mut in_order: Vec<(&String, &TensorEntry)> = checkpoint.tensors.iter().collect();
        in_order.sort_by_key(|(_, tensor)| (tensor.shard, tensor.offset));
        let mut written = vec![false; self.moe.layers.len()];
        let mut tensors = Vec::with_capacity(in_order.len());
        for (name, tensor) in in_order {
            if let Some(place) = pattern.find(name) {
                let is_layer = |layer: &MoeLayer| {
                    (layer.layer, layer.before.as_str()) == (place.layer, place.before)
                };
                // All experts of a layer go where its first tensor was.
                if let Some(index) = self.moe.layers.iter().position(is_layer)
                    && !std::mem::replace(&mut written[index], true)
                {
                    self.expert_tensors(index, &mut tensors)?;
                }
                continue;
            }
            let layer = |of: fn(&MoeLayer) -> Option<&String>| {
                self.moe
                    .layers
                    .iter()
                    .position(|layer| of(layer) == Some(name))
            };
            let mut shape = tensor.shape.clone();
            let part = if let Some(layer) = layer(|layer| Some(&layer.weight)) {
                shape[0] = self.operator.target_experts;
                Part::Rows { layer }
            } else if let Some(layer) = layer(|layer| layer.bias.as_ref()) {
                shape[0] = self.operator.target_experts;
                Part::Bias { layer }
            } else {
                Part::copy(tensor, 0, tensor.bytes)
            };
            let elements = shape.iter().map(|&dim| dim as u64).product();
            let parameters = checkpoint.layout.experts.parameters(name, elements);
            tensors.push(OutTensor {
                meta: TensorMeta {
                    name: name.clone(),
                    dtype: tensor.dtype,
                    shape,
                    parameters,
                },
                parts: vec![part],
            });
        }
        Ok(tensors)
    }

    fn expert_tensors(&self, index: usize, tensors: &mut Vec<OutTensor>) -> Result<(), HfError> {
        let layer = &self.moe.layers[index];
        let layout = &self.checkpoint.layout.experts;
        if !layout.tensors.has_expert() {
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
                let tensor = self.checkpoint.tensor(&from)?;
                let replica = self.replica_part(plan, index, expert, part);
                tensors.push(OutTensor {
                    meta: TensorMeta {
                        name: layout.tensors.name(layer.place(Some(place), part)),
                        dtype: tensor.dtype,
                        shape: tensor.shape.clone(),
                        parameters: layout.parameters(part, tensor.elements()),
                    },
                    parts: vec![replica.unwrap_or(Part::copy(tensor, 0, tensor.bytes))],
                });
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
        let matrix = self.checkpoint.layout.experts.matrix(part)?;
        Some(Part::Replica {
            layer,
            expert,
            matrix,
        })
    }

    fn stacked_tensor(&self, index: usize, part: &str) -> Result<OutTensor, HfError> {
        let layer = &self.moe.layers[index];
        let layout = &self.checkpoint.layout.experts;
        let plan = &self.choice.plan.layers[index];
        let name = layout.tensors.name(layer.place(None, part));
        let tensor = self.checkpoint.tensor(&name)?;
        let outer: usize = tensor.shape[..layout.axis].iter().product();
        let slices = (outer * self.moe.experts) as u64;
        let slice = tensor.bytes / slices.max(1);
        if slice * slices != tensor.bytes {
            return Err(self
                .checkpoint
                .fault(&name, "has experts that share a byte"));
        }
        let mut parts: Vec<Part> = Vec::new();
        for row in 0..outer {
            for &expert in &self.order[index] {
                if let Some(replica) = self.replica_part(plan, index, expert, part) {
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
        let mut shape = tensor.shape.clone();
        shape[layout.axis] = self.operator.target_experts;
        let elements = shape.iter().map(|&dim| dim as u64).product();
        Ok(OutTensor {
            meta: TensorMeta {
                name,
                dtype: tensor.dtype,
                shape,
                parameters: layout.parameters(part, elements),
            },
            parts,
        })
    }
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
