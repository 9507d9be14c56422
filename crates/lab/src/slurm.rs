//! Sweeps on a Slurm cluster: a job for each stage, stages with one parent as an array that depends on it.
//!
//! The tasks of a job, on one node or several, compute its stage together. Jobs and whoever submits them share nothing but the
//! store. A job that Slurm begins again, after a node was lost, goes on from the stage's last checkpoint; one that is gone
//! without a result is submitted again by [`Slurm::submit`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
};

use serde::{Deserialize, Serialize};
use upcycle_files as files;

use crate::{
    error::LabError,
    estimate::Estimate,
    graph::{Stage, StageGraph},
    stage::StageKey,
    stage_estimate::StageEstimate,
    store::Store,
};

/// Largest array; Slurm's default limit is 1001.
const ARRAY: usize = 1000;
/// Factor and constant between estimated and requested memory.
const MEMORY_MARGIN: (f64, u64) = (1.3, 256 << 20);
/// Memory of a process that drives a GPU, in bytes.
const GPU_PROCESS: u64 = 2 << 30;
/// The same for time; a job that runs out of it goes on when it is submitted again.
const TIME_MARGIN: (f64, f64) = (3.0, 600.0);

/// How jobs are submitted.
#[derive(Debug, Clone)]
pub struct Slurm {
    /// The words of the command `sweep`, the program first, as nodes see it.
    pub command: Vec<OsString>,
    /// The sweep's folder, with its plan; scripts and logs are kept in it.
    pub folder: PathBuf,
    /// Name of the jobs.
    pub name: String,
    /// Nodes of a job.
    pub nodes: usize,
    /// Tasks of a job on each node: processes that compute the stage together.
    pub tasks: usize,
    /// Cores of a task.
    pub cores: usize,
    /// GPUs of a job on each node.
    pub gpus: usize,
    /// Further arguments of `sbatch`; they override ours.
    pub args: Vec<String>,
}

/// Jobs of a sweep, kept in its folder: the last of each stage, `ARRAY_TASK` as Slurm names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs(BTreeMap<StageKey, String>);

/// Jobs that Slurm has not ended, with their states, such as `PENDING`.
pub type Queue = BTreeMap<String, String>;

impl Jobs {
    /// Job of a stage; none if it was never submitted.
    pub fn of(&self, key: &StageKey) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// What sets jobs of different arrays apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resources {
    mebibytes: u64,
    minutes: Option<u64>,
}

impl Resources {
    /// Those of a stage of which each task computes with so many devices.
    fn of(stage: &StageEstimate, slurm: &Slurm, devices: u64) -> Self {
        let (factor, constant) = MEMORY_MARGIN;
        let needed = match slurm.gpus {
            // Devices of a processor are all in its memory.
            0 => stage.process_memory() + (devices - 1) * stage.peak_memory,
            // Training is in the GPU's memory; the node's own is for checkpoints.
            _ => GPU_PROCESS + stage.checkpoint_memory,
        };
        let bytes = slurm.tasks as f64 * (needed as f64 * factor + constant as f64);
        let (times, more) = TIME_MARGIN;
        let minutes = |seconds: f64| ((seconds * times + more) / 60.0).ceil() as u64;
        Self {
            // In steps, so that siblings of almost one size share an array.
            mebibytes: (bytes / (128.0 * 1_048_576.0)).ceil() as u64 * 128,
            minutes: stage.seconds.map(minutes),
        }
    }
}

/// Stages that become one array.
#[derive(Debug)]
struct Array<'a> {
    parent: Option<&'a StageKey>,
    resources: Resources,
    stages: Vec<&'a Stage>,
}

