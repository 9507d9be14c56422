//! `sweep stage`: one stage, as a job of a cluster.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use upcycle_lab::Runner;

use super::plan_file::Started;
use crate::{
    backend::machine_of,
    interrupt::{self, Work},
    output,
    processes::{MeetArgs, Member},
    progress::Progress,
    ui::Ui,
};

/// Compute one stage of a sweep that was started, and the scores of a final model; what jobs of a cluster do.
#[derive(Debug, Args)]
pub struct StageArgs {
    /// The sweep's folder, such as runs/quick.
    folder: PathBuf,
    /// Key of the stage, or its first letters.
    key: String,
    #[command(flatten)]
    meet: MeetArgs,
}

impl StageArgs {
    pub fn run(&self) -> Result<()> {
        self.meet.join(|member| self.run_with(member))
    }

    fn run_with(&self, member: &Member) -> Result<()> {
        // The first one packs text that is not there.
        let Started {
            file,
            data,
            plan,
            store,
        } = member.after_leader(|| Started::open(&self.folder, Ui::Plain))?;
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
        let parent = stage.parent.as_ref().and_then(|it| plan.graph.get(it));
        member.of_leader(|| match parent {
            Some(parent) if !store.is_whole(stage)? && !store.is_whole(parent)? => bail!(
                "stage {} goes on from stage {}, which is not finished",
                stage.label,
                parent.key
            ),
            _ => Ok(()),
        })?;
        let devices = file.devices.of_processes(member.processes())?;
        let engine = machine_of(file.backend, devices, member)?.engine;
        output::note!("backend {}: {}", engine.backend(), engine.device());
        let precision = file.sweep.precision;
        file.kernels.choose(engine.as_ref(), precision, member)?;
        let progress = Progress::new(Ui::Plain, 1, stage.steps());
        let runner = Runner {
            engine: engine.as_ref(),
            team: member.team().clone(),
            data: &data,
            store: &store,
            limit: file.memory.limit(engine.as_ref(), devices, member, 1),
            checkpoint_interval: Duration::from_secs(file.checkpoint_seconds),
            observer: &progress,
            stop: interrupt::flag(),
        };
        let work = Work::Training {
            checkpoints: runner.checkpoint_interval,
        };
        let outcome = interrupt::during(work, || runner.run_stage(stage))?;
        progress.finish();
        outcome?;
        if !plan.last_stages().contains(&stage.key) {
            return Ok(());
        }
        // The leader asks its model alone, while the others wait.
        member.of_leader(|| {
            let tasks = file.tasks.read()?;
            if tasks.fingerprints() != file.scores {
                bail!(
                    "stage {} is finished and was not asked --tasks: their items are others here than where the sweep was started",
                    stage.label
                );
            }
            let scored = tasks.score(&store, &stage.key, engine.as_ref());
            scored.with_context(|| format!("stage {} is finished and has no score", stage.label))
        })
    }
}
