//! `sweep stage`: one stage, as a job of a cluster.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use upcycle_lab::Runner;

use super::plan_file::Started;
use crate::{
    backend::machine_on,
    interrupt::{self, Work},
    output,
    progress::Progress,
    ui::Ui,
};

/// Compute one stage of a sweep that was started; what jobs of a cluster do.
#[derive(Debug, Args)]
pub struct StageArgs {
    /// The sweep's folder, such as runs/quick.
    folder: PathBuf,
    /// Key of the stage, or its first letters.
    key: String,
}

impl StageArgs {
    pub fn run(&self) -> Result<()> {
        let Started {
            file,
            data,
            plan,
            store,
        } = Started::open(&self.folder)?;
        let stages = plan.graph.stages();
        let mut matching = stages
            .iter()
            .filter(|stage| stage.key.to_string().starts_with(&self.key));
        let stage = matching
            .next()
            .with_context(|| format!("{} has no stage {}", self.folder.display(), self.key))?;
        if matching.next().is_some() {
            bail!("several stages begin with {}; give more letters", self.key);
        }
        if let Some(parent) = &stage.parent
            && store.result(parent)?.is_none()
        {
            bail!(
                "stage {} goes on from stage {parent}, which is not finished",
                stage.label
            );
        }
        let devices = file.devices.devices()?;
        let engine = machine_on(file.backend, devices)?.engine;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        file.kernels.choose(engine.as_ref(), file.sweep.precision);
        let progress = Progress::new(Ui::Plain, 1, stage.steps());
        let runner = Runner {
            engine: engine.as_ref(),
            data: &data,
            store: &store,
            limit: file.memory.limit(engine.as_ref(), devices, 1),
            checkpoint_interval: Duration::from_secs(file.checkpoint_seconds),
            observer: &progress,
            stop: interrupt::flag(),
        };
        let work = Work::Training {
            checkpoints: runner.checkpoint_interval,
        };
        let outcome = interrupt::during(work, || runner.run_stage(stage))?;
        progress.finish();
        Ok(outcome?)
    }
}