/// The stages as arrays, those of parents first.
fn arrays<'a>(
    graph: &'a StageGraph,
    estimate: &Estimate,
    wanted: &BTreeSet<&StageKey>,
    slurm: &Slurm,
) -> Vec<Array<'a>> {
    let mut arrays: Vec<Array> = Vec::new();
    let devices = estimate.devices.count.get() / (slurm.nodes * slurm.tasks).max(1);
    let devices = devices.max(1) as u64;
    let stages = graph.stages().into_iter().zip(&estimate.stages);
    for (stage, costs) in stages.filter(|(stage, _)| wanted.contains(&stage.key)) {
        let resources = Resources::of(costs, slurm, devices);
        let parent = stage
            .parent
            .as_ref()
            .filter(|parent| graph.get(parent).is_some());
        let fitting = arrays.iter_mut().find(|array| {
            array.parent == parent && array.resources == resources && array.stages.len() < ARRAY
        });
        match fitting {
            Some(array) => array.stages.push(stage),
            None => arrays.push(Array {
                parent,
                resources,
                stages: vec![stage],
            }),
        }
    }
    arrays
}

impl Slurm {
    fn jobs_file(&self) -> PathBuf {
        self.folder.join("slurm").join("jobs.json")
    }

    /// Log of a job.
    pub fn log(&self, job: &str) -> PathBuf {
        self.folder.join("slurm").join(format!("{job}.log"))
    }

    /// The jobs of earlier submissions.
    ///
    /// # Errors
    /// If their file is damaged.
    pub fn jobs(&self) -> Result<Jobs, LabError> {
        let path = self.jobs_file();
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(Jobs::default());
        };
        serde_json::from_str(&text).map_err(|error| LabError::Parse {
            place: path.display().to_string(),
            problem: format!("{error}; remove the file to submit all unfinished stages anew"),
        })
    }

    /// This user's jobs that have not ended.
    ///
    /// # Errors
    /// If `squeue` cannot be run.
    pub fn queue(&self) -> Result<Queue, LabError> {
        let mut command = Command::new("squeue");
        command.args(["--me", "--noheader", "--array", "--format=%i|%T|%r"]);
        Ok(queue(&output(command)?))
    }

    /// Submits those of the stages that something is `left` to do for, which are neither in the queue nor being computed, and
    /// whose parent is done, in the queue, or submitted too; returns them.
    ///
    /// # Errors
    /// If Slurm refuses a job; those submitted before are kept.
    pub fn submit<'a>(
        &self,
        graph: &'a StageGraph,
        estimate: &Estimate,
        store: &Store,
        left: &BTreeSet<&StageKey>,
        among: impl Fn(&Stage) -> bool,
    ) -> Result<Vec<&'a Stage>, LabError> {
        let (mut jobs, queue) = (self.jobs()?, self.queue()?);
        let queued = |jobs: &Jobs, key| jobs.of(key).is_some_and(|job| queue.contains_key(job));
        let mut wanted = BTreeSet::new();
        for stage in graph.stages().into_iter().filter(|stage| among(stage)) {
            let idle = left.contains(&stage.key)
                && !queued(&jobs, &stage.key)
                && store.claimant(&stage.key).is_none();
            let after = stage.parent.as_ref().is_none_or(|parent| {
                wanted.contains(parent) || queued(&jobs, parent) || !left.contains(parent)
            });
            if idle && after {
                wanted.insert(&stage.key);
            }
        }
        let mut submitted = Vec::new();
        for array in arrays(graph, estimate, &wanted, self) {
            let parent = match array.parent {
                Some(parent) if left.contains(parent) => jobs.of(parent),
                _ => None,
            };
            let id = self.submit_array(&array, parent)?;
            for (task, stage) in array.stages.iter().enumerate() {
                jobs.0.insert(stage.key.clone(), format!("{id}_{task}"));
                submitted.push(*stage);
            }
            // After each array: what was submitted is known even if the next one is refused.
            let json = serde_json::to_string_pretty(&jobs).unwrap_or_default();
            files::write(&self.jobs_file(), json.as_bytes())?;
        }
        Ok(submitted)
    }

    /// Submits an array and returns the number that Slurm gave it.
    fn submit_array(&self, array: &Array, parent: Option<&str>) -> Result<String, LabError> {
        let script = self
            .folder
            .join("slurm")
            .join(format!("{}.sh", array.stages[0].key));
        files::write(&script, self.script(array).as_bytes())?;
        let mut command = Command::new("sbatch");
        command
            .args(self.arguments(array, parent))
            .args(&self.args)
            .arg(&script);
        let id = output(command)?;
        // With several clusters: `ID;CLUSTER`.
        Ok(id.trim().split(';').next().unwrap_or_default().to_owned())
    }

    /// Whether several processes compute a stage together.
    fn is_team(&self) -> bool {
        self.nodes * self.tasks > 1
    }

    fn arguments(&self, array: &Array, parent: Option<&str>) -> Vec<String> {
        let logs = self.folder.join("slurm").join("%A_%a.log");
        let mut arguments = vec![
            "--parsable".to_owned(),
            format!("--job-name={}", self.name),
            format!("--array=0-{}", array.stages.len() - 1),
            format!("--mem={}M", array.resources.mebibytes),
            format!("--cpus-per-task={}", self.cores),
            // A job of a lost node begins again, and goes on from its checkpoint.
            "--requeue".to_owned(),
            "--open-mode=append".to_owned(),
            format!("--output={}", logs.display()),
        ];
        if self.is_team() {
            arguments.push(format!("--nodes={}", self.nodes));
            arguments.push(format!("--ntasks-per-node={}", self.tasks));
        }
        if let Some(minutes) = array.resources.minutes {
            arguments.push(format!("--time={minutes}"));
        }
        if self.gpus > 0 {
            arguments.push(format!("--gres=gpu:{}", self.gpus));
        }
        if let Some(parent) = parent {
            arguments.push(format!("--dependency=afterok:{parent}"));
            arguments.push("--kill-on-invalid-dep=yes".to_owned());
        }
        arguments
    }

    fn script(&self, array: &Array) -> String {
        let words = self.command.iter();
        let words = words.map(|word| quoted(&word.to_string_lossy()));
        let command = words.collect::<Vec<_>>().join(" ");
        let tasks = array.stages.iter().enumerate();
        let tasks: String = tasks
            .map(|(task, stage)| format!("{task}) stage={} ;; # {}\n", stage.key, stage.label))
            .collect();
        let folder = quoted(&self.folder.display().to_string());
        let nodes = self.nodes;
        let (start, more) = match self.is_team() {
            // The processes find out by themselves that one is lost; ended by srun, the others could not finish what they write.
            true => (
                format!(
                    "srun --nodes={nodes} --ntasks-per-node={} --cpus-per-task=\"$SLURM_CPUS_PER_TASK\" --kill-on-bad-exit=0 ",
                    self.tasks
                ),
                format!(" --nodes {nodes}"),
            ),
            false => Default::default(),
        };
        format!(
            "#!/bin/sh\nset -eu\ncase \"$SLURM_ARRAY_TASK_ID\" in\n{tasks}esac\nexec {start}{command} stage {folder} \"$stage\"{more}\n",
        )
    }
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Lines of `squeue`: job, state, reason. A job whose parent failed waits for ever where Slurm is not told to end it.
fn queue(text: &str) -> Queue {
    let job = |line: &str| {
        let mut fields = line.trim().split('|');
        let (id, state, reason) = (fields.next()?, fields.next()?, fields.next()?);
        (reason != "DependencyNeverSatisfied").then(|| (id.to_owned(), state.to_owned()))
    };
    text.lines().filter_map(job).collect()
}

