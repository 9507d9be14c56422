//! The MoE layers of a checkpoint.

use upcycle_moe::{ExpertGroups, GroupLimit};
use upcycle_operator::{RouterRows, RoutingRule, rms};

use crate::{checkpoint::HfCheckpoint, error::HfError, layout::ExpertLayout, pattern::Place};

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
    pub(crate) experts: usize,
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

/// What a tensor beside those of experts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfRouter {
    /// Rows of a router.
    Rows,
    /// Its biases.
    Bias,
    /// Something more of every expert.
    Further,
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

impl Moe {
    /// Groups of the experts of a layer; none where there is one alone.
    pub fn groups(&self) -> Option<ExpertGroups> {
        self.group_limit()?.of_experts(self.experts)
    }

    /// How many groups, and how many of them a token uses; none where there is one alone.
    pub(crate) fn group_limit(&self) -> Option<GroupLimit> {
        let rule = &self.routing;
        (rule.groups > 1).then_some(GroupLimit {
            count: rule.groups,
            top: rule.top_groups,
            by: rule.groups_by,
        })
    }
}

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

    /// How the experts of a layer are stored.
    pub(crate) fn storage(&self, layer: &MoeLayer) -> &ExpertLayout {
        &self.layout.sets()[layer.set].0[layer.storage]
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
}
