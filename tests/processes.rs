//! Several processes that train one model, at a size that takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const SCALE: &str = include_str!("micro.toml");

/// A folder with a micro scale.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("micro.toml"), SCALE).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn-upcycle"));
        let none = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID"];
        none.iter().for_each(|name| _ = command.env_remove(name));
        command.current_dir(self.dir.path()).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a process with a rank among so many, as torchrun does.
    fn member(&self, args: &[&str], meet: &str, rank: usize, size: usize) -> Child {
        let mut command = self.command(args);
        command.args(["--meet", meet]);
        command.env("RANK", rank.to_string());
        command.env("WORLD_SIZE", size.to_string());
        command.spawn().unwrap()
    }

    /// Two processes that train together, and their ends.
    fn pair(&self, args: &[&str]) -> [Output; 2] {
        let meet = format!("127.0.0.1:{}", free_port(0));
        [0, 1]
            .map(|rank| self.member(args, &meet, rank, 2))
            .map(|child| child.wait_with_output().unwrap())
    }

    fn ok(&self, args: &[&str]) {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    }
}

/// A port that nobody listens at, from a first one on; with 0 any.
fn free_port(first: u16) -> u16 {
    let mut ports = first..=u16::MAX;
    let listener = ports.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    listener.unwrap().local_addr().unwrap().port()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let same = "train --scale micro.toml --backend cpu --threads 1 --ui plain --out";
    [&same.split(' ').collect::<Vec<_>>()[..], &[out], more].concat()
}

/// Losses of all steps and evaluations of a run.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

fn assert_close(one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().zip(other);
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 1e-3, "losses differ by {largest}");
}

#[test]
fn two_processes_train_as_one_and_the_first_one_speaks() {
    let lab = Lab::new();
    lab.ok(&train("alone", &[]));
    let [first, second] = lab.pair(&train("pair", &[]));
    assert!(first.status.success(), "{}", errors(&first));
    assert!(second.status.success(), "{}", errors(&second));
    assert!(String::from_utf8_lossy(&first.stdout).contains("validation loss"));
    assert!(second.stdout.is_empty(), "{second:?}");
    assert_eq!(errors(&second), "");
    assert_close(&losses(&lab.path("alone")), &losses(&lab.path("pair")));

    // A finished run releases both.
    let [again, other] = lab.pair(&train("pair", &[]));
    assert!(errors(&again).contains("finished already"), "{again:?}");
    assert!(other.status.success(), "{}", errors(&other));
}

#[test]
fn a_lost_process_ends_the_others_and_all_go_on_from_the_checkpoint() {
    let lab = Lab::new();
    let args = |out| train(out, &["--tokens", "30k", "--checkpoint-seconds", "0"]);
    for end in lab.pair(&args("whole")) {
        assert!(end.status.success(), "{}", errors(&end));
    }
    for victim in [0, 1] {
        let out = ["without-0", "without-1"][victim];
        let meet = format!("127.0.0.1:{}", free_port(0));
        let mut members = [0, 1].map(|rank| lab.member(&args(out), &meet, rank, 2));
        let lines = BufReader::new(members[0].stderr.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("validation loss")));
        members[victim].kill().unwrap();
        let killed = Instant::now();
        let first_said: Vec<String> = lines.collect();
        let ends = members.map(|child| child.wait_with_output().unwrap());
        assert!(killed.elapsed() < Duration::from_secs(20));
        let said = first_said.join("\n") + &errors(&ends[1]);
        assert_eq!(ends[1 - victim].status.code(), Some(2), "{said}");
        let prefix = ["rank 1: error: ", "error: "][victim];
        let lost = format!("device {victim} ");
        let is_told = |line: &str| line.starts_with(prefix) && line.contains(&lost);
        assert!(said.lines().any(is_told), "{said}");
        let checkpoints = fs::read_dir(lab.path(out).join("checkpoints")).unwrap();
        assert!(checkpoints.count() > 0);

        let [first, second] = lab.pair(&args(out));
        assert!(errors(&first).contains("resumed at step"), "{first:?}");
        assert!(second.status.success(), "{}", errors(&second));
        assert_eq!(losses(&lab.path(out)), losses(&lab.path("whole")));
    }
}

