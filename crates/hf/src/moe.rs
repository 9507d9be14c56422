//! The MoE layers of a checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use upcycle_operator::{RouterRows, RoutingRule, rms};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry},
    error::HfError,
    layout::{ExpertLayout, Fused, Matrix, Orientation, Stacking},
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
    /// Rows of a router behind those of experts, of what is no expert.
    pub further_rows: usize,
    /// How a router chooses.
    pub routing: RoutingRule,
    /// Why nothing can be foretold of what a router chooses; none where it can.
    pub no_forecast: Option<String>,
    /// Layers, by place in the model; those that it does not run come last.
    pub layers: Vec<MoeLayer>,
}

/// Tensors of a MoE layer.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeLayer {
    /// Its number in tensor names.
    pub layer: usize,
    /// Whether the model runs it: not so the layers of multi-token prediction, which transformers leaves alone.
    pub runs: bool,
    /// Its experts, E.
    experts: usize,
    /// Which of the layout's sets of experts it has, and how they are stored.
    pub(crate) set: usize,
    pub(crate) storage: usize,
    /// Text before the pattern of its names.
    pub(crate) before: String,
    /// Router rows, `[E, D]`, and further ones.
    pub(crate) weight: String,
    /// Router biases, `[E]`.
    pub(crate) bias: Option<String>,
    /// Scale of the norm before the router.
    pub(crate) input_norm: Option<String>,
    /// What a tensor of an expert is called after the pattern.
    pub(crate) parts: Vec<String>,
    /// Names of further tensors of its experts, `[E, ..]`.
    pub(crate) further: Vec<String>,
}

impl MoeLayer {
    /// Whether its router has biases.
    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Its place among the tensors of a set of experts.
    pub(crate) fn is_at(&self, set: usize, place: &Place) -> bool {
        (self.set, self.layer, self.before.as_str()) == (set, place.layer, place.before)
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

/// Parts of names of tensors that all experts share in every family: their lengths have nothing to do with experts.
const SHARED: [&str; 6] = ["attn", "attention", "norm", "shared", "mamba", "conv"];

/// A layer of a set of experts: set, number, and text before.
type Key<'a> = (usize, usize, &'a str);

/// What a tensor under a pattern of a router is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Rows,
    Bias,
    /// Something more of every expert.
    Further,
}

/// Tensors of experts in a layer: storage, name after the pattern, and how many experts have it.
type Parts<'a> = BTreeMap<(usize, &'a str), usize>;

