//! Flags of `upcycle`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser};

use crate::{
    amount, backend::BackendKind, data_args::DataArgs, devices::DevicesArgs, limits::Force,
    program, recipe_args::RecipeArgs, threads::ThreadsArg,
};

/// Grow the experts of a checkpoint: a bigger model at the same compute per token, ready for continued pre-training.
///
/// The checkpoint is one of this program's or a public one in the layout of Hugging Face's transformers, which is
/// copied shard by shard in little memory.
#[derive(Debug, Parser)]
#[command(name = "upcycle", version = program::version())]
pub struct UpcycleArgs {
    /// The checkpoint to grow, the folder of a training run, or a model of the Hugging Face hub.
    #[arg(
        long,
        value_name = "DIR|hf:ORG/NAME[@REVISION]",
        required_unless_present = "families",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) from: String,
    /// Folder for the new checkpoint; must not exist.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["dry_run", "families"])]
    pub(super) to: Option<PathBuf>,
    /// Experts a layer afterwards; any number above the model's. [default: twice as many]
    #[arg(long, value_name = "N")]
    pub(super) experts: Option<usize>,
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    #[command(flatten)]
    pub(super) hf: HfArgs,
    /// Seed of every random choice.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Batches over which gradients are averaged and tokens collected, where the recipe needs them. [default: 10]
    #[arg(long, value_name = "N")]
    pub(super) batches: Option<NonZeroUsize>,
    /// Sequences of such a batch. [default: 16]
    #[arg(long, value_name = "N")]
    pub(super) rows: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(super) data: DataArgs,
    /// Allow data that the checkpoint was not trained on.
    #[arg(long, help_heading = "Data")]
    pub(super) other_data: bool,
    /// Folder of packed data.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "runs/data",
        help_heading = "Data"
    )]
    pub(super) data_cache: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub(super) backend: BackendKind,
    #[command(flatten)]
    pub(super) devices: DevicesArgs,
    #[command(flatten)]
    pub(super) threads: ThreadsArg,
    /// Print what would be copied and what that would change; write nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) force: Force,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Heading of these flags.
pub const HEADING: &str = "Hugging Face checkpoints";

/// Flags for checkpoints of Hugging Face's transformers.
#[derive(Debug, Args)]
pub struct HfArgs {
    /// Experts of a token afterwards, for routers that are to choose more. [default: as before]
    #[arg(long, value_name = "K", help_heading = HEADING)]
    pub(super) top_k: Option<usize>,
    /// Utility scores of experts, recorded elsewhere: a JSON file {"score": "load", "layers": [[0.01, ..], ..]}.
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(super) scores: Option<PathBuf>,
    /// Largest size of an output file, such as 500M or 5GB.
    #[arg(long, value_name = "BYTES", value_parser = amount::parse_bytes, help_heading = HEADING)]
    pub(super) shard_size: Option<u64>,
    /// Go on with a copy that was stopped.
    #[arg(long, help_heading = HEADING)]
    pub(super) resume: bool,
    /// Compare logits and losses before and after, on --data or on random tokens; for families that can be run here (see --families).
    #[arg(long, conflicts_with = "dry_run", help_heading = HEADING)]
    pub(super) verify: bool,
    /// Layout of a family that is not built in: the name of one that it follows, or a TOML file, see docs/huggingface.md.
    #[arg(long, value_name = "NAME|FILE", help_heading = HEADING)]
    pub(super) layout: Option<PathBuf>,
    /// Read all safetensors files of the folder, whatever its index says or if there is none.
    #[arg(long, help_heading = HEADING)]
    pub(super) without_index: bool,
    /// Grow a model of the hub without downloading it first: its bytes go straight into the new files, for disks that have no
    /// room for both. What is copied twice comes over the network twice.
    #[arg(long, conflicts_with_all = ["verify", "without_index"], help_heading = HEADING)]
    pub(super) stream: bool,
    /// List the families of checkpoints that are known, and end.
    #[arg(long, help_heading = HEADING)]
    pub(super) families: bool,
}

/// As `save_pretrained` of transformers.
pub const SHARD_BYTES: u64 = 5_000_000_000;
