//! `export`: gives a model away as a checkpoint of Hugging Face's transformers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use upcycle_hf::{Export, ExportType, Fit, HfCheckpoint, RouterStats};
use upcycle_lm::{CostModel, LmConfig};
use upcycle_moe::GrowthState;
use upcycle_train::{CheckpointInfo, Engine};

use crate::{
    amount,
    backend::{BackendKind, engine},
    inspect::checkpoint_of,
    limits::{Force, refusal},
    output,
    routers::Routers,
    sources,
    threads::ThreadsArg,
    upcycle::SHARD_BYTES,
};

/// Write a checkpoint of this program as transformers loads it, without training.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The checkpoint, or the folder of a training run.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Folder for the export; must not exist.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Take layout, configuration and all other files from this checkpoint of transformers. [default: the family that fits the
    /// model]
    #[arg(long, value_name = "DIR|hf:ORG/NAME[@REVISION]")]
    like: Option<String>,
    /// How parameters are stored.
    #[arg(long = "type", value_enum, default_value_t)]
    dtype: ExportTypeArg,
    /// Largest size of a file, such as 500M or 5GB.
    #[arg(long, value_name = "BYTES", value_parser = amount::parse_bytes, default_value_t = SHARD_BYTES)]
    shard_size: u64,
    /// Where the model is loaded.
    #[arg(long, value_enum, default_value_t)]
    backend: BackendKind,
    #[command(flatten)]
    threads: ThreadsArg,
    #[command(flatten)]
    force: Force,
}

/// How exported parameters are stored.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum ExportTypeArg {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits with a longer fraction.
    F16,
}

impl From<ExportTypeArg> for ExportType {
    fn from(arg: ExportTypeArg) -> Self {
        match arg {
            ExportTypeArg::F32 => Self::F32,
            ExportTypeArg::Bf16 => Self::Bf16,
            ExportTypeArg::F16 => Self::F16,
        }
    }
}

/// Where to and how a model is exported.
pub(crate) struct Exporter<'a> {
    /// What layout, configuration and other files are taken from.
    pub like: Option<&'a HfCheckpoint>,
    /// How parameters are stored.
    pub dtype: ExportType,
    /// Largest size of a file.
    pub shard_bytes: u64,
    /// The new folder.
    pub to: &'a Path,
}

impl ExportArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence on what is wrong and what to do.
    pub fn run(self) -> Result<()> {
        self.threads.apply()?;
        sources::check(&self.from)?;
        if sources::is_hugging_face(&self.from) {
            bail!(
                "{} is a checkpoint of Hugging Face's transformers already; there is nothing to export",
                self.from.display()
            );
        }
        let from = checkpoint_of(&self.from);
        let info = CheckpointInfo::read(&from)?;
        info.check_sizes(&from)?;
        let like = sample(self.like.as_deref())?;
        let exporter = Exporter {
            like: like.as_ref(),
            dtype: self.dtype.into(),
            shard_bytes: self.shard_size,
            to: &self.to,
        };
        let fit = exporter.check(&info.model, &info.growths)?;
        let engine = engine(self.backend)?;
        let memory = 4 * CostModel::new(&info.model).parameters().total();
        if let Some(refusal) = refusal(engine.as_ref(), memory, 0.0).filter(|_| !self.force.force) {
            bail!(refusal);
        }
        exporter.check_biases(engine.as_ref(), &from, &fit)?;
        exporter.write(engine.as_ref(), &from)
    }
}

/// The checkpoint of transformers that an export is to be like.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn sample(name: Option<&str>) -> Result<Option<HfCheckpoint>> {
    match name {
        Some(name) => Ok(Some(HfCheckpoint::open(&sources::folder(name)?, None)?)),
        None => Ok(None),
    }
}

impl Exporter<'_> {
    /// The family that a model fits.
    ///
    /// # Errors
    /// If it fits none, or the folder is there already.
    pub fn check(&self, model: &LmConfig, growths: &[GrowthState]) -> Result<Fit> {
        let fit = Export::check(model, growths, self.like, self.dtype, self.to)?;
        if fit.adds_shared_experts {
            output::note!(
                "exported as {}, which has shared experts: they are written as zeros, and change nothing",
                fit.family
            );
        }
        Ok(fit)
    }

    /// A model that was balanced by selection biases keeps them, and not every family knows such.
    ///
    /// # Errors
    /// If the model in `from` has biases that the family does not know.
    pub fn check_biases(&self, engine: &dyn Engine, from: &Path, fit: &Fit) -> Result<()> {
        if fit.selection_biases {
            return Ok(());
        }
        let biased = |stats: &RouterStats| stats.bias.is_some();
        if Routers::of(engine, from)?.iter().any(biased) {
            bail!(
                "{} was balanced by selection biases, which routers of {} do not know, so it cannot be exported; train it from the beginning with --auxiliary-loss 0.01",
                from.display(),
                fit.family
            );
        }
        Ok(())
    }

    /// Writes the model of the checkpoint `from`.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn write(&self, engine: &dyn Engine, from: &Path) -> Result<()> {
        let info = CheckpointInfo::read(from)?;
        let mut export = Export::new(
            &info.model,
            &info.growths,
            self.like,
            fs::read_to_string(from.join("tokenizer.json")).ok(),
            self.dtype,
            self.shard_bytes,
            self.to,
        )?;
        let family = export.family().to_owned();
        engine.export(from, &mut export)?;
        export.finish()?;
        output::note!("exported as {family}: {}", self.to.display());
        Ok(())
    }
}