impl HfCheckpoint {
    /// Finds the MoE layers, and proves that every tensor of theirs is understood.
    ///
    /// # Errors
    /// If there is none, if the family is one that cannot be grown, if a router has no experts or experts have no router,
    /// or if a tensor is missing, of another shape than the configuration says, or may be one of experts that the layout
    /// says nothing of.
    pub fn moe(&self) -> Result<Moe, HfError> {
        let (layout, config) = (&self.layout, &self.config);
        if let Some(reason) = &layout.refused {
            return Err(HfError::Impossible(format!(
                "{} checkpoints cannot be grown: {reason}",
                layout.name
            )));
        }
        let experts = config.count(&layout.config.experts)?;
        let top_k = config.count(&layout.config.top_k)?;
        if top_k == 0 || top_k > experts {
            let problem = format!("{top_k} experts a token of {experts} cannot be");
            return Err(HfError::file(config.path(), problem));
        }
        let number = |fields: &[String], without: usize| -> Result<usize, HfError> {
            Ok(config.first(fields)?.unwrap_or(without))
        };
        let routing = RoutingRule {
            score: config.choice(&layout.routing.score)?,
            renormalize: config.choice(&layout.routing.renormalize)?,
            bias_of: layout.router.bias_of,
            groups: number(&layout.config.groups, 1)?,
            top_groups: number(&layout.config.top_groups, 1)?,
            groups_by: config.choice(&layout.routing.groups_by)?,
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
        let mut moe = Moe {
            experts,
            top_k,
            d: 0,
            further_rows: number(&layout.router.further_rows, 0)?,
            routing,
            no_forecast: layout.routing.no_forecast.clone(),
            layers: Vec::new(),
        };
        moe.layers = self.find_layers(experts, moe.further_rows)?;
        self.check_layers(&moe)?;
        for index in 0..moe.layers.len() {
            self.check_router(&mut moe, index)?;
        }
        Ok(moe)
    }

    fn check_router(&self, moe: &mut Moe, index: usize) -> Result<(), HfError> {
        let layer = &moe.layers[index];
        let shape = &self.tensor(&layer.weight)?.shape;
        let rows = moe.experts + moe.further_rows;
        let d = match (shape.as_slice(), index) {
            (&[found, d], 0) if found == rows && d > 0 => d,
            (&[found, d], _) if found == rows && d == moe.d => d,
            _ => {
                let problem = match moe.further_rows {
                    0 => format!("has shape {shape:?}, not one row for each of {rows} experts"),
                    further => format!(
                        "has shape {shape:?}, not one row for each of {} experts and {further} more",
                        moe.experts
                    ),
                };
                return Err(self.fault(&layer.weight, problem));
            }
        };
        let width: Option<usize> = self.config.first(&["hidden_size".to_owned()])?;
        if width.is_some_and(|width| width != d) {
            let problem =
                format!("has rows of {d} values, which is not the hidden_size of config.json");
            return Err(self.fault(&layer.weight, problem));
        }
        if let Some(bias) = &layer.bias {
            let shape = &self.tensor(bias)?.shape;
            let values: usize = shape.iter().product();
            let fits = values == moe.experts || values == rows;
            if !fits || shape.last() != Some(&values) {
                let problem = format!("has shape {shape:?}, not [{rows}]");
                return Err(self.fault(bias, problem));
            }
        }
        moe.d = d;
        Ok(())
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
            weight: self.float_range(&layer.weight, 0, (moe.experts * moe.d) as u64)?,
            bias,
            d: moe.d,
            input_rms: if rms > 0.0 { rms } else { 1.0 },
        })
    }

    /// Whether a tensor is one of an expert.
    pub(crate) fn is_of_an_expert(&self, name: &str) -> bool {
        let sets = self.layout.sets();
        let of_router = sets.iter().any(|(_, router)| {
            let mut patterns = router.weight.iter().chain(&router.bias);
            patterns.any(|pattern| pattern.find(name).is_some())
        });
        let mut storages = sets.iter().flat_map(|(storages, _)| *storages);
        !of_router && storages.any(|storage| storage.tensors.find(name).is_some())
    }

    /// Rows and biases of a router behind those of experts: they stay as they are.
    pub(crate) fn further_rows(&self, moe: &Moe, layer: &MoeLayer) -> Result<RouterRows, HfError> {
        let (experts, rows) = (moe.experts as u64, moe.further_rows as u64);
        let d = moe.d as u64;
        Ok(RouterRows {
            weight: self.float_range(&layer.weight, experts * d, rows * d)?,
            bias: match &layer.bias {
                Some(bias) if self.tensor(bias)?.elements() > experts => {
                    self.float_range(bias, experts, rows)?
                }
                _ => vec![0.0; moe.further_rows],
            },
            d: moe.d,
            input_rms: 1.0,
        })
    }

    /// What the norm before the router multiplies its input by, 1 where that is not known, `[D]`.
    pub(crate) fn input_scale(&self, moe: &Moe, layer: &MoeLayer) -> Result<Vec<f32>, HfError> {
        let router = self.layout.sets()[layer.set].1;
        let mut scale = match &layer.input_norm {
            Some(norm) => self.floats(norm, &[moe.d])?,
            None => vec![1.0; moe.d],
        };
        if router.one_plus && layer.input_norm.is_some() {
            scale.iter_mut().for_each(|value| *value += 1.0);
        }
        if let Some(norm) = &layer.input_norm
            && scale.iter().all(|&value| value == 0.0)
        {
            let problem = "is 0 everywhere, and so would be all that the router reads; if the family multiplies by 1 + w, say `one_plus = true` in `[router]` of the layout";
            return Err(self.fault(norm, problem));
        }
        if router.divided_by_root_of_width {
            let root = (moe.d as f32).sqrt();
            scale.iter_mut().for_each(|value| *value /= root);
        }
        Ok(scale)
    }

    /// Layers of the language model, where the configuration says so.
    pub(crate) fn layers(&self) -> Result<Option<usize>, HfError> {
        let fields = ["num_hidden_layers", "num_layers", "n_layers"].map(String::from);
        self.config.first(&fields)
    }

    /// Every layer that the configuration speaks of must have some tensor.
    fn check_layers(&self, moe: &Moe) -> Result<(), HfError> {
        let Some(layers) = self.layers()? else {
            return Ok(());
        };
        let stem = |layer: &MoeLayer, number: usize| {
            let weight = &self.layout.sets()[layer.set].1.weight;
            let pattern = weight
                .iter()
                .find(|pattern| pattern.find(&layer.weight).is_some());
            pattern.map(|pattern| pattern.of_layer(&layer.before, number))
        };
        let mut stems: Vec<_> = moe.layers.iter().filter(|layer| layer.runs).collect();
        stems.dedup_by_key(|layer| (layer.set, &layer.before));
        // An encoder may have other layers than the decoder that the configuration counts.
        let [only] = stems.as_slice() else {
            return Ok(());
        };
        for number in 0..layers {
            let Some(stem) = stem(only, number) else {
                continue;
            };
            let next = self.tensors.range(stem.clone()..).next();
            if !next.is_some_and(|(name, _)| name.starts_with(&stem)) {
                return Err(HfError::file(
                    &self.dir,
                    format!(
                        "has no tensor of layer {number} (`{stem}`), though config.json speaks of {layers} layers; download it again"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// MoE layers, each with its router and the parts of its experts.
    fn find_layers(&self, experts: usize, further: usize) -> Result<Vec<MoeLayer>, HfError> {
        let sets = self.layout.sets();
        let mut routers: BTreeMap<Key, Vec<(Role, &str)>> = BTreeMap::new();
        let mut parts: BTreeMap<Key, Parts> = BTreeMap::new();
        let mut understood: HashSet<&str> = HashSet::new();
        for (name, tensor) in &self.tensors {
            // What a router's pattern names is a router's, whatever else its name fits.
            let of_router = sets
                .iter()
                .enumerate()
                .find_map(|(set, (storages, router))| {
                    let rows = router.weight.iter().map(|pattern| (Role::Rows, pattern));
                    let biases = router.bias.iter().map(|pattern| (Role::Bias, pattern));
                    let further = storages.iter().flat_map(|storage| &storage.further);
                    let further = further.map(|pattern| (Role::Further, pattern));
                    let mut all = rows.chain(biases).chain(further);
                    all.find_map(|(role, pattern)| Some((set, role, pattern.find(name)?)))
                });
            if let Some((set, role, place)) = of_router {
                let key = (set, place.layer, place.before);
                routers.entry(key).or_default().push((role, name));
                understood.insert(name);
                continue;
            }
            let of_expert = sets.iter().enumerate().find_map(|(set, (storages, _))| {
                let mut storages = storages.iter().enumerate();
                storages.find_map(|(index, storage)| {
                    Some((set, index, storage, storage.tensors.find(name)?))
                })
            });
            let Some((set, storage, of, place)) = of_expert else {
                continue;
            };
            let seen = match place.expert {
                Some(expert) if expert >= experts + further => {
                    let problem =
                        format!("is of an expert beyond the {experts} that config.json speaks of");
                    return Err(self.fault(name, problem));
                }
                // Of what is no expert and has a row of the router all the same.
                Some(expert) if expert >= experts => continue,
                Some(_) => 1,
                None if self.is_stacked(of, name, place.after, tensor, experts)? => experts,
                // All experts share it.
                None => continue,
            };
            let layer = parts.entry((set, place.layer, place.before)).or_default();
            *layer.entry((storage, place.after)).or_default() += seen;
            understood.insert(name);
        }
        let mut layers = Vec::new();
        for (key, parts) in &parts {
            let router = routers.remove(key).unwrap_or_default();
            layers.push(self.layer(*key, parts, &router, experts)?);
        }
        if let Some((_, name)) = routers.values().flatten().next() {
            let problem = format!(
                "is of a router, and its layer has no tensor of an expert as {} models have them; add how they are stored to [[experts]] of the layout",
                self.layout.name
            );
            return Err(self.fault(name, problem));
        }
        if layers.is_empty() {
            let problem = format!(
                "has no tensor of an expert, as {} models have",
                self.layout.name
            );
            return Err(HfError::file(&self.dir, problem));
        }
        self.check_understood(&layers, &understood, experts)?;
        layers.sort_by_key(|layer| !layer.runs);
        Ok(layers)
    }

    /// A layer of these parts and these tensors of a router: rows, biases and further tensors.
    fn layer(
        &self,
        (set, layer, before): Key,
        parts: &Parts,
        router: &[(Role, &str)],
        experts: usize,
    ) -> Result<MoeLayer, HfError> {
        let (storages, of_router) = self.layout.sets()[set];
        let own = |part| Place {
            before,
            layer,
            expert: Some(0),
            after: part,
        };
        let ways: BTreeSet<usize> = parts.keys().map(|(storage, _)| *storage).collect();
        let storage = *ways.first().unwrap_or(&0);
        let pattern = &storages[storage].tensors;
        if let Some((_, part)) = parts.keys().find(|(way, _)| *way != storage) {
            let other = ways.last().unwrap_or(&0);
            let name = storages[*other].tensors.name(own(part));
            let problem = "is an expert's, though others of its layer are stored in another way";
            return Err(self.fault(&name, problem));
        }
        for ((_, part), &count) in parts {
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
        let of = |role: Role| {
            let named = router.iter().filter(move |(own, _)| *own == role);
            named
                .map(|(_, name)| (*name).to_owned())
                .collect::<Vec<String>>()
        };
        let one = |role: Role, what: &str| -> Result<Option<String>, HfError> {
            match of(role).as_slice() {
                [] => Ok(None),
                [name] => Ok(Some(name.clone())),
                [_, name, ..] => {
                    Err(self.fault(name, format!("is a second tensor of {what} in its layer")))
                }
            }
        };
        let Some(weight) = one(Role::Rows, "router rows")? else {
            let expected = of_router
                .weight
                .first()
                .map(|pattern| pattern.name(own("")));
            let problem = "is missing, the router of experts that are there";
            return Err(self.fault(&expected.unwrap_or_default(), problem));
        };
        let further = of(Role::Further);
        for name in &further {
            let shape = &self.tensor(name)?.shape;
            if shape.first() != Some(&experts) {
                let problem =
                    format!("has shape {shape:?}, not one entry for each of {experts} experts");
                return Err(self.fault(name, problem));
            }
        }
        let norms = of_router
            .input_norm
            .iter()
            .map(|pattern| pattern.name(own("")));
        let of_prediction = before.split('.').any(|part| part.starts_with("mtp"));
        Ok(MoeLayer {
            layer,
            experts,
            runs: !of_prediction && self.layers()?.is_none_or(|layers| layer < layers),
            set,
            storage,
            before: before.to_owned(),
            weight,
            bias: one(Role::Bias, "router biases")?,
            input_norm: norms
                .into_iter()
                .find(|name| self.tensors.contains_key(name)),
            parts: parts.keys().map(|(_, part)| (*part).to_owned()).collect(),
            further,
        })
    }

    /// A tensor of a MoE layer with an axis that is as long as there are experts must be known for what it is.
    fn check_understood(
        &self,
        layers: &[MoeLayer],
        understood: &HashSet<&str>,
        experts: usize,
    ) -> Result<(), HfError> {
        let sets = self.layout.sets();
        for layer in layers {
            let patterns = sets[layer.set].1.weight.iter();
            let mut stems = patterns.map(|pattern| pattern.of_layer(&layer.before, layer.layer));
            let Some(stem) = stems.find(|stem| layer.weight.starts_with(stem)) else {
                continue;
            };
            let in_layer = self.tensors.range(stem.clone()..);
            for (name, tensor) in in_layer.take_while(|(name, _)| name.starts_with(&stem)) {
                let shared = |part: &&str| name[stem.len()..].contains(part);
                let known = understood.contains(name.as_str())
                    || !tensor.shape.contains(&experts)
                    || SHARED.iter().any(&shared)
                    || self.layout.shared.iter().any(|part| shared(&part.as_str()));
                if !known {
                    let problem = format!(
                        "has shape {:?}, with an axis as long as there are experts ({experts}), and the layout says nothing of it; name it in `experts.further` if every expert has one, in `router.bias` if it is that, or in `shared` if all experts share it",
                        tensor.shape
                    );
                    return Err(self.fault(name, problem));
                }
            }
        }
        Ok(())
    }

    /// Whether a tensor under the pattern of stacked experts holds something of each; else all share it.
    fn is_stacked(
        &self,
        storage: &ExpertLayout,
        name: &str,
        part: &str,
        tensor: &TensorEntry,
        experts: usize,
    ) -> Result<bool, HfError> {
        let axis = storage.axis;
        let along = tensor.shape.get(axis).copied().unwrap_or(0);
        let fits = match storage.flat {
            true => along > 0 && along.is_multiple_of(experts),
            false => along == experts,
        };
        if fits {
            return Ok(true);
        }
        if storage.matrix(part).is_none() && !tensor.shape.contains(&experts) {
            return Ok(false);
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
        let layout = self.layout.storage(layer);
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
        if !layout.has_gate() {
            // Nothing of it is written.
            gate.clone_from(&up);
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
        let layout = self.layout.storage(layer);
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
            let [inputs, outputs] = self.matrix_shape(layer, part, &name)?;
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
    fn matrix_shape(
        &self,
        layer: &MoeLayer,
        part: &str,
        name: &str,
    ) -> Result<[usize; 2], HfError> {
        let layout = self.layout.storage(layer);
        let tensor = self.tensor(name)?;
        let [rows, columns] = match (layout.stacking(), tensor.shape.as_slice()) {
            (Stacking::Separate, &[rows, columns]) => [rows, columns],
            (Stacking::Stacked, &[_, rows, columns]) if layout.axis == 0 => [rows, columns],
            (Stacking::Flat, &[rows, columns]) => [rows / layer.experts.max(1), columns],
            _ => {
                let problem = format!(
                    "has shape {:?}, which is not that of a matrix an expert",
                    tensor.shape
                );
                return Err(self.fault(name, problem));
            }
        };
        Ok(match self.orientation(layer, part) {
            Orientation::InOut => [rows, columns],
            Orientation::OutIn => [columns, rows],
        })
    }

    fn orientation(&self, layer: &MoeLayer, part: &str) -> Orientation {
        let layout = self.layout.storage(layer);
        let matrix = layout.matrix(part).unwrap_or(Matrix::Up);
        layout.orientation(matrix)
    }

    /// A matrix of an expert as `[inputs, outputs]`.
    fn expert_matrix(
        &self,
        layer: &MoeLayer,
        expert: usize,
        part: &str,
    ) -> Result<Vec<f32>, HfError> {
        let layout = self.layout.storage(layer);
        let name = layout.tensors.name(layer.place(Some(expert), part));
        let [inputs, outputs] = self.matrix_shape(layer, part, &name)?;
        let size = (inputs * outputs) as u64;
        let start = match layout.stacking() {
            Stacking::Separate => 0,
            Stacking::Stacked | Stacking::Flat => expert as u64 * size,
        };
        let values = self.float_range(&name, start, size)?;
        Ok(match self.orientation(layer, part) {
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