fn output(mut command: Command) -> Result<String, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |problem: String| LabError::Cluster {
        command: program.clone(),
        problem,
    };
    let output = command.output().map_err(|error| {
        fail(format!(
            "{error}; start the sweep where Slurm’s commands are"
        ))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(said.trim().replace('\n', "; ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use upcycle_data::{DataConfig, Dataset};

    use super::*;
    use crate::{memory::MemoryLimit, plan::SweepPlan, presets};

    fn plan() -> SweepPlan {
        let mut config = presets::sweep("quick").unwrap();
        (config.cpt, config.recipes) = (vec![0.5, 1.0], vec!["exact".into()]);
        let data = Dataset::open(&DataConfig::default(), Path::new("unused")).unwrap();
        SweepPlan::new(&config, &data, "cpu").unwrap()
    }

    fn slurm() -> Slurm {
        Slurm {
            command: vec!["/opt/it's here/burn-upcycle".into(), "sweep".into()],
            folder: "runs/quick".into(),
            name: "upcycle-quick".into(),
            nodes: 1,
            tasks: 1,
            cores: 4,
            gpus: 1,
            args: vec!["--partition=long".into()],
        }
    }

    fn on_cpu() -> Slurm {
        Slurm { gpus: 0, ..slurm() }
    }

    #[test]
    fn stages_of_one_parent_are_an_array_after_it() {
        let plan = plan();
        let estimate = Estimate::new(&plan, None, "cpu", None, 1, &MemoryLimit::NONE);
        let all: BTreeSet<&StageKey> = estimate.stages.iter().map(|stage| &stage.key).collect();
        let arrays = arrays(&plan.graph, &estimate, &all, &on_cpu());
        let mut seen = BTreeSet::new();
        for array in &arrays {
            assert!(array.parent.is_none_or(|parent| seen.contains(parent)));
            for stage in &array.stages {
                assert_eq!(stage.parent.as_ref(), array.parent);
                assert!(seen.insert(&stage.key), "a stage is submitted twice");
            }
        }
        assert_eq!(seen, all);
        // Both seeds of a new model are one array.
        assert_eq!((arrays[0].parent, arrays[0].stages.len()), (None, 4));
    }

    #[test]
    fn finished_stages_are_not_submitted() {
        let plan = plan();
        let estimate = Estimate::new(&plan, None, "cpu", None, 1, &MemoryLimit::NONE);
        let last = &estimate.stages[estimate.stages.len() - 1].key;
        let arrays = arrays(&plan.graph, &estimate, &BTreeSet::from([last]), &on_cpu());
        assert_eq!(arrays.len(), 1);
        assert_eq!(arrays[0].stages[0].key, *last);
    }

    #[test]
    fn jobs_say_what_they_need() {
        let plan = plan();
        let estimate = Estimate::new(&plan, None, "cpu", None, 1, &MemoryLimit::NONE);
        let first = &estimate.stages[0].key;
        let array = &arrays(&plan.graph, &estimate, &BTreeSet::from([first]), &slurm())[0];
        let arguments = slurm().arguments(array, Some("17_3")).join(" ");
        for part in [
            "--array=0-0",
            "--cpus-per-task=4",
            "--gres=gpu:1",
            "--dependency=afterok:17_3",
            "--mem=",
            "--requeue",
        ] {
            assert!(arguments.contains(part), "{part}: {arguments}");
        }
        assert!(!arguments.contains("--time"), "{arguments}");
        let script = slurm().script(array);
        assert!(script.contains(&format!("0) stage={first} ;;")), "{script}");
        assert!(
            script.contains(r"exec '/opt/it'\''s here/burn-upcycle' 'sweep' stage 'runs/quick'")
        );
    }

    #[test]
    fn several_processes_of_a_stage_are_the_tasks_of_a_job() {
        let plan = plan();
        let estimate = Estimate::new(&plan, None, "cpu", None, 1, &MemoryLimit::NONE);
        let first = &estimate.stages[0].key;
        let team = Slurm {
            nodes: 2,
            tasks: 4,
            ..slurm()
        };
        let array = &arrays(&plan.graph, &estimate, &BTreeSet::from([first]), &team)[0];
        let alone = &arrays(&plan.graph, &estimate, &BTreeSet::from([first]), &slurm())[0];
        assert!(array.resources.mebibytes > 3 * alone.resources.mebibytes);
        let arguments = team.arguments(array, None).join(" ");
        assert!(
            arguments.contains("--nodes=2 --ntasks-per-node=4"),
            "{arguments}"
        );
        let script = team.script(array);
        assert!(
            script.contains("exec srun --nodes=2 --ntasks-per-node=4 ")
                && script.trim_end().ends_with("\"$stage\" --nodes 2"),
            "{script}"
        );
    }

    #[test]
    fn the_queue_is_what_can_still_run() {
        let text =
            "1_0|RUNNING|None\n1_2|PENDING|Resources\n 5|PENDING|DependencyNeverSatisfied\n\n";
        let queue = queue(text);
        assert_eq!(queue.keys().collect::<Vec<_>>(), ["1_0", "1_2"]);
        assert_eq!(queue["1_0"], "RUNNING");
    }
}
