//! Nodes of a cluster that compute each stage of a sweep together.

use std::num::NonZeroUsize;

use clap::Args;
use serde::{Deserialize, Serialize};

/// The flags that say how many.
#[derive(Debug, Clone, Copy, Default, Args, Serialize, Deserialize)]
pub struct NodesArgs {
    /// Nodes of the cluster that compute each stage together, with a process for each device. Needs --launcher slurm.
    #[arg(long, value_name = "K", help_heading = "Many machines")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NonZeroUsize>,
    /// Processes on each of these nodes: as many as it has GPUs. [default: 1]
    #[arg(
        long,
        value_name = "T",
        requires = "nodes",
        help_heading = "Many machines"
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_per_node: Option<NonZeroUsize>,
}

impl NodesArgs {
    /// Nodes of a stage.
    pub fn nodes(&self) -> NonZeroUsize {
        self.nodes.unwrap_or(NonZeroUsize::MIN)
    }

    /// Processes of a stage on each node.
    pub fn tasks(&self) -> NonZeroUsize {
        self.tasks_per_node.unwrap_or(NonZeroUsize::MIN)
    }

    /// Processes of a stage.
    pub fn processes(&self) -> NonZeroUsize {
        self.nodes().saturating_mul(self.tasks())
    }
}
