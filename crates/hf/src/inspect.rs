//! What a checkpoint holds.

use std::collections::BTreeMap;

use serde::Serialize;
use upcycle_operator::{Forecaster, RoutingRule};

use crate::{checkpoint::HfCheckpoint, error::HfError, moe::Moe, router_stats::RouterStats};

/// What a checkpoint holds, told from headers and routers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Name of the family.
    pub family: String,
    /// Layers; none if the configuration does not say.
    pub layers: Option<usize>,
    /// Model width, D.
    pub d_model: usize,
    /// Experts of a layer, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// How routers choose.
    pub routing: RoutingRule,
    /// All parameters.
    pub total_parameters: u64,
    /// Parameters that one token uses.
    pub active_parameters: u64,
    /// Parameters of all experts.
    pub expert_parameters: u64,
    /// Bytes by type.
    pub dtypes: BTreeMap<String, u64>,
    /// Name and size of every shard.
    pub shards: Vec<(String, u64)>,
    /// Number in tensor names, and router, of every MoE layer that the model runs; of a few, where the checkpoint was not
    /// downloaded.
    pub routers: Vec<(usize, RouterStats)>,
    /// MoE layers that the model runs.
    pub moe_layers: usize,
    /// Numbers of the MoE layers that it does not run: those of multi-token prediction.
    pub prediction_layers: Vec<usize>,
}

impl HfCheckpoint {
    /// Looks at headers and routers.
    ///
    /// # Errors
    /// If the checkpoint is no MoE model, or a router cannot be read.
    pub fn inspect(&self) -> Result<Inspection, HfError> {
        let moe = self.moe()?;
        let (mut others, mut experts) = (0, 0);
        let mut dtypes = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            let parameters = self.layout.parameters(name, tensor.elements());
            match self.is_of_an_expert(name) {
                true => experts += parameters,
                false => others += parameters,
            }
            *dtypes.entry(tensor.dtype.to_string()).or_default() += tensor.bytes;
        }
        let shards = self.shards.iter().map(|shard| {
            let name = shard.path.file_name().unwrap_or_default();
            (name.to_string_lossy().into_owned(), shard.bytes)
        });
        Ok(Inspection {
            family: self.layout.name.clone(),
            layers: self.layers()?,
            d_model: moe.d,
            experts: moe.experts,
            top_k: moe.top_k,
            routing: moe.routing,
            total_parameters: others + experts,
            active_parameters: others + experts / moe.experts as u64 * moe.top_k as u64,
            expert_parameters: experts,
            dtypes,
            shards: shards.collect(),
            routers: self.routers(&moe)?,
            moe_layers: moe.layers.iter().filter(|layer| layer.runs).count(),
            prediction_layers: moe
                .layers
                .iter()
                .filter(|layer| !layer.runs)
                .map(|layer| layer.layer)
                .collect(),
        })
    }

    fn routers(&self, moe: &Moe) -> Result<Vec<(usize, RouterStats)>, HfError> {
        // Rows of all layers are too much to come over a network.
        let looked_at = match self.sampled {
            true => Forecaster::layers(moe.layers.len()),
            false => (0..moe.layers.len()).collect(),
        };
        let layers = looked_at.into_iter().map(|layer| &moe.layers[layer]);
        let layers = layers.filter(|layer| layer.runs);
        let stats = layers.map(|layer| {
            let rows = self.router_rows(moe, layer)?;
            Ok((layer.layer, RouterStats::of(&rows)))
        });
        stats.collect()
    }
}
