//! The MoE layers of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use upcycle_operator::{RouterRows, RoutingRule, rms};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry},
    error::HfError,
    layout::{BiasOf, Fused, Matrix, Orientation, Renormalize},
    pattern::Place,
};

/// What the MoE layers of a checkpoint are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Moe {
    /// Experts of a layer, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// Model width, D.
    pub d: usize,
    /// How a router chooses.
    pub routing: RoutingRule,
    /// Layers, by place in the model.
    pub layers: Vec<MoeLayer>,
}

/// Tensors of a MoE layer.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeLayer {
    /// Its number in tensor names.
    pub layer: usize,
    /// Text before the pattern of its names.
    pub(crate) before: String,
    /// Router rows, `[E, D]`.
    pub(crate) weight: String,
    /// Router biases, `[E]`.
    pub(crate) bias: Option<String>,
    /// Scale of the norm before the router.
    pub(crate) input_norm: Option<String>,
    /// What a tensor of an expert is called after the pattern.
    pub(crate) parts: Vec<String>,
}

impl MoeLayer {
    /// Whether its router has biases.
    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(crate) fn place<'a>(&'a self, expert: Option<usize>, part: &'a str) -> Place<'a> {
        Place {
            before: &self.before,
            layer: self.layer,
            expert,
            after: part,
        }
    }
}

impl HfCheckpoint {
    /// Finds the MoE layers and checks their tensors.
    ///
    /// # Errors
    /// If there is none, or a tensor is missing or of another shape than the configuration says.
    pub fn moe(&self) -> Result<Moe, HfError> {
        let (layout, config) = (&self.layout, &self.config);
        let experts: usize = config.any(&layout.config.experts)?;
        let top_k: usize = config.any(&layout.config.top_k)?;
        if top_k == 0 || top_k > experts {
            let problem = format!("{top_k} experts a token of {experts} cannot be");
            return Err(HfError::file(config.path(), problem));
        }
        let count = |field: &Option<String>| -> Result<usize, HfError> {
            match field {
                Some(field) => Ok(config.get(field)?.unwrap_or(1)),
                None => Ok(1),
            }
        };
        let routing = RoutingRule {
            score: layout.routing.score,
            renormalize: match &layout.routing.renormalize {
                Renormalize::Always(always) => *always,
                Renormalize::Field { field, default } => config.get(field)?.unwrap_or(*default),
            },
            selection_bias: layout.router.bias_of == BiasOf::Selection,
            groups: count(&layout.config.groups)?,
            top_groups: count(&layout.config.top_groups)?,
        };
        let rule = &routing;
        if rule.groups == 0 || !experts.is_multiple_of(rule.groups) || rule.top_groups > rule.groups
        {
            let problem = format!(
                "{experts} experts in {} groups of which {} are used cannot be",
                rule.groups, rule.top_groups
            );
            return Err(HfError::file(config.path(), problem));
        }
        self.check_layers()?;
        let mut moe = Moe {
            experts,
            top_k,
            d: 0,
            routing,
            layers: self.find_layers(experts)?,
        };
        for (index, layer) in moe.layers.iter().enumerate() {
            let shape = &self.tensor(&layer.weight)?.shape;
            let d = match (shape.as_slice(), index) {
                (&[rows, d], 0) if rows == experts && d > 0 => d,
                (&[rows, d], _) if rows == experts && d == moe.d => d,
                _ => {
                    let problem =
                        format!("has shape {shape:?}, not one row for each of {experts} experts");
                    return Err(self.fault(&layer.weight, problem));
                }
            };
            let widths = ["hidden_size", "text_config.hidden_size"].map(String::from);
            if config.any(&widths).is_ok_and(|width: usize| width != d) {
                let problem =
                    format!("has rows of {d} values, which is not the hidden_size of config.json");
                return Err(self.fault(&layer.weight, problem));
            }
            moe.d = d;
            if let Some(bias) = &layer.bias
                && self.tensor(bias)?.shape != [experts]
            {
                let problem = format!("has shape {:?}, not [{experts}]", self.tensor(bias)?.shape);
                return Err(self.fault(bias, problem));
            }
        }
        Ok(moe)
    }