#[test]
fn the_tasks_of_a_slurm_step_compute_a_stage_of_a_sweep() {
    let lab = Lab::new();
    let flags =
        "sweep --scales micro.toml --backend cpu --cpt 0.5 --recipes exact --seeds 1 --name small";
    lab.ok(&flags.split(' ').collect::<Vec<_>>());
    let status = || -> serde_json::Value {
        let args = ["sweep", "status", "runs/small", "--json"];
        let output = lab.command(&args).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let before = status();
    let stages = before["stages"].as_array().unwrap();
    // A growth, and the training after it.
    let grown = stages.iter().position(|stage| stage["from"] == stage["to"]);
    let keys = [grown.unwrap(), stages.len() - 1];
    for key in keys.map(|place| stages[place]["key"].as_str().unwrap()) {
        let folder = lab.path("runs/stages").join(key);
        let result = || -> serde_json::Value {
            serde_json::from_str(&fs::read_to_string(folder.join("result.json")).unwrap()).unwrap()
        };
        let loss = || {
            let result = result();
            let last = [&result["evaluation"], &result["after"]];
            last.iter().find_map(|it| it["loss"].as_f64()).unwrap()
        };
        let alone = loss();
        fs::remove_dir_all(&folder).unwrap();
        // The second time the stage is finished, and both are released.
        for _ in 0..2 {
            let job = free_port(15_000) - 15_000;
            let tasks = [0, 1].map(|rank| {
                let stage = ["sweep", "stage", "runs/small", key, "--nodes", "1"];
                let mut task = lab.command(&stage);
                for (name, value) in [
                    ("JOB_ID", job.to_string()),
                    ("STEP_ID", "0".into()),
                    ("PROCID", rank.to_string()),
                    ("LOCALID", rank.to_string()),
                    ("STEP_NUM_TASKS", "2".into()),
                    ("STEP_NUM_NODES", "1".into()),
                    ("STEP_NODELIST", "localhost".into()),
                ] {
                    task.env(format!("SLURM_{name}"), value);
                }
                task.spawn().unwrap()
            });
            for task in tasks {
                let end = task.wait_with_output().unwrap();
                assert!(end.status.success(), "{}", errors(&end));
            }
        }
        assert_close(&[alone], &[loss()]);
    }
    assert_eq!(status(), before);
}

#[test]
fn processes_that_do_not_fit_are_told() {
    let lab = Lab::new();
    let fails = |args: &[&str]| {
        let output = lab.command(&train("none", args)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        errors(&output)
    };
    let alone = fails(&["--meet", "127.0.0.1:1"]);
    assert!(alone.contains("RANK, WORLD_SIZE are not set"), "{alone}");
    let no_job = fails(&["--nodes", "2"]);
    assert!(no_job.contains("start it by srun"), "{no_job}");
    let no_port = fails(&["--meet", "localhost"]);
    assert!(no_port.contains("HOST:PORT"), "{no_port}");
    let devices = fails(&["--meet", "127.0.0.1:1", "--devices", "2"]);
    assert!(devices.contains("leave it out"), "{devices}");

    let meet = format!("127.0.0.1:{}", free_port(0));
    let seeds = ["0", "1"].map(|seed| train("none", &["--seed", seed]));
    let members = [0, 1].map(|rank| lab.member(&seeds[rank], &meet, rank, 2));
    let [first, second] = members.map(|child| child.wait_with_output().unwrap());
    for end in [&first, &second] {
        assert_eq!(end.status.code(), Some(2), "{}", errors(end));
        assert!(errors(end).contains("seed was 0, now 1"), "{}", errors(end));
    }
    assert!(errors(&second).starts_with("rank 1: error: "), "{second:?}");
}
