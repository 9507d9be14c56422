//! What every tensor of a grown checkpoint is made of.

use std::collections::{HashMap, HashSet};

use upcycle_operator::LayerPlan;

use crate::{
    checkpoint::{TensorEntry, Values},
    error::HfError,
    grow::Growth,
    layout::{Matrix, Stacking},
    moe::OfRouter,
    pattern::{Pattern, Place},
    shards::TensorMeta,
};

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
    /// Zeros.
    Zeros { bytes: u64 },
    /// The first `bytes` of rows of `row` bytes in the source, each value times a factor.
    Columns {
        shard: usize,
        offset: u64,
        rows: u64,
        row: u64,
        bytes: u64,
        factor: f32,
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
                let (axis, computed) = match role {
                    OfRouter::Rows => (0, Part::Rows { layer }),
                    _ => (shape.len() - 1, Part::Bias { layer }),
                };
                // Biases may be those of experts alone.
                let further = shape[axis] - self.moe.experts;
                let kept = tensor.bytes / shape[axis] as u64 * further as u64;
                shape[axis] = self.operator.target_experts + further;
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
        let layout = self.checkpoint.storage(layer);
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
        let matrix = self.checkpoint.storage(layer_of).matrix(part)?;
        Some(Part::Replica {
            layer,
            expert,
            matrix,
        })
    }

    fn stacked_tensor(&self, index: usize, part: &str) -> Result<OutTensor, HfError> {
        let layer = &self.moe.layers[index];
        let layout = self.checkpoint.storage(layer);
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

impl Part {
    fn copy(tensor: &TensorEntry, start: u64, bytes: u64) -> Self {
        let (shard, offset) = (tensor.shard, tensor.offset + start);
        match tensor.values {
            Values::Stored => Self::Copy {
                shard,
                offset,
                bytes,
            },
            Values::Zeros => Self::Zeros { bytes },
            // Experts of their own are never cut once more.
            Values::Columns { row, factor } => {
                let rows = tensor.shape[0] as u64;
                Self::Columns {
                    shard,
                    offset,
                    rows,
                    row,
                    bytes: bytes / rows,
                    factor,
                }
            }
        }
    }
}