    /// Largest difference of two router biases of a layer; 0 without biases.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn bias_range(&self, moe: &Moe) -> Result<f32, HfError> {
        let mut range: f32 = 0.0;
        for bias in moe.layers.iter().filter_map(|layer| layer.bias.as_ref()) {
            let values = self.float_range(bias, 0, moe.experts as u64)?;
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            range = range.max(most - least);
        }
        Ok(range)
    }

    /// Router rows and biases of a MoE layer.
    pub(crate) fn router_rows(&self, moe: &Moe, layer: &MoeLayer) -> Result<RouterRows, HfError> {
        let bias = match &layer.bias {
            Some(bias) => self.float_range(bias, 0, moe.experts as u64)?,
            None => vec![0.0; moe.experts],
        };
        let scale = self.input_scale(moe, layer)?;
        let rms = rms(&scale);
        Ok(RouterRows {
            weight: self.floats(&layer.weight, &[moe.experts, moe.d])?,
            bias,
            d: moe.d,
            input_rms: if rms > 0.0 { rms } else { 1.0 },
        })
    }

    /// Scale of the norm before the router, 1 where it is not known, `[D]`.
    pub(crate) fn input_scale(&self, moe: &Moe, layer: &MoeLayer) -> Result<Vec<f32>, HfError> {
        match &layer.input_norm {
            Some(norm) => self.floats(norm, &[moe.d]),
            None => Ok(vec![1.0; moe.d]),
        }
    }

    /// Every layer that the configuration speaks of must have some tensor.
    fn check_layers(&self) -> Result<(), HfError> {
        let fields = ["num_hidden_layers", "text_config.num_hidden_layers"].map(String::from);
        let Ok(layers) = self.config.any::<usize>(&fields) else {
            return Ok(());
        };
        let number = |name: &str| {
            let (_, after) = name.split_once("layers.")?;
            after.split('.').next()?.parse::<usize>().ok()
        };
        let there: BTreeSet<usize> = self
            .tensors
            .keys()
            .filter_map(|name| number(name))
            .collect();
        match (0..layers).find(|layer| !there.contains(layer)) {
            Some(layer) => Err(HfError::file(
                &self.dir,
                format!(
                    "has no tensor of layer {layer}, though config.json speaks of {layers} layers; download it again"
                ),
            )),
            None => Ok(()),
        }
    }

    /// MoE layers by router, with the parts of their experts.
    fn find_layers(&self, experts: usize) -> Result<Vec<MoeLayer>, HfError> {
        let layout = &self.layout;
        let pattern = &layout.experts.tensors;
        // Parts of every layer, with the number of experts that have them.
        let mut parts: BTreeMap<(usize, &str), BTreeMap<&str, usize>> = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            let Some(place) = pattern.find(name) else {
                continue;
            };
            let seen = match place.expert {
                Some(expert) if expert >= experts => {
                    let problem =
                        format!("is of an expert beyond the {experts} that config.json speaks of");
                    return Err(self.fault(name, problem));
                }
                Some(_) => 1,
                None => self.stacked(name, tensor, experts)?,
            };
            let layer = parts.entry((place.layer, place.before)).or_default();
            *layer.entry(place.after).or_default() += seen;
        }
        let mut layers = Vec::new();
        for ((layer, before), parts) in parts {
            let own = |part| Place {
                before,
                layer,
                expert: Some(0),
                after: part,
            };
            for (part, &count) in &parts {
                if count < experts {
                    let missing = (0..experts).find_map(|expert| {
                        let place = Place {
                            expert: Some(expert),
                            ..own(part)
                        };
                        let name = pattern.name(place);
                        (!self.tensors.contains_key(&name)).then_some(name)
                    });
                    let name = missing.unwrap_or_default();
                    let problem = format!("is missing; {count} of {experts} experts have theirs");
                    return Err(self.fault(&name, problem));
                }
            }
            let there = |pattern: &Option<crate::pattern::Pattern>| {
                let name = pattern.as_ref().map(|pattern| pattern.name(own("")));
                name.filter(|name| self.tensors.contains_key(name))
            };
            let weight = layout.router.weight.name(own(""));
            self.tensor(&weight)?;
            layers.push(MoeLayer {
                layer,
                before: before.to_owned(),
                weight,
                bias: there(&layout.router.bias),
                input_norm: there(&layout.router.input_norm),
                parts: parts.into_keys().map(str::to_owned).collect(),
            });
        }
        if layers.is_empty() {
            let problem = format!("has no tensor of an expert, as {} models have", layout.name);
            return Err(HfError::file(&self.dir, problem));
        }
        Ok(layers)
    }

    /// Experts of a stacked tensor.
    fn stacked(&self, name: &str, tensor: &TensorEntry, experts: usize) -> Result<usize, HfError> {
        let axis = self.layout.experts.axis;
        if tensor.shape.get(axis) == Some(&experts) {
            return Ok(experts);
        }
        let problem = format!(
            "has shape {:?}, its axis {axis} should be that of {experts} experts",
            tensor.shape
        );
        Err(self.fault(name, problem))
    }

    /// Gate, up and down of an expert in f32, as `[D, F]`, `[D, F]` and `[F, D]`, with D and F.
    ///
    /// # Errors
    /// If they are not plain matrices of floats.
    pub(crate) fn expert(
        &self,
        layer: &MoeLayer,
        expert: usize,
    ) -> Result<([Vec<f32>; 3], [usize; 2]), HfError> {
        let layout = &self.layout.experts;
        let [d, f] = self.expert_shape(layer, expert)?;
        let (mut gate, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
        for part in layout.names() {
            let values = self.expert_matrix(layer, expert, part)?;
            let columns = |first: usize, step: usize| -> Vec<f32> {
                let rows = values.chunks_exact(2 * f);
                let taken = rows.flat_map(|row| row[first..].iter().step_by(step).take(f));
                taken.copied().collect()
            };
            match layout.matrix(part) {
                Some(Matrix::Gate) => gate = values,
                Some(Matrix::Up) => up = values,
                Some(Matrix::Down) => down = values,
                Some(Matrix::GateUp(fused)) => {
                    let (first, step) = match fused {
                        Fused::Halves => (f, 1),
                        Fused::Interleaved => (1, 2),
                    };
                    gate = columns(0, step);
                    up = columns(first, step);
                }
                None => {}
            }
        }
        Ok(([gate, up, down], [d, f]))
    }

    /// Whether the matrices of all experts of a layer are floats of the same shape.
    pub(crate) fn check_experts(&self, layer: &MoeLayer, experts: usize) -> Result<(), HfError> {
        let first = self.expert_shape(layer, 0)?;
        for expert in 1..experts {
            let shape = self.expert_shape(layer, expert)?;
            if shape != first {
                let problem = format!(
                    "expert {expert} of layer {} has D and F {shape:?}, expert 0 {first:?}",
                    layer.layer
                );
                return Err(HfError::file(&self.dir, problem));
            }
        }
        Ok(())
    }

    /// D and F of an expert, whose matrices must be floats and fit each other.
    fn expert_shape(&self, layer: &MoeLayer, expert: usize) -> Result<[usize; 2], HfError> {
        let layout = &self.layout.experts;
        let mut shape = None;
        for part in layout.names() {
            let name = layout.tensors.name(layer.place(Some(expert), part));
            if !self.tensors.contains_key(&name) {
                let problem = format!(
                    "is not there: experts are stored as {}, which cannot be computed with; use `experts.kind` = `copy`",
                    layer.parts.join(", ")
                );
                return Err(self.fault(&name, problem));
            }
            self.check_float(&name)?;
            let [inputs, outputs] = self.matrix_shape(&name)?;
            let own = match layout.matrix(part) {
                Some(Matrix::Down) => [outputs, inputs],
                Some(Matrix::GateUp(_)) if outputs.is_multiple_of(2) => [inputs, outputs / 2],
                Some(Matrix::GateUp(_)) => [inputs, 0],
                _ => [inputs, outputs],
            };
            if own.contains(&0) || shape.is_some_and(|shape| shape != own) {
                let found = &self.tensor(&name)?.shape;
                let problem =
                    format!("has shape {found:?}, which does not fit the expert's other matrices");
                return Err(self.fault(&name, problem));
            }
            shape = Some(own);
        }
        shape.ok_or_else(|| HfError::file(&self.dir, "its layout names no matrix of experts"))
    }

    /// Inputs and outputs of a matrix of an expert.
    fn matrix_shape(&self, name: &str) -> Result<[usize; 2], HfError> {
        let layout = &self.layout.experts;
        let tensor = self.tensor(name)?;
        let [rows, columns] = match (
            layout.tensors.has_expert(),
            layout.axis,
            tensor.shape.as_slice(),
        ) {
            (true, _, &[rows, columns]) | (false, 0, &[_, rows, columns]) => [rows, columns],
            _ => {
                let problem = format!(
                    "has shape {:?}, which is not that of a matrix an expert",
                    tensor.shape
                );
                return Err(self.fault(name, problem));
            }
        };
        Ok(match layout.orientation {
            Orientation::InOut => [rows, columns],
            Orientation::OutIn => [columns, rows],
        })
    }

    /// A matrix of an expert as `[inputs, outputs]`.
    fn expert_matrix(
        &self,
        layer: &MoeLayer,
        expert: usize,
        part: &str,
    ) -> Result<Vec<f32>, HfError> {
        let layout = &self.layout.experts;
        let name = layout.tensors.name(layer.place(Some(expert), part));
        let [inputs, outputs] = self.matrix_shape(&name)?;
        let size = (inputs * outputs) as u64;
        let start = match layout.tensors.has_expert() {
            true => 0,
            false => expert as u64 * size,
        };
        let values = self.float_range(&name, start, size)?;
        Ok(match layout.orientation {
            Orientation::InOut => values,
            Orientation::OutIn => transpose(&values, [outputs, inputs]),
        })
    }
}

/// `[rows, columns] -> [columns, rows]`.
pub(crate) fn transpose(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let mut result = vec![0.0; rows * columns];
    if columns > 0 {
        for (r, row) in values.chunks_exact(columns).enumerate() {
            for (c, &value) in row.iter().enumerate() {
                result[c * rows + r] = value;
            }
        }
    }
    result
}
