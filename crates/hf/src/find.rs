//! Finding the MoE layers of a checkpoint, and proving that every tensor of theirs is understood.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    checkpoint::{HfCheckpoint, TensorEntry},
    error::HfError,
    layout::ExpertLayout,
    moe::{MoeLayer, OfRouter},
    pattern::Place,
};

/// Parts of names of tensors that all experts share in every family: their lengths have nothing to do with experts.
const SHARED: [&str; 6] = ["attn", "attention", "norm", "shared", "mamba", "conv"];

/// A layer of a set of experts: set, number, and text before.
type Key<'a> = (usize, usize, &'a str);

/// Tensors of experts in a layer: storage, name after the pattern, and how many experts have it.
type Parts<'a> = BTreeMap<(usize, &'a str), usize>;

impl HfCheckpoint {
    /// MoE layers, each with its router and the parts of its experts.
    pub(crate) fn find_layers(
        &self,
        experts: usize,
        further: usize,
    ) -> Result<Vec<MoeLayer>, HfError> {
        let sets = self.layout.sets();
        let mut routers: BTreeMap<Key, Vec<(OfRouter, &str)>> = BTreeMap::new();
        let mut parts: BTreeMap<Key, Parts> = BTreeMap::new();
        let mut understood: HashSet<&str> = HashSet::new();
        for (name, tensor) in &self.tensors {
            // What a router's pattern names is a router's, whatever else its name fits.
            let of_router = sets
                .iter()
                .enumerate()
                .find_map(|(set, (storages, router))| {
                    let rows = router
                        .weight
                        .iter()
                        .map(|pattern| (OfRouter::Rows, pattern));
                    let biases = router.bias.iter().map(|pattern| (OfRouter::Bias, pattern));
                    let further = storages.iter().flat_map(|storage| &storage.further);
                    let further = further.map(|pattern| (OfRouter::Further, pattern));
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
        router: &[(OfRouter, &str)],
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
        let of = |role: OfRouter| {
            let named = router.iter().filter(move |(own, _)| *own == role);
            named
                .map(|(_, name)| (*name).to_owned())
                .collect::<Vec<String>>()
        };
        let one = |role: OfRouter, what: &str| -> Result<Option<String>, HfError> {
            match of(role).as_slice() {
                [] => Ok(None),
                [name] => Ok(Some(name.clone())),
                [_, name, ..] => {
                    Err(self.fault(name, format!("is a second tensor of {what} in its layer")))
                }
            }
        };
        let Some(weight) = one(OfRouter::Rows, "router rows")? else {
            let expected = of_router
                .weight
                .first()
                .map(|pattern| pattern.name(own("")));
            let problem = "is missing, the router of experts that are there";
            return Err(self.fault(&expected.unwrap_or_default(), problem));
        };
        let further = of(OfRouter::Further);
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
            bias: one(OfRouter::Bias, "router biases")?,
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
                    return Err(self.fault(name, not_in_layout(tensor, experts)));
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
        if storage.matrix(part).is_none() {
            return match tensor.shape.contains(&experts) {
                true => Err(self.fault(name, not_in_layout(tensor, experts))),
                false => Ok(false),
            };
        }
        let problem = format!(
            "has shape {:?}, its axis {axis} should be that of {experts} experts",
            tensor.shape
        );
        Err(self.fault(name, problem))
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
}

/// What is wrong with a tensor that has something of every expert, and is not known.
fn not_in_layout(tensor: &TensorEntry, experts: usize) -> String {
    format!(
        "has shape {:?}, with an axis as long as there are experts ({experts}), and the layout says nothing of it; name it in `experts.further` if every expert has one, in `router.bias` if it is that, or in `shared` if all experts share it",
        tensor.shape
    )
}
