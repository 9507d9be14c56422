//! What a run's folder belongs to.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use upcycle_files::{Lock, LockError};
use upcycle_lm::LmConfig;
use upcycle_train::{StageCheckpoints, TrainSpec};

use crate::processes::Member;

const FILE: &str = "run.json";

/// Time in which a file comes to be seen by other machines, and between two looks at it.
const SEEN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(100));

/// Everything that a run's result depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    pub model: LmConfig,
    pub seed: u64,
    pub from: Option<PathBuf>,
    #[serde(default)]
    pub init: Option<PathBuf>,
    pub spec: TrainSpec,
    pub data: String,
    pub backend: String,
}

impl RunFile {
    /// The run that was begun in a folder; none if there is none that can be read.
    fn in_folder(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The run in `before` with the length of this one, which is no shorter; none if more differs than the length and what follows
    /// from it.
    fn longer(&self, before: &Self) -> Option<Self> {
        let mut longer = before.clone();
        let (old, new) = (&mut longer.spec, &self.spec);
        old.schedule.end = new.schedule.end;
        let mut same = self.clone();
        same.spec.schedule.warmup_steps = old.schedule.warmup_steps;
        same.spec.schedule.decay_from = old.schedule.decay_from;
        same.spec.evaluation.every = old.evaluation.every;
        (same == longer && same.spec.schedule.end >= before.spec.schedule.end).then_some(longer)
    }

    /// What another run has other than this one, in some words each.
    fn differences(&self, new: &Self) -> Vec<String> {
        let values = |run: &Self| serde_json::to_value(run).unwrap_or_default();
        let mut differences = Vec::new();
        compare("", &values(self), &values(new), &mut differences);
        differences
    }

    /// Takes a folder for this run, or checks that it is this run's, and locks it. A run that never decays may have become
    /// longer: it goes on with the schedule that it has.
    ///
    /// # Errors
    /// If it holds another run, something else, or a run of another process.
    pub fn claim(self, dir: &Path) -> Result<(Self, Lock)> {
        let run = self.in_place(dir)?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        match Lock::take(&dir.join("lock")) {
            Ok(lock) => {
                // A run that another process is in keeps its length.
                let json = serde_json::to_string_pretty(&run)?;
                upcycle_files::write(&dir.join(FILE), json.as_bytes())?;
                Ok((run, lock))
            }
            Err(LockError::File(error)) => Err(error.into()),
            Err(LockError::Busy) => bail!("another process is training in {}", dir.display()),
            Err(LockError::Unsupported) => bail!(
                "{} lies on a file system without locks, so that two processes could train in it; choose another folder for --out",
                dir.display()
            ),
        }
    }

    /// [`claim`](Self::claim) by the leader of the processes that train a model, for all of them.
    ///
    /// # Errors
    /// As there; also if this process was started for another run, or does not see the leader's folder.
    pub fn claim_for(self, member: &Member, dir: &Path) -> Result<(Self, Option<Lock>)> {
        let leaders = member.of_leader(|| Ok(self.clone()))?;
        let differences = leaders.differences(&self);
        if !differences.is_empty() {
            bail!(
                "this process was started with other flags or data than the one with rank 0 (from there to here: {}); start all with the same command",
                differences.join("; ")
            );
        }
        // Nothing is written before all have found the same.
        member.wait_for_all()?;
        let mut lock = None;
        let run = member.of_leader(|| {
            let (run, taken) = self.claim(dir)?;
            lock = Some(taken);
            Ok(run)
        })?;
        if !run.is_seen_in(dir) {
            bail!(
                "this process does not see what the one with rank 0 writes into {}; choose a folder for --out that all machines share",
                dir.display()
            );
        }
        Ok((run, lock))
    }

    /// Whether the folder of this run is there, for which shared file systems may need a moment.
    fn is_seen_in(&self, dir: &Path) -> bool {
        let begun = Instant::now();
        while Self::in_folder(dir).as_ref() != Some(self) {
            if begun.elapsed() > SEEN.0 {
                return false;
            }
            thread::sleep(SEEN.1);
        }
        true
    }

    /// This run as it is to go on in a folder.
    fn in_place(self, dir: &Path) -> Result<Self> {
        let name = dir.display();
        let begun = dir.join("metrics.jsonl").exists();
        // What has neither a checkpoint nor a result has nothing to go on from.
        let has_something =
            StageCheckpoints::new(dir).latest().is_some() || dir.join("result.json").exists();
        if begun && !has_something {
            return Ok(self);
        }
        if !begun {
            let other = !dir.join(FILE).exists()
                && fs::read_dir(dir).is_ok_and(|entries| {
                    let mut names = entries.flatten().map(|entry| entry.file_name());
                    names.any(|name| name != "lock")
                });
            if other {
                bail!(
                    "{name} is not empty and holds no training run; choose another folder for --out"
                );
            }
            return Ok(self);
        }
        let before = Self::in_folder(dir);
        if before.as_ref() == Some(&self) {
            return Ok(self);
        }
        let decays = |run: &Self| run.spec.schedule.decay_from.is_some();
        let differences = before
            .as_ref()
            .map_or(Vec::new(), |before| before.differences(&self));
        let longer = before.as_ref().and_then(|before| self.longer(before));
        match (before, longer) {
            (_, Some(longer)) if !decays(&longer) && !decays(&self) => Ok(longer),
            (Some(before), _) if !decays(&before) && decays(&self) => bail!(
                "{name} holds a run that was started with --no-decay, and now the learning rate is to decay; add --no-decay, or train its result on with --from {name} --out NEW"
            ),
            (Some(before), Some(longer)) if longer.spec.schedule.end > before.spec.schedule.end => {
                bail!(
                    "{name} holds this run with fewer tokens, and a learning rate that decays towards their end, so that a longer one is another run; train its result on with --from {name} --out NEW --tokens MORE"
                )
            }
            _ => bail!(
                "{name} holds another run ({}); choose another folder for --out, or remove it",
                match differences.is_empty() {
                    true => format!("its {FILE} cannot be read"),
                    false => differences.join("; "),
                }
            ),
        }
    }
}

/// Adds where two values differ, by the names of fields.
fn compare(name: &str, before: &Value, after: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(old), Value::Object(new)) = (before, after) {
        let fields: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for field in fields {
            let inner = match name {
                "" | "spec" => field.clone(),
                name => format!("{name}.{field}"),
            };
            let value = |object: &serde_json::Map<String, Value>| {
                object.get(field).cloned().unwrap_or_default()
            };
            compare(&inner, &value(old), &value(new), differences);
        }
    } else if before != after {
        differences.push(match name {
            "data" => "the data are others".to_owned(),
            name => format!("{name} was {before}, now {after}"),
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(end: u64, decay_from: Option<u64>) -> RunFile {
        let spec = json!({
            "schedule": {
                "peak_lr": 0.01, "warmup_from": 0, "warmup_steps": end / 10, "decay_from": decay_from, "end": end,
            },
            "batch": { "rows": 2, "context": 8 },
            "data": { "cpt_from": null, "seed": 0 },
            "evaluation": { "every": end / 5, "rows": 4 },
        });
        RunFile {
            model: upcycle_lab::presets::scale("tiny").unwrap().model,
            seed: 0,
            from: None,
            init: None,
            spec: serde_json::from_value(spec).unwrap(),
            data: "data".into(),
            backend: "cpu".into(),
        }
    }

    fn begun(run: RunFile) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        drop(run.claim(dir.path()).unwrap());
        fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
        fs::write(dir.path().join("result.json"), "").unwrap();
        dir
    }

    #[test]
    fn a_trunk_gets_longer_with_the_schedule_that_it_has() {
        let dir = begun(run(20, None));
        let (longer, _lock) = run(50, None).claim(dir.path()).unwrap();
        let schedule = &longer.spec.schedule;
        assert_eq!((schedule.end, schedule.warmup_steps), (50, 2));
        assert_eq!(longer.spec.evaluation.every, 4);
    }

    #[test]
    fn other_runs_are_refused_with_the_way_to_go_on() {
        let refusal = |before: RunFile, after: RunFile| {
            let dir = begun(before);
            let refused = after.claim(dir.path()).map(|(run, _)| run);
            refused.unwrap_err().to_string()
        };
        let decayed = refusal(run(20, Some(18)), run(50, Some(45)));
        assert!(decayed.contains("--out NEW"), "{decayed}");
        let shorter = refusal(run(50, None), run(20, None));
        assert!(shorter.contains("another run"), "{shorter}");
        let mut other = run(20, None);
        other.seed = 1;
        let seed = refusal(run(20, None), other);
        assert!(seed.contains("another run (seed was 0, now 1)"), "{seed}");
        let decaying = refusal(run(20, None), run(50, Some(45)));
        assert!(decaying.contains("add --no-decay"), "{decaying}");
    }

    #[test]
    fn a_folder_that_came_to_nothing_is_taken_again() {
        let dir = begun(run(20, Some(18)));
        fs::remove_file(dir.path().join("result.json")).unwrap();
        let (taken, _lock) = run(30, Some(28)).claim(dir.path()).unwrap();
        assert_eq!(taken, run(30, Some(28)));
    }
}
