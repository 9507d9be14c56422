//! End to end through the binaries, at a size that takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const SCALE: &str = r#"
name = "micro"
[model]
context = 64
d_model = 16
layers = 1
heads = 2
kv_heads = 2
experts = 4
top_k = 2
d_expert = 8
[training]
pretrain_steps = 40
rows = 4
peak_lr = 1e-2
warmup_steps = 5
evaluation_steps = 10
evaluation_rows = 16
"#;

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

    fn command(&self, binary: &str, args: &[&str]) -> Command {
        let mut command = Command::new(match binary {
            "sweep" => env!("CARGO_BIN_EXE_sweep"),
            "train" => env!("CARGO_BIN_EXE_train"),
            "upcycle" => env!("CARGO_BIN_EXE_upcycle"),
            "report" => env!("CARGO_BIN_EXE_report"),
            _ => env!("CARGO_BIN_EXE_inspect"),
        });
        command.current_dir(self.dir.path()).args(args);
        command
    }

    fn run(&self, binary: &str, args: &[&str]) -> Output {
        self.command(binary, args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, binary: &str, args: &[&str]) -> String {
        let output = self.run(binary, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{binary} {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail as a user's mistake.
    fn fails(&self, binary: &str, args: &[&str]) -> String {
        let output = self.run(binary, args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{binary} {args:?}: {errors}");
        assert!(!errors.contains("panicked"), "{binary} {args:?}: {errors}");
        errors
    }
}

const SWEEP: [&str; 8] = [
    "--scales",
    "micro.toml",
    "--cpt",
    "0.25,0.5",
    "--name",
    "test",
    "--jobs",
    "2",
];

/// `results.csv` without the columns of wall time.
fn results(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("results.csv")).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let kept: Vec<usize> = (0..header.len())
        .filter(|&column| !header[column].starts_with("wall_seconds"))
        .collect();
    let keep = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        kept.iter()
            .map(|&i| fields[i])
            .collect::<Vec<_>>()
            .join(",")
    };
    text.lines().map(keep).collect()
}

#[test]
fn a_killed_sweep_goes_on_and_ends_with_the_same_results() {
    let lab = Lab::new();
    let with_out = |out: &'static str| [&SWEEP[..], &["--out", out]].concat();
    let table = lab.ok("sweep", &with_out("whole"));
    assert!(
        table.contains("exact") && table.contains("paper"),
        "{table}"
    );

    // Killed in the middle: after its tenth stage, with others running.
    let mut args = with_out("killed");
    args.extend(["--checkpoint-seconds", "0"]);
    let mut child = lab
        .command("sweep", &args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let finished = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with('['))
        .take(10);
    assert_eq!(finished.count(), 10);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!lab.path("killed/test/results.csv").exists());

    let output = lab.run("sweep", &args);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(
        log.lines()
            .filter(|line| line.starts_with("cached"))
            .count()
            >= 10,
        "{log}"
    );
    assert_eq!(
        results(&lab.path("whole/test")),
        results(&lab.path("killed/test"))
    );

    for file in ["report.html", "results.json"] {
        assert!(lab.path("whole/test").join(file).is_file());
    }
    let figures = fs::read_dir(lab.path("whole/test/figures")).unwrap();
    assert!(figures.count() >= 6);
    let again = lab.ok("report", &["whole/test"]);
    assert_eq!(again, table);
}

#[test]
fn a_model_is_trained_upcycled_and_trained_on() {
    let lab = Lab::new();
    lab.ok(
        "train",
        &["--scale", "micro.toml", "--no-decay", "--out", "small"],
    );
    let grown = lab.ok("upcycle", &["--from", "small", "--to", "big", "--json"]);
    let grown: serde_json::Value = serde_json::from_str(&grown).unwrap();
    let loss = |when: &str| grown[when]["loss"].as_f64().unwrap();
    assert!((loss("before") - loss("after")).abs() < 1e-3);

    let inspected = lab.ok("inspect", &["big", "--json"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["model"]["experts"], 8);
    assert_eq!(inspected["step"], 40);

    let args = [
        "--scale",
        "micro.toml",
        "--from",
        "big",
        "--out",
        "on",
        "--json",
    ];
    let trained = lab.ok("train", &args);
    let trained: serde_json::Value = serde_json::from_str(&trained).unwrap();
    assert_eq!(trained["step"], 80);
    assert!(trained["evaluation"]["loss"].as_f64().unwrap() < loss("before"));

    let other = lab.fails(
        "train",
        &["--scale", "micro.toml", "--seed", "1", "--out", "on"],
    );
    assert!(other.contains("another run"), "{other}");
    let there = lab.fails("upcycle", &["--from", "small", "--to", "big"]);
    assert!(there.contains("exists already"), "{there}");
    let dry = [
        "--from",
        "small",
        "--dry-run",
        "--recipe",
        "paper",
        "--experts",
        "6",
    ];
    let dry = lab.ok("upcycle", &dry);
    assert!(dry.contains("4 -> 6 experts"), "{dry}");
    // A table with a line for every source, and what changed.
    let scored = dry.lines().filter(|line| line.contains("e-")).count();
    assert!(scored >= 4 && dry.contains("distinct sources"), "{dry}");
}

#[test]
fn every_part_of_the_operator_has_a_flag() {
    let lab = Lab::new();
    let train = ["--scale", "micro.toml", "--no-decay", "--out", "small"];
    lab.ok("train", &train);
    let grow = |from: &str, to: &str, flags: &[&str]| -> serde_json::Value {
        let args = [&["--from", from, "--to", to, "--json"], flags].concat();
        serde_json::from_str(&lab.ok("upcycle", &args)).unwrap()
    };
    let difference = |grown: &serde_json::Value| {
        let verification = &grown["verification"];
        verification["largest_logit_difference"].as_f64().unwrap()
    };
    // Grown twice, by counts of a file and by scores; the lineage has both.
    fs::write(lab.path("counts.json"), r#"{"counts": [[1, 2, 1, 2]]}"#).unwrap();
    let counts = ["--experts", "6", "--selection", "explicit:file=counts.json"];
    let first = grow("small", "once", &counts);
    let by_load = ["--selection", "proportional:score=load"];
    let second = grow("once", "twice", &by_load);
    assert!(difference(&first) < 1e-4 && difference(&second) < 1e-4);
    let inspected = lab.ok("inspect", &["twice", "--json"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let growths = &inspected["lineage"][0]["growths"];
    assert_eq!(growths[0], serde_json::json!([0, 1, 2, 3, 1, 3]));
    assert_eq!(growths[1].as_array().unwrap().len(), 12);

    let plain = [
        "--router",
        "noise:std=0.01,on=all",
        "--expert-init",
        "drop:share=0.5,init=kaiming",
        "--optimizer",
        "scale:momentum=0.5,adaptive=true",
    ];
    assert!(difference(&grow("small", "plain", &plain)) > 1e-3);

    // A dense model becomes one with experts, and trains on.
    let dense = SCALE.replace(
        "[training]",
        "d_ffn = 8\npattern = \"all-dense\"\n[training]",
    );
    fs::write(lab.path("dense.toml"), dense).unwrap();
    lab.ok(
        "train",
        &["--scale", "dense.toml", "--no-decay", "--out", "dense"],
    );
    let none = lab.fails("upcycle", &["--from", "dense", "--to", "moe"]);
    assert!(none.contains("--experts"), "{none}");
    let none = lab.fails(
        "upcycle",
        &["--from", "dense", "--to", "moe", "--experts", "8"],
    );
    assert!(none.contains("[dense]"), "{none}");
    let grown = grow(
        "dense",
        "moe",
        &["--experts", "8", "--recipe", "virtual-groups"],
    );
    assert!(difference(&grown) < 1e-4);
    lab.ok(
        "train",
        &["--scale", "micro.toml", "--from", "moe", "--out", "moe-on"],
    );

    for (flags, expected) in [
        (&["--experts", "4"][..], "above"),
        (&["--experts", "1"], "above"),
        (
            &["--selection", "greedy:score=load,cap=1", "--experts", "9"],
            "selection.cap",
        ),
        (&["--router", "two-level:strenght=1"], "strenght"),
        (&["--expert-init", "scale:factor=-1"], "experts.factor"),
        (
            &["--selection", "explicit:file=counts.json"],
            "selection.counts",
        ),
    ] {
        let args = [&["--from", "small", "--to", "wrong"], flags].concat();
        let error = lab.fails("upcycle", &args);
        assert!(error.contains(expected), "{flags:?}: {error}");
        assert!(!lab.path("wrong").exists());
    }
    let error = lab.fails(
        "upcycle",
        &["--from", "once", "--to", "wrong", "--recipe", "paper"],
    );
    assert!(error.contains("two-level"), "{error}");
}

#[test]
fn text_runs_to_a_report_with_a_row_for_each_combination() {
    let lab = Lab::new();
    let sentence = "Le petit chat boit du lait, puis il dort au soleil de midi. ";
    fs::write(lab.path("a.txt"), sentence.repeat(300)).unwrap();
    fs::write(
        lab.path("b.txt"),
        "e2e4 e7e5 g1f3 b8c6 f1b5 a7a6 ".repeat(600),
    )
    .unwrap();
    let args = [
        "--scales",
        "micro.toml",
        "--data",
        "a.txt",
        "--data",
        "b.txt",
        "--top-k",
        "1,2",
        "--cpt",
        "0.25,1.0",
        "--seeds",
        "1",
        "--tokens",
        "5k",
        "--name",
        "text",
    ];
    lab.ok("sweep", &args);
    // A header, and K x CPT x recipe.
    assert_eq!(results(&lab.path("runs/text")).len(), 1 + 2 * 2 * 2);
}

#[test]
fn the_papers_scales_are_planned_and_refused_on_a_cpu() {
    let lab = Lab::new();
    let args = ["--scales", "154M,1B", "--backend", "cpu"];
    let output = lab.run("sweep", &args);
    let (plan, refusal) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(plan.contains("154M") && plan.contains("1028M"), "{plan}");
    for fix in ["--backend cuda", "--tokens", "--force"] {
        assert!(refusal.contains(fix), "{refusal}");
    }
    let dry = lab.ok("sweep", &[&args[..], &["--dry-run"]].concat());
    assert!(dry.contains("stable 0..16790"), "{dry}");
    let json = lab.ok("sweep", &[&args[..], &["--dry-run", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["stages"].as_array().unwrap().len() > 50);
}

#[test]
fn mistakes_are_named_with_their_fix() {
    let lab = Lab::new();
    fs::write(lab.path("empty.txt"), "").unwrap();
    fs::write(lab.path("bad.txt"), b"caf\xe9").unwrap();
    fs::write(lab.path("unknown.toml"), format!("colour = 1\n{SCALE}")).unwrap();
    let sweep = |args: &[&str]| {
        let with_scale = [&["--scales", "micro.toml", "--seeds", "1"], args].concat();
        lab.fails("sweep", &with_scale)
    };
    for (args, expected) in [
        (&["--experts", "1"][..], "top_k"),
        (&["--top-k", "5"], "top_k"),
        (&["--multipliers", "1.0"], "above 1"),
        (&["--multipliers", "1.3"], "whole number"),
        (&["--recipes", "nice"], "paper, uniform, exact"),
        (&["--data", "nowhere.txt"], "nowhere.txt"),
        (&["--data", "empty.txt"], "empty.txt"),
        (&["--data", "bad.txt"], "byte 3"),
        (&["--out", "empty.txt/runs"], "empty.txt/runs"),
        (&["--vocab", "10"], "vocab"),
        (&["--tokens", "1X"], "suffix"),
        (&["--config", "no.toml"], "quick"),
        (&["--seeds", "0"], "seeds"),
    ] {
        let error = sweep(args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let error = lab.fails("sweep", &["--scales", "unknown.toml"]);
    assert!(
        error.contains("colour") && error.contains("unknown.toml"),
        "{error}"
    );
    let error = lab.fails("sweep", &["--scale-of-things", "3"]);
    assert!(error.contains("--scale-of-things"), "{error}");
    let error = lab.fails("upcycle", &["--from", "nowhere", "--to", "x"]);
    assert!(
        error.contains("nowhere") && error.contains("checkpoint.json"),
        "{error}"
    );
    let error = lab.fails("inspect", &["nowhere"]);
    assert!(error.contains("nowhere"), "{error}");
    let error = lab.fails("report", &["nowhere"]);
    assert!(error.contains("nowhere"), "{error}");
    assert!(
        !lab.path("runs/stages").exists(),
        "a mistake left stages behind"
    );
}

#[test]
fn a_backend_that_is_not_there_is_an_error() {
    let lab = Lab::new();
    #[cfg(not(feature = "wgpu"))]
    {
        let error = lab.fails("sweep", &["--backend", "wgpu", "--dry-run"]);
        assert!(error.contains("--features wgpu"), "{error}");
    }
    #[cfg(not(feature = "cuda"))]
    {
        let error = lab.fails("sweep", &["--backend", "cuda", "--dry-run"]);
        assert!(error.contains("--features cuda"), "{error}");
    }
    #[cfg(feature = "cuda")]
    if !Path::new("/dev/nvidia0").exists() {
        let error = lab.fails("sweep", &["--backend", "cuda", "--dry-run"]);
        assert!(error.contains("NVIDIA driver"), "{error}");
    }
}
