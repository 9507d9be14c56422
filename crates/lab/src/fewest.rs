//! The fewest devices that hold the models of a sweep.

use std::num::NonZeroUsize;

use serde::Serialize;

use crate::{
    devices::{Devices, divisors},
    graph::{Stage, StageGraph},
    memory::MemoryLimit,
    plan::SweepPlan,
};

/// Most devices that are looked at, as a power of two: 4,096.
const MOST: u32 = 12;

/// The fewest devices whose memory holds all stages of a scale, in powers of two; of as many, those with the fewest blocks of experts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fewest {
    /// Name of the scale.
    pub scale: String,
    /// Where activations are kept; none if no number will do.
    pub kept: Option<Devices>,
    /// Where they are computed again in the backward pass.
    pub recomputed: Option<Devices>,
}

/// Those of every scale of a plan, under a limit whose own devices do not matter.
pub(crate) fn fewest(plan: &SweepPlan, backend: &str, limit: &MemoryLimit) -> Vec<Fewest> {
    let mut scales: Vec<&str> = Vec::new();
    for cell in &plan.cells {
        if !scales.contains(&cell.setting.scale.as_str()) {
            scales.push(&cell.setting.scale);
        }
    }
    let of_scale = |scale: &str| {
        let stages = kinds(plan, scale);
        let search = |recompute| {
            let limit = MemoryLimit {
                recompute,
                ..*limit
            };
            candidates().find(|&devices| all_fit(&plan.graph, &stages, backend, limit, devices))
        };
        Fewest {
            scale: scale.to_owned(),
            kept: search(false),
            recomputed: search(true),
        }
    };
    scales.into_iter().map(of_scale).collect()
}

/// One stage of each kind that takes its own amount of memory.
fn kinds<'a>(plan: &'a SweepPlan, scale: &str) -> Vec<&'a Stage> {
    let cells = (plan.cells.iter()).filter(|cell| cell.setting.scale == scale);
    let keys = cells.flat_map(|cell| [&cell.fixed_e, &cell.upcycled, &cell.fixed_me]);
    let parent = |stage: &Stage| {
        let parent = plan.graph.get(stage.parent.as_ref()?);
        parent.map(|parent| &parent.model)
    };
    let mut kinds: Vec<&Stage> = Vec::new();
    for stage in keys.flat_map(|key| plan.graph.chain(key)) {
        let same = |&other: &&Stage| {
            let growth = |stage: &Stage| (stage.steps() == 0).then(|| parent(stage));
            other.model == stage.model
                && other.batch() == stage.batch()
                && growth(other) == growth(stage)
        };
        if !kinds.iter().any(same) {
            kinds.push(stage);
        }
    }
    kinds
}

/// Numbers of devices, and for each the blocks of experts that it allows, fewest first.
fn candidates() -> impl Iterator<Item = Devices> {
    let counts = (0..=MOST).map(|power| 1_usize << power);
    counts.flat_map(|count| {
        let blocks = divisors(count).into_iter();
        blocks.filter_map(move |blocks| {
            Some(Devices {
                count: NonZeroUsize::new(count)?,
                expert_parallel: NonZeroUsize::new(blocks)?,
            })
        })
    })
}

fn all_fit(
    graph: &StageGraph,
    stages: &[&Stage],
    backend: &str,
    limit: MemoryLimit,
    devices: Devices,
) -> bool {
    let limit = MemoryLimit { devices, ..limit };
    stages.iter().all(|stage| {
        devices.check(&stage.model, stage.batch()).is_ok() && limit.holds(graph, stage, backend)
    })
}
