//! End to end through the program, at a size that takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn-upcycle"));
        command.current_dir(self.dir.path()).arg(name).args(args);
        command
    }

    fn run(&self, command: &str, args: &[&str]) -> Output {
        self.command(command, args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, command: &str, args: &[&str]) -> String {
        let output = self.run(command, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command} {args:?}: {errors}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail as a user's mistake.
    fn fails(&self, command: &str, args: &[&str]) -> String {
        let output = self.run(command, args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{command} {args:?}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{command} {args:?}: {errors}");
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
    let table = lab.ok("sweep", &[&with_out("whole")[..], &["--logs"]].concat());
    assert!(table.contains("auto") && table.contains("paper"), "{table}");

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
    let logs = fs::read_dir(lab.path("whole/test/logs")).unwrap();
    let logged = logs.filter(|stage| stage.as_ref().unwrap().path().join("curve.csv").is_file());
    assert!(logged.count() >= 10);
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
    let counts = "--experts 6 --recipe exact --selection explicit:file=counts.json";
    let counts: Vec<&str> = counts.split(' ').collect();
    let first = grow("small", "once", &counts);
    let by_load = "--recipe exact --selection proportional:score=load --boost experts=2,steps=10";
    let by_load: Vec<&str> = by_load.split(' ').collect();
    let second = grow("once", "twice", &by_load);
    assert!(difference(&first) < 1e-4 && difference(&second) < 1e-4);
    let inspected = lab.ok("inspect", &["twice", "--json"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let growths = &inspected["growths"][0]["lineage"]["growths"];
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
        (&["--boost", "experts=0,steps=5"], "boost.experts"),
        (&["--recipe", "auto"], "depends on the budget"),
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
fn mixtures_and_held_out_files_run_and_say_what_they_are() {
    let lab = Lab::new();
    fs::create_dir(lab.path("a")).unwrap();
    fs::write(
        lab.path("a/a.txt"),
        "le petit chat boit du lait ".repeat(600),
    )
    .unwrap();
    fs::write(lab.path("a/a.md"), "skipped").unwrap();
    let lines = "{\"body\": \"e2e4 e7e5 g1f3 b8c6 f1b5 a7a6\"}\n".repeat(400);
    fs::write(lab.path("b.jsonl"), format!("{lines}{{\"body\": null}}\n")).unwrap();
    fs::write(
        lab.path("v.txt"),
        "le chat dort au soleil de midi ".repeat(100),
    )
    .unwrap();
    let args = [
        "--scales",
        "micro.toml",
        "--seeds",
        "1",
        "--cpt",
        "1.0",
        "--tokens",
        "5k",
        "--name",
        "mix",
        "--data",
        "a=0.75",
        "--data",
        "b.jsonl=0.25",
        "--text-column",
        "body",
        "--validation",
        "v.txt",
    ];
    let output = lab.run("sweep", &args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for part in [
        "a/a.md",
        "null and so skipped in b.jsonl: 1",
        "75.00 % of the tokens are from a;",
    ] {
        assert!(errors.contains(part), "no {part:?} in {errors}");
    }
    assert!(!results(&lab.path("runs/mix")).is_empty());
}

/// The metric of a name of a task of `evaluate --json`, for a checkpoint.
fn metric<'a>(
    results: &'a serde_json::Value,
    [checkpoint, task]: [usize; 2],
    name: &str,
) -> &'a serde_json::Value {
    let metrics = &results["checkpoints"][checkpoint]["tasks"][task]["metrics"];
    let mut metrics = metrics.as_array().unwrap().iter();
    metrics.find(|metric| metric["name"] == name).unwrap()
}

#[test]
fn models_are_asked_for_what_they_were_taught() {
    let lab = Lab::new();
    let taught = SCALE.replace("pretrain_steps = 40", "pretrain_steps = 600");
    fs::write(lab.path("taught.toml"), taught).unwrap();
    for (scale, out) in [("micro.toml", "fresh"), ("taught.toml", "taught")] {
        let args = ["--scale", scale, "--data", "knowledge:8", "--out", out];
        lab.ok("train", &args);
    }
    let args = [
        "--from",
        "fresh",
        "--from",
        "taught",
        "--tasks",
        "knowledge:8",
        "--json",
    ];
    let results: serde_json::Value = serde_json::from_str(&lab.ok("evaluate", &args)).unwrap();
    // Eight persons with five facts each.
    assert_eq!(results["checkpoints"][0]["tasks"][0]["items"], 40);
    let [fresh, taught] = [0, 1].map(|checkpoint| metric(&results, [checkpoint, 0], "acc"));
    assert_eq!(fresh["chance"], 0.25);
    let value = |metric: &serde_json::Value| metric["value"].as_f64().unwrap();
    assert!(value(taught) > value(fresh), "{fresh} {taught}");
    assert!(value(taught) > 0.75, "{taught}");

    let table = lab.ok(
        "evaluate",
        &["--from", "taught", "--tasks", "knowledge:8", "--limit", "3"],
    );
    assert!(
        table.contains("chance") && table.contains("answer_bits_per_byte"),
        "{table}"
    );
    let list = lab.ok("evaluate", &["--list"]);
    for task in ["hellaswag", "lambada", "knowledge", "lookup"] {
        assert!(list.lines().any(|line| line.starts_with(task)), "{list}");
    }
}

#[test]
fn tasks_are_files_and_what_is_wrong_with_them_is_a_sentence() {
    let lab = Lab::new();
    fs::write(lab.path("a.txt"), "le petit chat boit du lait ".repeat(400)).unwrap();
    lab.ok(
        "train",
        &["--scale", "micro.toml", "--data", "a.txt", "--out", "text"],
    );
    lab.ok("train", &["--scale", "micro.toml", "--out", "chains"]);
    let rows = "{\"q\": \"le petit\", \"good\": \"chat\", \"bad\": \"qqqq\"}\n".repeat(3);
    fs::write(lab.path("rows.jsonl"), rows).unwrap();
    let choice = "kind = \"multiple-choice\"\ndata = \"rows.jsonl\"\ncontext = \"{q}\"\nchoices = [\"{bad}\", \"{good}\"]\nanswer = 1\n";
    fs::write(lab.path("choice.toml"), choice).unwrap();
    let cloze = "kind = \"cloze\"\ndata = \"rows.jsonl\"\ncontext = \"{q}\"\ntarget = \"{good}\"\n";
    fs::write(lab.path("cloze.toml"), cloze).unwrap();
    let args = [
        "--from",
        "text",
        "--tasks",
        "choice.toml,cloze.toml,perplexity=a.txt",
        "--json",
    ];
    let results: serde_json::Value = serde_json::from_str(&lab.ok("evaluate", &args)).unwrap();
    let value = |task, name| metric(&results, [0, task], name)["value"].as_f64().unwrap();
    assert_eq!(value(0, "acc"), 1.0);
    assert!(value(1, "perplexity") > 1.0);
    let bits = value(2, "bits_per_byte");
    assert!((value(2, "byte_perplexity").log2() - bits).abs() < 1e-9);
    assert!(bits < 8.0, "{bits}");
    // The same items twice as examples of each other are none.
    let fewshot = ["--from", "text", "--tasks", "choice.toml", "--fewshot", "1"];
    let fewshot = lab.fails("evaluate", &fewshot);
    assert!(fewshot.contains("fewshot_data"), "{fewshot}");

    let broken = [
        (
            "missing.toml",
            choice.replace("answer = 1\n", ""),
            "`answer` is missing",
        ),
        (
            "unknown.toml",
            choice.replace("answer", "anser"),
            "unknown field `anser`",
        ),
        (
            "range.toml",
            choice.replace("answer = 1", "answer = 2"),
            "rows.jsonl, row 1: the answer",
        ),
        (
            "field.toml",
            choice.replace("{q}", "{question}"),
            "no field `question`",
        ),
        (
            "file.toml",
            choice.replace("rows.jsonl", "none.jsonl"),
            "none.jsonl does not exist",
        ),
        (
            "mixed.toml",
            choice.replace("rows.jsonl", "mixed.jsonl"),
            "must be of one kind",
        ),
        (
            "column.toml",
            choice.replace("rows.jsonl", "broken.parquet"),
            "not a whole Parquet file",
        ),
    ];
    let mixed = "{\"q\": \"a\", \"good\": \"b\", \"bad\": \"c\"}\n{\"q\": 3, \"good\": \"b\", \"bad\": \"c\"}\n";
    fs::write(lab.path("mixed.jsonl"), mixed).unwrap();
    fs::write(lab.path("broken.parquet"), "no table").unwrap();
    for (file, toml, expected) in broken {
        fs::write(lab.path(file), toml).unwrap();
        let error = lab.fails("evaluate", &["--from", "text", "--tasks", file]);
        assert!(error.contains(expected), "{file}: {error}");
    }
    for (from, task, expected) in [
        ("text", "gsm8k", "lm-evaluation-harness"),
        ("text", "trivia", "no task `trivia`"),
        ("text", "perplexity", "perplexity=FILE"),
        ("text", "perplexity=none.txt", "none.txt does not exist"),
        ("text", "choice.toml,choice.toml", "twice"),
        ("chains", "choice.toml", "--tokenizer"),
        ("nowhere", "choice.toml", "nowhere does not exist"),
    ] {
        let error = lab.fails("evaluate", &["--from", from, "--tasks", task]);
        assert!(error.contains(expected), "{task}: {error}");
    }
}

#[test]
fn a_sweep_shows_gap_closure_by_tasks() {
    let lab = Lab::new();
    let flags = "--scales micro.toml --data knowledge:8 --tasks knowledge:8 --task-limit 20 --cpt 0.5,1.0 --recipes exact,uniform --seeds 1 --tokens 5k --name tasks";
    let table = lab.ok("sweep", &flags.split(' ').collect::<Vec<_>>());
    assert!(
        table.contains("knowledge:8") && table.contains("Fixed-mE"),
        "{table}"
    );
    let run = lab.path("runs/tasks");
    let rows = fs::read_to_string(run.join("tasks.csv")).unwrap();
    // A header, and CPT x recipes.
    assert_eq!(rows.lines().count(), 1 + 2 * 2);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("Downstream tasks"));

    // Scores are kept with the models, of which each budget has Fixed-E, Fixed-mE and two more. One that is missing is computed
    // by the job of its stage.
    let stages = lab.path("runs/stages");
    let mut kept = names_below(&stages);
    kept.retain(|name| name.contains("/tasks/"));
    assert_eq!(kept.len(), 2 * 4);
    let (key, file) = (kept[0].split('/').next().unwrap(), stages.join(&kept[0]));
    let finished = || -> serde_json::Value {
        let status = lab.ok("sweep", &["status", "runs/tasks", "--json"]);
        serde_json::from_str::<serde_json::Value>(&status).unwrap()["finished"].clone()
    };
    let all = finished().as_u64().unwrap();
    let score = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(finished(), all - 1);
    lab.ok("sweep", &["stage", "runs/tasks", key]);
    assert_eq!(fs::read_to_string(&file).unwrap(), score);
    assert_eq!(finished(), all);
    // Started again, the sweep only collects them; without one there is still a report of losses.
    fs::write(&file, "{").unwrap();
    fs::remove_file(run.join("results.csv")).unwrap();
    let damaged = lab.fails("sweep", &flags.split(' ').collect::<Vec<_>>());
    assert!(damaged.contains(&kept[0]), "{damaged}");
    assert!(run.join("results.csv").is_file());

    let args = ["--scales", "micro.toml", "--tasks", "trivia"];
    assert!(lab.fails("sweep", &args).contains("no task `trivia`"));
}

#[test]
fn an_exported_model_has_the_scores_of_its_checkpoint() {
    let lab = Lab::new();
    let text = "le petit chat boit du lait, puis il dort au soleil. ".repeat(300);
    fs::write(lab.path("a.txt"), text).unwrap();
    let train = [
        "--scale",
        "micro.toml",
        "--data",
        "a.txt",
        "--tokenizer",
        "bpe:280",
    ];
    let export = ["--out", "run", "--export", "exported"];
    lab.ok("train", &[&train[..], &export].concat());
    let rows =
        "{\"q\": \"puis il\", \"c\": [\"lait\", \"dort\", \"soleil au\"], \"a\": 1}\n".repeat(2);
    fs::write(lab.path("rows.jsonl"), rows).unwrap();
    let choice = "kind = \"multiple-choice\"\ndata = \"rows.jsonl\"\ncontext = \"{q}\"\nchoices = \"{c}\"\nanswer = \"{a}\"\nmetrics = [\"answer_bits_per_byte\", \"acc\"]\n";
    fs::write(lab.path("choice.toml"), choice).unwrap();
    let args = [
        "--from",
        "run",
        "--from",
        "exported",
        "--tasks",
        "choice.toml,perplexity=a.txt",
        "--json",
    ];
    let results: serde_json::Value = serde_json::from_str(&lab.ok("evaluate", &args)).unwrap();
    for (task, name) in [
        (0, "answer_bits_per_byte"),
        (0, "acc"),
        (1, "word_perplexity"),
    ] {
        let [own, exported] = [0, 1].map(|checkpoint| {
            let metric = metric(&results, [checkpoint, task], name);
            metric["value"].as_f64().unwrap()
        });
        assert!(
            (own / exported - 1.0).abs() < 1e-5,
            "{name}: {own} {exported}"
        );
    }
}

#[test]
fn lengths_are_compared_and_final_models_tested_on_fresh_seeds() {
    let lab = Lab::new();
    let flags = "--scales micro.toml --lengths 5k,10k --cpt 0.5,1.0 --recipes uniform,auto --seeds 3 --first-seed 100 --name lengths";
    let table = lab.ok("sweep", &flags.split(' ').collect::<Vec<_>>());
    assert!(table.contains("test %"), "{table}");
    let run = lab.path("runs/lengths");
    // A header, and lengths x CPT x recipes x seeds.
    let rows = results(&run);
    assert_eq!(rows.len(), 1 + 2 * 2 * 2 * 3);
    let csv = fs::read_to_string(run.join("results.csv")).unwrap();
    let columns: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = |name: &str| columns.iter().position(|column| *column == name).unwrap();
    for row in csv.lines().skip(1) {
        let fields: Vec<&str> = row.split(',').collect();
        assert!(
            ["100", "101", "102"].contains(&fields[column("seed")]),
            "{row}"
        );
        let [test, validation] = ["test_loss_upcycled", "loss_upcycled"]
            .map(|name| fields[column(name)].parse::<f64>().unwrap());
        assert!(test > 0.0 && test != validation, "{row}");
    }
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "on the test split",
        "over the length of pre-training",
        "tokens since the operator",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let rows = run.join("results.csv");
    let markdown = lab.ok(
        "report",
        &[
            rows.to_str().unwrap(),
            "--markdown",
            "--baseline",
            "uniform",
        ],
    );
    assert!(markdown.contains("| `auto` less `uniform` |"), "{markdown}");
    let unknown = lab.fails("report", &["runs/lengths", "--baseline", "exakt"]);
    assert!(
        unknown.contains("--baseline exakt") && unknown.contains("uniform"),
        "{unknown}"
    );
    fs::write(lab.path("bad.csv"), "scale,data\n,x\n").unwrap();
    let error = lab.fails("report", &["bad.csv"]);
    assert!(
        error.contains("bad.csv") && error.contains("line 2"),
        "{error}"
    );
    let both = lab.fails("sweep", &["--lengths", "1M", "--tokens", "1M"]);
    assert!(
        both.contains("--lengths") || both.contains("lengths"),
        "{both}"
    );
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

/// The numbers are those of `crates/lab/tests/lab/scaling.rs`, worked out by hand.
#[test]
fn the_papers_largest_model_is_planned_for_gpus_that_are_not_here() {
    let lab = Lab::new();
    let flags = "--config table1 --dry-run --expert-parallel 8 --memory 80GB --link 450GB/s";
    let with = |more: &str| -> Vec<String> {
        let flags = flags.split(' ').chain(more.split(' '));
        flags.map(str::to_owned).collect()
    };
    let ok = |more: &str| {
        let flags = with(more);
        lab.ok(
            "sweep",
            &flags.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let fails = |more: &str| {
        let flags = with(more);
        lab.fails(
            "sweep",
            &flags.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let line = |plan: &str, start: &str, word: &str| -> String {
        let mut lines = plan.lines().filter(|line| line.starts_with(start));
        let found = lines.find(|line| line.contains(word));
        found
            .unwrap_or_else(|| panic!("{start} {word}: {plan}"))
            .to_owned()
    };
    let big = "7B-interleaved/fixed-64 k2 ";

    let kept = ok("--devices 8 --device-speed 400TFLOP/s");
    let memory = line(&kept, big, "does not fit");
    assert!(
        memory.contains("75.8 GiB") && memory.contains("42.3 GiB, which does"),
        "{memory}"
    );
    assert!(
        kept.contains("Without --force this would be refused"),
        "{kept}"
    );

    let again = ok("--devices 8 --device-speed 400TFLOP/s --activation-checkpointing");
    let memory = line(&again, big, "fits");
    for part in ["11.6 GiB", "12.7 GiB", "3.2 GiB", "3.1 GiB", "42.3 GiB"] {
        assert!(memory.contains(part), "{part}: {memory}");
    }
    let growth = line(&again, "7B-interleaved/fixed-32 k2 upcycle to 64", "fits");
    assert!(growth.contains("61.7 GiB"), "{growth}");
    let step = line(&again, big, " s ");
    for part in [
        "19.96 s",
        "420.0 GiB in 1.00 s",
        "10.4 GiB in 24.9 ms",
        "20.98 s",
    ] {
        assert!(step.contains(part), "{part}: {step}");
    }
    let fewest = line(&again, "7B-interleaved ", "--expert-parallel");
    assert!(fewest.contains("16, --expert-parallel 8"), "{fewest}");
    assert!(fewest.contains("8, --expert-parallel 8"), "{fewest}");
    let paper = line(&again, "the paper ", "41328");
    assert!(
        paper.contains("27888") && paper.contains("32.5 %"),
        "{paper}"
    );
    assert!(!again.contains("would be refused"), "{again}");
    // Nobody says how fast such a device is, and there is none here.
    #[cfg(not(feature = "cuda"))]
    {
        let assumed = ok("--devices 8");
        assert!(assumed.contains("44.0 TFLOP/s"), "{assumed}");
    }

    for (more, fix) in [
        ("--devices 12", "take 1, 2, 3, 4, 6 or 12"),
        ("--devices 1024", "512 sequences of a step"),
        ("--devices 64 --experts 36", "take 1, 2 or 4"),
    ] {
        let error = fails(more);
        assert!(error.contains(fix), "{error}");
    }
    let link = lab.fails("sweep", &["--dry-run", "--link", "fast"]);
    assert!(link.contains("450GB/s"), "{link}");
    assert!(!lab.path("runs").exists());
}

#[test]
fn mistakes_are_named_with_their_fix() {
    let lab = Lab::new();
    fs::write(lab.path("empty.txt"), "").unwrap();
    fs::write(lab.path("bad.txt"), b"caf\xe9").unwrap();
    fs::write(lab.path("lines.jsonl"), "{\"body\": \"a\"}\n").unwrap();
    fs::write(lab.path("broken.jsonl.zst"), "no frame at all").unwrap();
    fs::write(lab.path("broken.parquet"), "no table at all").unwrap();
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
        (&["--recipes", "nice"], "uniform, uniform-moments, exact, "),
        (&["--data", "nowhere.txt"], "nowhere.txt"),
        (&["--data", "empty.txt"], "empty.txt"),
        (&["--data", "bad.txt"], "byte 3"),
        (&["--data", "*.arrow"], "matches nothing"),
        (&["--data", "lines.jsonl"], "--text-column"),
        (&["--data", "broken.jsonl.zst"], "get it again"),
        (&["--data", "broken.parquet"], "get it again"),
        (&["--data", "a.txt=1", "--data", "b.txt"], "no weight"),
        (&["--data", "a.txt=1", "--data", "b.txt=0"], "weights"),
        (&["--validation", "empty.txt"], "--data"),
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
        error.contains("nowhere does not exist") && error.contains("folder"),
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
fn other_data_than_the_models_own_has_to_be_asked_for() {
    let lab = Lab::new();
    lab.ok(
        "train",
        &["--out", "small", "--scale", "micro.toml", "--no-decay"],
    );
    fs::write(lab.path("text.txt"), "so it goes ".repeat(2000)).unwrap();
    // A model of the built-in corpus knows fewer tokens than bytes, so its own corpus of another seed would do; text does not.
    let scale = SCALE.replace("[model]", "[model]\nvocab = 300");
    fs::write(lab.path("wide.toml"), scale).unwrap();
    let text = ["--scale", "wide.toml", "--data", "text.txt"];
    lab.ok(
        "train",
        &[&text[..], &["--out", "text", "--no-decay"]].concat(),
    );
    fs::write(lab.path("other.txt"), "and so on ".repeat(2000)).unwrap();
    let on = ["--from", "text", "--out", "on", "--data", "other.txt"];
    let error = lab.fails("train", &on);
    assert!(error.contains("not trained on the data"), "{error}");
    assert!(error.contains("--other-data"), "{error}");
    lab.ok("train", &[&on[..], &["--other-data"]].concat());
}

/// Data, tokenizer, batch, schedule, seed and place in the data.
#[test]
fn a_model_is_trained_on_as_it_was_trained() {
    let lab = Lab::new();
    fs::write(lab.path("text.txt"), "so it goes ".repeat(3000)).unwrap();
    let scale = SCALE.replace("[model]", "[model]\nvocab = 300");
    fs::write(lab.path("wide.toml"), scale).unwrap();
    let flags = "--scale wide.toml --data text.txt --seed 3 --no-decay --out small";
    let flags: Vec<&str> = flags.split(' ').collect();
    lab.ok("train", &flags);
    lab.ok("upcycle", &["--from", "small", "--to", "big"]);
    lab.ok("train", &["--from", "big", "--out", "on"]);
    lab.ok("train", &["--from", "on", "--out", "further"]);
    let run = |dir: &str| -> serde_json::Value {
        let text = fs::read_to_string(lab.path(dir).join("run.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (first, on, further) = (run("small"), run("on"), run("further"));
    for field in ["batch", "balancing", "optimizer", "evaluation"] {
        assert_eq!(first["spec"][field], on["spec"][field], "{field}");
    }
    assert_eq!(first["data"], on["data"]);
    assert_eq!((&on["seed"], &further["seed"]), (&3.into(), &3.into()));
    // Both are in the same pass over the split of continued pre-training.
    let from = |run: &serde_json::Value| run["spec"]["data"]["cpt_from"].clone();
    assert_eq!((from(&on), from(&further)), (40.into(), 40.into()));

    for folder in ["small", "big"] {
        fs::remove_file(lab.path(folder).join("training.json")).unwrap();
    }
    let untold = lab.fails("train", &["--from", "big", "--out", "untold"]);
    assert!(untold.contains("--scale"), "{untold}");
}

#[test]
fn a_finished_run_gets_more_tokens_if_it_never_decayed() {
    let lab = Lab::new();
    let steps = |more: &str| {
        let flags = format!("--scale micro.toml --json {more}");
        let told = lab.ok("train", &flags.split(' ').collect::<Vec<_>>());
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["step"].as_u64().unwrap()
    };
    assert_eq!(steps("--out trunk --no-decay"), 40);
    // 80 steps of 4 times 64 tokens; the second time there is nothing to do.
    for _ in 0..2 {
        assert_eq!(steps("--out trunk --no-decay --tokens 20480"), 80);
    }
    assert_eq!(steps("--out whole"), 40);
    let more = "--scale micro.toml --out whole --tokens 20480";
    let refused = lab.fails("train", &more.split(' ').collect::<Vec<_>>());
    assert!(refused.contains("--from whole --out NEW"), "{refused}");
}

#[test]
fn a_checkpoint_is_exported_without_training() {
    let lab = Lab::new();
    lab.ok("train", &["--scale", "micro.toml", "--out", "run"]);
    let export = ["--from", "run", "--to", "out", "--type", "bf16"];
    let output = lab.run("export", &export);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("exported as"),
        "{said}"
    );
    let config = fs::read_to_string(lab.path("out/config.json")).unwrap();
    assert!(config.contains("bfloat16"), "{config}");
    assert!(lab.fails("export", &export).contains("out: exists already"));
    let again = lab.fails("export", &["--from", "out", "--to", "other"]);
    assert!(again.contains("already"), "{again}");
}

#[test]
fn runs_are_listed_and_cleaned_and_sweeps_still_grow() {
    let lab = Lab::new();
    let none = lab.fails("runs", &["nowhere"]);
    assert!(none.contains("nowhere holds no stages"), "{none}");
    let flags = |cpt: &'static str| {
        let flags = "--tokens 20k --context 16 --recipes exact --seeds 1 --name own --cpt";
        flags.split(' ').chain([cpt]).collect::<Vec<_>>()
    };
    lab.ok("sweep", &flags("0.5"));
    let usage =
        || -> serde_json::Value { serde_json::from_str(&lab.ok("runs", &["--json"])).unwrap() };
    let before = usage();
    assert_eq!(before["sweeps"][0]["name"], "own");
    let stages = before["stages"].as_array().unwrap();
    assert!(stages.iter().all(|stage| stage["state"] == "finished"));
    assert!(stages.iter().all(|stage| stage["sweeps"][0] == "own"));
    assert!(lab.ok("runs", &[]).contains("needed by"));

    let stray = lab.path("runs/stages/00000000000000000000");
    fs::create_dir(&stray).unwrap();
    let asked = lab.fails("runs", &["clean"]);
    assert!(asked.contains("--yes"), "{asked}");
    let plan = lab.ok("runs", &["clean", "--dry-run"]);
    assert!(plan.contains("checkpoints") && stray.exists(), "{plan}");
    lab.ok("runs", &["clean", "--yes"]);
    assert!(!stray.exists());
    let after = usage();
    let bytes = |usage: &serde_json::Value| -> u64 {
        let stages = usage["stages"].as_array().unwrap().iter();
        stages
            .map(|stage| stage["checkpoint_bytes"].as_u64().unwrap())
            .sum()
    };
    assert!(bytes(&after) < bytes(&before));
    let alone = ["--out", "runs/alone", "--scale", "micro.toml"];
    lab.ok("train", &alone);
    let nothing = lab.run("runs", &["clean", "--yes"]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing can be freed"));
    let listed = usage();
    let run = &listed["runs"][0];
    assert_eq!(
        (&run["name"], &run["state"]),
        (&"alone".into(), &"finished".into())
    );
    assert!(
        run["step"].is_number() && run["step"] == run["end"],
        "{run}"
    );
    let unknown = lab.fails("runs", &["clean", "--run", "nobody"]);
    assert!(unknown.contains("called nobody"), "{unknown}");
    lab.ok("runs", &["clean", "--yes", "--run", "alone"]);
    assert!(!lab.path("runs/alone").exists());

    // Nothing is lost for the sweep, and what it goes on from is computed again.
    let same = lab.ok("sweep", &[&flags("0.5")[..], &["--dry-run"]].concat());
    assert!(same.contains("nothing is left to do"), "{same}");
    let rows = results(&lab.path("runs/own"));
    lab.ok("sweep", &flags("0.5,1.0"));
    let more = results(&lab.path("runs/own"));
    assert!(
        rows.iter().all(|row| more.contains(row)),
        "{rows:?} {more:?}"
    );
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_disk_it_takes() {
    let lab = Lab::new();
    fs::write(lab.path("text.txt"), "so it goes ".repeat(2000)).unwrap();
    let flags = "--tokens 20k --context 16 --seeds 1 --data text.txt --dry-run";
    let plan = lab.ok("sweep", &flags.split(' ').collect::<Vec<_>>());
    assert!(
        plan.contains("of packed text") && plan.contains("free where"),
        "{plan}"
    );
    assert!(!lab.path("runs").exists());
}

#[test]
fn shells_and_manuals_know_the_program() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = lab.ok("completions", &[shell]);
        assert!(
            script.contains("upcycle") && script.contains("checkpoint-seconds"),
            "{shell}"
        );
    }
    lab.ok("man", &["pages"]);
    for page in [
        "burn-upcycle.1",
        "burn-upcycle-sweep.1",
        "burn-upcycle-runs-clean.1",
    ] {
        assert!(lab.path("pages").join(page).is_file(), "{page}");
    }
    let version = lab.ok("--version", &[]);
    assert!(
        version.contains("commit ") && version.contains("features cpu"),
        "{version}"
    );
    let hint = lab.fails("sweep", &["--cpt", "-1", "--tokens", "20k"]);
    assert!(hint.contains("--cpt"), "{hint}");
    let threads = lab.run(
        "train",
        &["--threads", "1", "--scale", "micro.toml", "--out", "one"],
    );
    let said = String::from_utf8_lossy(&threads.stderr).into_owned();
    assert!(
        threads.status.success() && said.contains("1 threads"),
        "{said}"
    );
}

#[cfg(unix)]
#[test]
fn a_run_that_is_interrupted_writes_a_checkpoint_and_goes_on() {
    for signal in ["-INT", "-TERM"] {
        interrupt(signal);
    }
    // Whoever ignores HUP, as under `nohup`, has programs that ignore it, too.
    let hangs_up = Command::new("sh")
        .args(["-c", "kill -HUP $$; echo ignored"])
        .output();
    if hangs_up.unwrap().stdout.is_empty() {
        interrupt("-HUP");
    }
}

#[cfg(unix)]
fn interrupt(signal: &str) {
    let lab = Lab::new();
    let args = [
        "--out",
        "run",
        "--scale",
        "micro.toml",
        "--tokens",
        "2M",
        "--ui",
        "plain",
    ];
    let mut child = lab
        .command("train", &args)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // It listens once it trains.
    lines.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("validation loss"))
    });
    let pid = child.id().to_string();
    let interrupt = Command::new("kill").args([signal, &pid]).status();
    assert!(interrupt.unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let told = rest.iter().any(|line| line.contains("with a checkpoint"));
    assert!(told, "{rest:?}");
    let checkpoints = fs::read_dir(lab.path("run/checkpoints")).unwrap();
    assert_eq!(checkpoints.count(), 1);
    let inspected = lab.ok("inspect", &["run"]);
    assert!(inspected.contains("step"), "{inspected}");
}

#[test]
fn progress_is_shown_as_asked_for() {
    let lab = Lab::new();
    let errors = |ui: &str, out: &str| {
        let args = ["--out", out, "--scale", "micro.toml", "--ui", ui];
        let output = lab.run("train", &args);
        assert!(output.status.success() || ui == "tui", "{ui}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(errors("plain", "a").contains("validation loss"));
    assert!(!errors("none", "b").contains("step 10"));
    let tui = errors("tui", "c");
    #[cfg(not(feature = "tui"))]
    assert!(tui.contains("--features tui"), "{tui}");
    #[cfg(feature = "tui")]
    assert!(tui.contains("needs a terminal"), "{tui}");
}

#[test]
fn a_run_leaves_its_curve_as_a_table_and_for_tensorboard() {
    let lab = Lab::new();
    let event_files = |out: &str| {
        let entries = fs::read_dir(lab.path(out)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains("tfevents"))
            .count()
    };
    let args = ["--scale", "micro.toml", "--ui", "plain", "--log-every"];
    let output = lab.run("train", &[&args[..], &["20", "--out", "a"]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    let lines = told.lines().filter(|line| line.contains(" of 40  loss "));
    assert_eq!(lines.count(), 2, "{told}");
    let curve = fs::read_to_string(lab.path("a/curve.csv")).unwrap();
    assert!(curve.starts_with("step,tokens,loss,validation_loss,"));
    assert_eq!(curve.lines().count(), 41);
    assert_eq!(event_files("a"), 1);

    let off = ["20", "--out", "b", "--no-tensorboard"];
    lab.ok("train", &[&args[..], &off].concat());
    assert_eq!(event_files("b"), 0);
    let none = lab.fails("train", &[&args[..], &["0", "--out", "c"]].concat());
    assert!(none.contains("--log-every"), "{none}");
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

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/hf/tests/fixtures");
    fixtures.join(name)
}

impl Lab {
    /// Whether some file below a folder holds weights.
    fn has_weights(&self, folder: &str) -> bool {
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|it| it == "safetensors") {
                    return true;
                }
            }
        }
        false
    }

    /// A fixture of transformers with a tokenizer of letters, and a text for it.
    fn hugging_face(&self, name: &str) {
        let dir = self.path("hf");
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "expected.safetensors" {
                fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
            }
        }
        let vocab: serde_json::Map<_, _> = "?abcdefghijklmnopqrstuvwxyz ."
            .chars()
            .enumerate()
            .map(|(id, letter)| (letter.to_string(), id.into()))
            .collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false
            },
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}
        });
        fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let text = "the cat sat on the mat. ".repeat(500);
        fs::write(self.path("text.txt"), text).unwrap();
    }
}

#[test]
fn a_checkpoint_of_transformers_is_grown_and_verified() {
    let lab = Lab::new();
    lab.hugging_face("mixtral");
    let grow = [
        "--from", "hf", "--to", "big", "--json", "--verify", "--data", "text.txt",
    ];
    // As many experts a token as twins: the same function.
    let copies = ["--router", "copy", "--top-k", "4"];
    let grown = lab.ok("upcycle", &[&grow[..], &copies].concat());
    let grown: serde_json::Value = serde_json::from_str(&grown).unwrap();
    assert_eq!(grown["experts"], serde_json::json!([6, 12]));
    assert_eq!(grown["family"], "Mixtral");
    assert!(grown["forecast"]["gate_change"].as_f64().unwrap() < 1e-6);
    let verified = &grown["verification"];
    assert!(verified["relative_logit_difference"].as_f64().unwrap() < 1e-5);
    assert!(lab.path("big/tokenizer.json").is_file());
    let shown = lab.ok("inspect", &["big", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["experts"], &shown["top_k"]),
        (&12.into(), &4.into())
    );
    assert!(shown["routers"][0][1]["largest_cosine"].as_f64().unwrap() > 0.999_999);
    assert!(lab.ok("inspect", &["hf"]).contains("Mixtral"));

    let dry = lab.ok("upcycle", &["--from", "hf", "--dry-run", "--experts", "9"]);
    assert!(
        dry.contains("6 -> 9 experts") && dry.contains("would write"),
        "{dry}"
    );
    assert!(lab.fails("upcycle", &grow).contains("big: exists already"));

    // Nobody reads what it prints; it is done all the same.
    let mut unread = lab
        .command("upcycle", &["--from", "hf", "--to", "unread"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(unread.stdout.take());
    assert!(unread.wait().unwrap().success());
    assert!(lab.path("unread/config.json").is_file());
    let exact = lab.fails(
        "upcycle",
        &["--from", "hf", "--dry-run", "--recipe", "exact"],
    );
    assert!(
        exact.contains("two-level") && exact.contains("hyperplane"),
        "{exact}"
    );
    fs::write(
        lab.path("scores.json"),
        r#"{"score": "load", "layers": [[1, NaN]]}"#,
    )
    .unwrap();
    let nan = [
        "--from",
        "hf",
        "--dry-run",
        "--selection",
        "greedy:score=load",
        "--scores",
        "scores.json",
    ];
    assert!(
        lab.fails("upcycle", &nan)
            .contains("scores.json is no file of scores")
    );
    fs::write(lab.path("hf/config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let unknown = lab.fails("upcycle", &["--from", "hf", "--dry-run"]);
    assert!(
        unknown.contains("gpt2") && unknown.contains("olmoe"),
        "{unknown}"
    );
}

#[test]
fn a_checkpoint_of_transformers_is_trained_on_and_exported() {
    let lab = Lab::new();
    lab.hugging_face("olmoe");
    let train = [
        "--init",
        "hf",
        "--data",
        "text.txt",
        "--context",
        "32",
        "--tokens",
        "10k",
        "--scale",
        "micro.toml",
    ];
    let export = [
        "--out",
        "run",
        "--export",
        "out",
        "--shard-size",
        "100k",
        "--json",
    ];
    let trained = lab.ok("train", &[&train[..], &export].concat());
    let trained: serde_json::Value = serde_json::from_str(&trained).unwrap();
    let before = lab.ok(
        "upcycle",
        &[
            "--from", "hf", "--to", "twins", "--json", "--verify", "--data", "text.txt",
        ],
    );
    let before: serde_json::Value = serde_json::from_str(&before).unwrap();
    let loss = |value: &serde_json::Value| value.as_f64().unwrap();
    assert!(
        loss(&trained["evaluation"]["loss"]) < loss(&before["verification"]["loss_before"]) - 0.1
    );
    for file in [
        "config.json",
        "tokenizer.json",
        "generation_config.json",
        "model.safetensors.index.json",
    ] {
        assert!(lab.path("out").join(file).is_file(), "{file}");
    }
    assert!(lab.ok("inspect", &["out"]).contains("OLMoE"));

    // The export is grown, imported and trained like the original.
    lab.ok("upcycle", &["--from", "out", "--to", "grown"]);
    let on = [
        "--init",
        "grown",
        "--data",
        "text.txt",
        "--context",
        "32",
        "--tokens",
        "1k",
        "--out",
        "on",
    ];
    lab.ok("train", &on);

    // Through a checkpoint of this program, with the original's configuration.
    let text = ["--data", "text.txt", "--tokenizer", "hf/tokenizer.json"];
    lab.ok(
        "upcycle",
        &[
            &["--from", "run", "--to", "ours", "--recipe", "hyperplane"],
            &text[..],
        ]
        .concat(),
    );
    let like = [
        "--export",
        "like",
        "--export-like",
        "hf",
        "--auxiliary-loss",
        "0.01",
    ];
    let on = ["--from", "ours", "--tokens", "1k", "--out", "ours-on"];
    lab.ok("train", &[&on[..], &text, &like].concat());
    let config = |dir: &str| -> serde_json::Value {
        let text = fs::read_to_string(lab.path(dir).join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (ours, theirs) = (config("like"), config("hf"));
    for field in ["max_position_embeddings", "eos_token_id", "hidden_size"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
    assert_eq!(ours["num_experts"], 12);
    assert!(lab.path("like/generation_config.json").is_file());

    let there = lab.fails(
        "train",
        &[&train[..], &["--out", "other", "--export", "out"]].concat(),
    );
    assert!(there.contains("out: exists already"), "{there}");
    let ours = lab.fails(
        "train",
        &["--init", "run/checkpoints/step-00000078", "--out", "other"],
    );
    assert!(
        ours.contains("--from") || ours.contains("config.json"),
        "{ours}"
    );
    let softmax = SCALE.replace("[model]", "[model]\nscore = \"softmax\"");
    fs::write(lab.path("softmax.toml"), &softmax).unwrap();
    let biased = [
        "--scale",
        "softmax.toml",
        "--out",
        "other",
        "--export",
        "new",
    ];
    let biased = lab.fails("train", &biased);
    assert!(
        biased.contains("MixtralForCausalLM") && biased.contains("--auxiliary-loss"),
        "{biased}"
    );
    let bf16 = [
        "--scale",
        "micro.toml",
        "--out",
        "other",
        "--precision",
        "bf16",
    ];
    assert!(
        lab.fails("train", &[&bf16[..], &["--backend", "cpu"]].concat())
            .contains("bf16 on a CPU")
    );
    let gated = softmax.replace("[model]", "[model]\nrotary_share = 0.5");
    fs::write(lab.path("gated.toml"), gated).unwrap();
    let gated = ["--scale", "gated.toml", "--out", "other", "--export", "new"];
    let gated = lab.fails("train", &gated);
    assert!(gated.contains("see `rotary_share`"), "{gated}");
    assert!(!lab.path("other").exists() && !lab.path("new").exists());
    let flag = lab.fails(
        "upcycle",
        &["--from", "run", "--to", "x", "--shard-size", "5GB"],
    );
    assert!(
        flag.contains("--shard-size is for Hugging Face checkpoints"),
        "{flag}"
    );
}

/// Selection biases, groups of experts, shared experts, a dense layer, biases in attention, norms of queries and keys, and
/// half of a head turned: GLM-4.5's, trained by loss-free balancing, grown here and there.
#[test]
fn a_model_with_groups_and_shared_experts_is_trained_grown_and_exported() {
    let lab = Lab::new();
    lab.hugging_face("glm4_moe");
    let verified = lab.ok(
        "upcycle",
        &["--from", "hf", "--to", "twins", "--json", "--verify"],
    );
    let verified: serde_json::Value = serde_json::from_str(&verified).unwrap();
    let verification = &verified["verification"];
    let difference = verification["relative_logit_difference"].as_f64().unwrap();
    assert!(difference < 1e-5, "dormant replicas: {difference}");
    assert_eq!(verification["layers"][0]["changed_sources"], 0.0);

    let text = ["--data", "text.txt", "--context", "32"];
    let init = [
        "--init",
        "hf",
        "--tokens",
        "4k",
        "--out",
        "run",
        "--scale",
        "micro.toml",
    ];
    lab.ok("train", &[&init[..], &text].concat());
    let tokenizer = ["--data", "text.txt", "--tokenizer", "hf/tokenizer.json"];
    let released = ["--recipe", "released"];
    let grow = ["--from", "run", "--to", "grown", "--json"];
    let grown = lab.ok("upcycle", &[&grow[..], &released, &tokenizer].concat());
    let grown: serde_json::Value = serde_json::from_str(&grown).unwrap();
    let difference = grown["verification"]["relative_logit_difference"].as_f64();
    assert!(difference.unwrap() < 1e-5, "{difference:?}");
    let on = ["--from", "grown", "--tokens", "4k", "--out", "on"];
    let export = ["--export", "out", "--export-like", "hf"];
    lab.ok("train", &[&on[..], &tokenizer, &export].concat());
    let config = fs::read_to_string(lab.path("out/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["n_routed_experts"], 16);
    assert_eq!(
        (&config["n_group"], &config["n_shared_experts"]),
        (&4.into(), &2.into())
    );

    // A model of this program's own kind finds a family, which has a shared expert in addition.
    let own = [
        "--scale",
        "micro.toml",
        "--out",
        "own",
        "--export",
        "new",
        "--tokens",
        "1k",
    ];
    let said = lab.run("train", &own);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.contains("Glm4MoeForCausalLM") && said.contains("as zeros"),
        "{said}"
    );
    lab.ok(
        "upcycle",
        &["--from", "new", "--to", "new-grown", "--verify"],
    );
}

#[test]
fn a_model_of_text_is_asked_for_more() {
    let lab = Lab::new();
    fs::write(
        lab.path("text.txt"),
        "so it goes, and on it went. ".repeat(900),
    )
    .unwrap();
    let train = ["--scale", "micro.toml", "--data", "text.txt", "--no-decay"];
    let trained = |out: &str, flags: &[&str]| {
        let output = lab.run("train", &[&train[..], &["--out", out], flags].concat());
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let told = trained("text", &["--sample", "so it"]);
    assert!(told.contains("sample: \"so it\" "), "{told}");
    assert!(trained("a", &[]).contains("sample: "));
    assert!(!trained("b", &["--no-sample"]).contains("sample: "));
    assert!(!trained("c", &["--json"]).contains("sample: "));

    let from = ["--from", "text", "--prompt", "so it", "--max-tokens", "30"];
    let generate = |flags: &str| {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        lab.ok("generate", &[&from[..], &flags].concat())
    };
    let text = generate("--seed 1 --temperature 1.5");
    assert_eq!(generate("--seed 1 --temperature 1.5"), text);
    assert_ne!(generate("--seed 2 --temperature 1.5"), text);
    let greedy = generate("--greedy");
    assert_eq!(generate("--top-k 1 --seed 5"), greedy);
    assert_eq!(generate("--temperature 0"), greedy);
    assert_eq!(generate("--top-p 1e-6 --seed 5"), greedy);

    let json = |flags: &str| -> serde_json::Value {
        serde_json::from_str(&generate(&format!("--json {flags}"))).unwrap()
    };
    let two = json("--seed 1 --temperature 1.5 --samples 2 --show-routing");
    assert_eq!(two["prompt"], "so it");
    assert_eq!(two["prompt_ids"], serde_json::json!(b"so it"));
    let samples = two["samples"].as_array().unwrap();
    assert_eq!(format!("{}\n", samples[0]["text"].as_str().unwrap()), text);
    assert_ne!(samples[0]["ids"], samples[1]["ids"]);
    for sample in samples {
        let routing = sample["routing"].as_array().unwrap();
        assert_eq!(routing.len(), sample["ids"].as_array().unwrap().len());
        let layer = &routing[0][0];
        assert_eq!(layer["experts"].as_array().unwrap().len(), 2);
        assert!(layer["sources"].is_null());
    }
    let shown = generate("--show-routing --greedy");
    assert!(shown.lines().all(|line| line.contains("  0: ")), "{shown}");

    // A prompt by file and by standard input; a line break at its end is none of it.
    fs::write(lab.path("prompt.txt"), "so it\n").unwrap();
    let file = ["--from", "text", "--prompt-file", "prompt.txt"];
    let by_file = lab.ok(
        "generate",
        &[&file[..], &["--max-tokens", "30", "--greedy"]].concat(),
    );
    assert_eq!(by_file, greedy);
    let mut child = lab
        .command(
            "generate",
            &["--from", "text", "--max-tokens", "30", "--greedy"],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"so it\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), greedy);

    // Until the context is full.
    let most = ["--greedy", "--max-tokens", "1000"];
    let output = lab.run("generate", &[&from[..4], &most].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("context of 64 tokens is full"), "{errors}");

    // Experts of a grown model have sources.
    lab.ok(
        "upcycle",
        &[
            "--from", "text", "--to", "big", "--recipe", "exact", "--data", "text.txt",
        ],
    );
    let grown = [
        "--from",
        "big",
        "--prompt",
        "so it",
        "--show-routing",
        "--json",
    ];
    let grown: serde_json::Value = serde_json::from_str(&lab.ok("generate", &grown)).unwrap();
    let layer = &grown["samples"][0]["routing"][0][0];
    let numbers = |field: &str| -> Vec<u64> {
        let numbers = layer[field].as_array().unwrap().iter();
        numbers.map(|number| number.as_u64().unwrap()).collect()
    };
    assert!(numbers("experts").iter().all(|&expert| expert < 8));
    assert!(numbers("sources").iter().all(|&source| source < 4));
}

#[test]
fn prompts_that_cannot_be_continued_are_named() {
    let lab = Lab::new();
    let train = ["--scale", "micro.toml", "--tokens", "1k"];
    lab.ok("train", &[&train[..], &["--out", "ids"]].concat());
    let ids = [
        "--from",
        "ids",
        "--prompt-ids",
        "1,2,3",
        "--max-tokens",
        "5",
    ];
    let answer = lab.ok("generate", &ids);
    let answer: Vec<u32> = answer
        .split(' ')
        .map(|id| id.trim().parse().unwrap())
        .collect();
    assert!(
        answer.len() == 5 && answer.iter().all(|&id| id < 144),
        "{answer:?}"
    );

    fs::write(lab.path("text.txt"), "so it goes ".repeat(2000)).unwrap();
    let text = ["--data", "text.txt", "--out", "text", "--no-sample"];
    lab.ok("train", &[&train[..], &text].concat());
    lab.hugging_face("olmoe");
    let hf = [
        "--from",
        "hf",
        "--prompt",
        "the cat",
        "--json",
        "--max-tokens",
        "3",
    ];
    let answer: serde_json::Value = serde_json::from_str(&lab.ok("generate", &hf)).unwrap();
    assert_eq!(answer["prompt_ids"].as_array().unwrap().len(), 7);
    fs::remove_file(lab.path("hf/tokenizer.json")).unwrap();

    let long = "a".repeat(64);
    let prompt = ["--from", "text", "--prompt", "so"];
    for (args, expected) in [
        (vec!["--from", "text"], "the prompt is empty"),
        (
            vec!["--from", "text", "--prompt", ""],
            "the prompt is empty",
        ),
        (
            vec!["--from", "text", "--prompt", long.as_str()],
            "context of 64",
        ),
        (
            vec!["--from", "text", "--prompt-file", "nowhere.txt"],
            "nowhere.txt",
        ),
        (
            vec!["--from", "text", "--prompt-ids", "1,300"],
            "token 300 of the prompt is none of the model's 257",
        ),
        (
            [&prompt[..], &["--temperature", "-1"]].concat(),
            "--temperature",
        ),
        ([&prompt[..], &["--top-p", "0"]].concat(), "--top-p"),
        ([&prompt[..], &["--top-p", "1.5"]].concat(), "at most 1"),
        (
            [&prompt[..], &["--max-tokens", "0"]].concat(),
            "--max-tokens",
        ),
        (
            [&prompt[..], &["--greedy", "--top-k", "3"]].concat(),
            "cannot be used with",
        ),
        (
            [&prompt[..], &["--tokenizer", "nowhere.json"]].concat(),
            "nowhere.json",
        ),
        (
            vec!["--from", "nowhere", "--prompt", "so"],
            "nowhere does not exist",
        ),
        (
            vec!["--from", "ids", "--prompt", "so"],
            "--prompt-ids 1,2,3",
        ),
        (vec!["--from", "hf", "--prompt", "so"], "no tokenizer.json"),
    ] {
        let error = lab.fails("generate", &args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

/// The commit of all that is served.
const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// Serves the files of `dir` as those of a model and of a data set `org/tiny`, as the hub does, on this machine, until the process
/// ends.
fn serve(dir: PathBuf) -> String {
    serve_counted(dir, true).0
}

/// The same, with or without parts of files, and how many bytes were sent.
fn serve_counted(dir: PathBuf, parts: bool) -> (String, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (dir, count) = (dir.clone(), count.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &dir, parts, &count));
        }
    });
    (address, sent)
}

/// Names of all files in a folder and the folders in it.
fn names_below(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            match entry.path().is_dir() {
                true => (names_below(&entry.path()).into_iter())
                    .map(|below| format!("{name}/{below}"))
                    .collect(),
                false => vec![name],
            }
        })
        .collect()
}

fn answer(mut stream: std::net::TcpStream, dir: &Path, parts: bool, sent: &AtomicUsize) {
    let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = request.next().unwrap().unwrap();
    let headers: Vec<String> = request
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let (status, more, body) = if path.ends_with("/org/tiny/revision/main") {
        let names = names_below(dir);
        let files: Vec<_> = (names.iter())
            .map(|name| serde_json::json!({"rfilename": name}))
            .collect();
        let info = serde_json::json!({"sha": COMMIT, "siblings": files});
        ("200 OK", String::new(), info.to_string().into_bytes())
    } else if let Some((_, name)) = path.split_once(&format!("/org/tiny/resolve/{COMMIT}/")) {
        let all = fs::read(dir.join(name)).unwrap();
        let range = headers.iter().find_map(|line| {
            let (start, end) = line
                .to_lowercase()
                .strip_prefix("range: bytes=")?
                .split_once('-')
                .map(|(a, b)| {
                    (
                        a.parse::<usize>().unwrap(),
                        b.parse::<usize>().unwrap_or(usize::MAX),
                    )
                })?;
            Some((start, end.min(all.len() - 1)))
        });
        let (start, end) = range.unwrap_or((0, all.len() - 1));
        let more = format!(
            "content-range: bytes {start}-{end}/{}\r\nx-repo-commit: {COMMIT}\r\netag: \"{}\"\r\n",
            all.len(),
            name.replace('/', "-")
        );
        // The client that downloads whole files asks for their first byte to learn how long they are.
        match parts || end == 0 || !name.ends_with(".safetensors") {
            true => ("206 Partial Content", more, all[start..=end].to_vec()),
            false => ("200 OK", String::new(), all),
        }
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    sent.fetch_add(body.len(), Ordering::Relaxed);
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

#[test]
fn a_model_of_the_hub_is_looked_at_and_grown_without_a_download() {
    let lab = Lab::new();
    lab.hugging_face("olmoe");
    let run = |bin: &str, args: &[&str], endpoint: &str, cache: &str| {
        let mut command = lab.command(bin, args);
        command.env("HF_ENDPOINT", endpoint);
        command.env("HF_HOME", lab.path(cache));
        command.output().unwrap()
    };
    let weights: u64 = fs::read_dir(lab.path("hf"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("safetensors"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    let (address, sent) = serve_counted(lab.path("hf"), true);
    for (bin, args) in [
        ("inspect", &["hf:org/tiny"][..]),
        ("upcycle", &["--from", "hf:org/tiny", "--dry-run"][..]),
    ] {
        let output = run(bin, args, &address, "cache");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(!lab.has_weights("cache"));
    }
    // Headers and routers, several times; the experts of this tiny model are not much more.
    assert!(sent.load(Ordering::Relaxed) < 6 * weights as usize);

    let to = ["--from", "hf:org/tiny", "--to", "big", "--stream", "--json"];
    let output = run("upcycle", &to, &address, "cache");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!lab.has_weights("cache"));
    lab.ok("upcycle", &["--from", "hf", "--to", "local", "--json"]);
    let shard = |dir: &str| fs::read(lab.path(dir).join("model.safetensors")).unwrap();
    assert_eq!(shard("big"), shard("local"));

    // Weights of multi-token prediction beside the index would stay behind.
    let sidecar = lab.path("hf/mtp.safetensors");
    fs::copy(lab.path("hf/model-00001-of-00004.safetensors"), &sidecar).unwrap();
    for args in [
        &["--from", "hf:org/tiny", "--to", "beside", "--stream"][..],
        &["--from", "hf:org/tiny", "--to", "beside"],
    ] {
        let output = run("upcycle", args, &address, "beside-cache");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(errors.contains("--without-index"), "{errors}");
    }
    fs::remove_file(sidecar).unwrap();

    let (address, _) = serve_counted(lab.path("hf"), false);
    let output = run("inspect", &["hf:org/tiny"], &address, "other");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("does not give parts of"), "{errors}");
}

#[test]
fn a_model_of_the_hub_is_downloaded_once() {
    let lab = Lab::new();
    lab.hugging_face("olmoe");
    let address = serve(lab.path("hf"));
    let run = |args: &[&str], endpoint: &str| {
        let mut command = lab.command("upcycle", args);
        command
            .env("HF_ENDPOINT", endpoint)
            .env("HF_HOME", lab.path("cache"));
        command.output().unwrap()
    };
    let to = ["--from", "hf:org/tiny", "--to", "big", "--json"];
    let output = run(&to, &address);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let files = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(lab.path(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.retain(|name| !name.to_string_lossy().ends_with("safetensors"));
        names.sort();
        names
    };
    // One shard in place of four has no index.
    let mut expected = files("hf");
    expected.retain(|name| name != "model.safetensors.index.json");
    expected.push("upcycle.json".into());
    assert_eq!(files("big"), expected);
    // Without the hub, what is in the cache.
    let offline = run(
        &["--from", "hf:org/tiny", "--dry-run"],
        "http://127.0.0.1:9",
    );
    assert!(offline.status.success());
    let absent = run(&["--from", "hf:org/absent", "--dry-run"], &address);
    let errors = String::from_utf8_lossy(&absent.stderr);
    assert_eq!(absent.status.code(), Some(2));
    assert!(
        errors.contains("hf:org/absent cannot be downloaded"),
        "{errors}"
    );
}

#[test]
fn a_data_set_of_the_hub_is_downloaded_as_far_as_needed() {
    let lab = Lab::new();
    for (folder, files) in [("en", 4), ("fr", 1)] {
        fs::create_dir_all(lab.path("hub").join(folder)).unwrap();
        for file in 0..files {
            let documents = (0..300).map(|document| {
                let text = format!("le chat {file} {document} ").repeat(100);
                format!("{{\"body\": \"{}\"}}\n", &text[..1000])
            });
            let name = format!("hub/{folder}/train-{file:05}-of-{files:05}.jsonl");
            fs::write(lab.path(&name), documents.collect::<String>()).unwrap();
        }
    }
    let server = serve(lab.path("hub"));
    let address = server.as_str();
    let nowhere = "http://127.0.0.1:9";
    let run = |command: &str, args: &str, endpoint: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        let mut command = lab.command(command, &args);
        command.env("HF_ENDPOINT", endpoint);
        command.env("HF_HOME", lab.path("cache"));
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    let train = "--scale micro.toml --data hf:org/tiny:en --text-column body --out small";
    let (code, told) = run("train", train, address);
    assert_eq!(code, Some(0), "{told}");
    let download = format!("downloading file 2 of 4 of hf:org/tiny@{COMMIT}:en/train");
    for part in [&*download, "2 of 4 files are held"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let folder = lab.path("cache/hub/datasets--org--tiny/snapshots");
    let mut there = names_below(&folder.join(COMMIT));
    there.sort();
    let expected = [0, 1].map(|file| format!("en/train-{file:05}-of-00004.jsonl"));
    assert_eq!(there, expected);

    // Without the hub, what is in the cache; a checkpoint knows the commit of its data and how much of them it saw.
    fs::write(lab.path("own.txt"), "le petit chat dort ".repeat(600)).unwrap();
    for (command, args, part) in [
        ("train", train, "finished already"),
        ("upcycle", "--from small --dry-run", "2 of 4 files are held"),
        (
            "sweep",
            "--scales micro.toml --data hf:org/tiny:en=0.5 --data own.txt=0.5 --text-column body --dry-run",
            "50.00 % of the tokens are from hf:org/tiny@",
        ),
    ] {
        let (code, told) = run(command, args, nowhere);
        assert_eq!(code, Some(0), "{command}: {told}");
        assert!(told.contains(part), "no {part:?} in {told}");
    }

    for (data, endpoint, expected) in [
        (
            "hf:org/tiny",
            address,
            "en, fr: choose one, as in hf:org/tiny:en",
        ),
        ("hf:org/tiny:en/test", address, "it has train: choose one"),
        (
            "hf:org/absent",
            address,
            "no data set org/absent on the hub",
        ),
        ("hf:org/absent", nowhere, "check the network"),
        ("hf:org/tiny:fr", nowhere, "check the network"),
        ("hf:tiny", nowhere, "should be hf:ORG/NAME"),
    ] {
        let args = format!("--scale micro.toml --text-column body --out wrong --data {data}");
        let (code, told) = run("train", &args, endpoint);
        assert_eq!(code, Some(2), "{data}: {told}");
        assert!(told.contains(expected), "no {expected:?} in {told}");
        assert!(!lab.path("wrong").exists());
    }
}

#[test]
#[ignore = "needs a small file system: SMALL_DISK=DIR, such as a tmpfs of 256 KiB; see .ci/run"]
fn a_full_disk_leaves_no_checkpoint() {
    let small = PathBuf::from(std::env::var_os("SMALL_DISK").expect("SMALL_DISK is a folder"));
    let to = small.join("big");
    let lab = Lab::new();
    lab.hugging_face("mixtral");
    let grow = [
        "--from",
        "hf",
        "--to",
        to.to_str().unwrap(),
        "--shard-size",
        "50k",
    ];
    let refused = lab.fails("upcycle", &grow);
    assert!(refused.contains("GB free"), "{refused}");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    let full = lab.fails("upcycle", &[&grow[..], &["--force"]].concat());
    assert!(
        full.contains("model-0000") && full.contains("No space left"),
        "{full}"
    );
    assert!(!to.exists());

    // With room it goes on where it stopped.
    let there = small.join("big.partial");
    let moved = lab.path("big.partial");
    fs::create_dir(&moved).unwrap();
    for entry in fs::read_dir(&there).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), moved.join(entry.file_name())).unwrap();
    }
    fs::remove_dir_all(there).unwrap();
    let resume = [
        "--from",
        "hf",
        "--to",
        "big",
        "--shard-size",
        "50k",
        "--resume",
        "--json",
    ];
    let resumed: serde_json::Value = serde_json::from_str(&lab.ok("upcycle", &resume)).unwrap();
    assert!(resumed["output"]["resumed"].as_u64().unwrap() > 0);
}

/// Names of all sweeps.
fn sweeps(lab: &Lab) -> Vec<String> {
    let list: serde_json::Value =
        serde_json::from_str(&lab.ok("sweep", &["--list", "--json"])).unwrap();
    let sweeps = list["sweeps"].as_array().unwrap().iter();
    let names: Vec<String> = sweeps
        .map(|sweep| sweep["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 12, "{names:?}");
    names
}

#[test]
fn every_sweep_is_planned() {
    let lab = Lab::new();
    for name in sweeps(&lab) {
        let flags = ["--config", &name, "--scale", "tiny", "--seeds", "1"];
        let plan = lab.ok("sweep", &[&flags[..], &["--dry-run", "--json"]].concat());
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        assert!(plan["seconds"].as_f64().unwrap() > 0.0, "{name}");
        assert!(!plan["prices"].as_array().unwrap().is_empty(), "{name}");
    }
    let unknown = lab.fails("sweep", &["--config", "table99"]);
    assert!(
        unknown.contains("table99") && unknown.contains("table2b"),
        "{unknown}"
    );
}

#[test]
#[ignore = "some minutes: a thousand short stages"]
fn every_sweep_makes_a_report() {
    let lab = Lab::new();
    for name in &sweeps(&lab) {
        // A few steps of the real thing; `transitions` need some to tell apart.
        let flags = ["--config", name, "--scale", "tiny", "--seeds", "1"];
        let short = ["--tokens", "24k", "--context", "16", "--name", name];
        let table = lab.ok("sweep", &[&flags[..], &short].concat());
        assert!(table.contains("eta"), "{name}: {table}");
        let page = fs::read_to_string(lab.path(&format!("runs/{name}/report.html"))).unwrap();
        assert!(page.contains("id=\"claims\""), "{name}");
    }
}

#[test]
fn a_recipe_is_what_it_says_and_not_its_name() {
    let lab = Lab::new();
    let write = |name: &str, strength: &str| {
        let recipe = format!(
            "name = \"{name}\"\n[router]\nkind = \"hyperplane\"\nstrength = {strength}\n[selection]\nkind = \"uniform\"\n[optimizer]\nkind = \"reset\"\n"
        );
        fs::write(lab.path(&format!("{name}-{strength}.toml")), recipe).unwrap();
    };
    for (name, strength) in [("mine", "0.1"), ("mine", "0.2"), ("exact", "0.1")] {
        write(name, strength);
    }
    let flags = "--tokens 20k --context 16 --cpt 1.0 --seeds 1 --name own";
    let flags: Vec<&str> = flags.split(' ').collect();
    let with = |recipes| [&flags[..], &["--recipes", recipes]].concat();
    let same = lab.fails("sweep", &with("mine-0.1.toml,mine-0.2.toml"));
    assert!(same.contains("both have the name `mine`"), "{same}");
    let built_in = lab.fails("sweep", &with("exact-0.1.toml"));
    assert!(
        built_in.contains("`exact` of a built-in recipe"),
        "{built_in}"
    );
    lab.ok("sweep", &with("mine-0.1.toml"));
    // The file says something else now.
    write("mine", "0.3");
    fs::rename(lab.path("mine-0.3.toml"), lab.path("mine-0.1.toml")).unwrap();
    let changed = lab.fails("sweep", &with("mine-0.1.toml"));
    assert!(
        changed.contains("recipe `mine` says something else"),
        "{changed}"
    );
}

#[test]
fn a_sweep_gets_more_seeds_and_budgets_in_place_and_nothing_else() {
    let lab = Lab::new();
    let flags = |more: &'static str| {
        let same = "--tokens 20k --context 16 --recipes exact --name own";
        same.split(' ').chain(more.split(' ')).collect::<Vec<_>>()
    };
    lab.ok("sweep", &flags("--cpt 1.0 --seeds 1"));
    let table = lab.ok("sweep", &flags("--cpt 0.5,1.0 --seeds 2"));
    assert!(table.contains("50%") && table.contains("100%"), "{table}");
    for (less, problem) in [
        ("--cpt 1.0 --seeds 2", "cpt was [0.5, 1.0], now [1.0]"),
        ("--cpt 0.5,1.0 --seeds 1", "seeds was 2, now 1"),
        ("--cpt 0.5,1.0 --seeds 2 --first-seed 7", "first_seed was"),
        (
            "--cpt 0.5,1.0 --seeds 2 --peak-lr 0.01",
            "peak_lr was the default, now 0.01",
        ),
    ] {
        let refused = lab.fails("sweep", &flags(less));
        assert!(refused.contains("holds another sweep"), "{refused}");
        assert!(refused.contains(problem), "{refused}");
    }
    // Its own file starts it again.
    let again = lab.ok("sweep", &["--config", "runs/own/sweep.toml", "--dry-run"]);
    assert!(again.contains("nothing is left to do"), "{again}");
}

#[test]
fn a_sweep_is_joined_stage_by_stage() {
    let lab = Lab::new();
    let flags = "--tokens 20k --context 16 --cpt 1.0 --recipes exact --seeds 1 --name small";
    let flags: Vec<&str> = flags.split(' ').collect();
    let none = lab.fails("sweep", &["status", "runs/small"]);
    assert!(none.contains("sweep.toml"), "{none}");
    lab.ok("sweep", &flags);
    let status = |lab: &Lab| -> serde_json::Value {
        serde_json::from_str(&lab.ok("sweep", &["status", "runs/small", "--json"])).unwrap()
    };
    let before = status(&lab);
    let stages = before["stages"].as_array().unwrap();
    assert_eq!(before["finished"], stages.len());

    // The last stage is lost, and computed again by itself, as a job of a cluster does it.
    let last = stages.last().unwrap()["key"].as_str().unwrap();
    let folder = lab.path(&format!("runs/stages/{last}"));
    let result = fs::read_to_string(folder.join("result.json")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(status(&lab)["finished"], stages.len() - 1);
    let unknown = lab.fails("sweep", &["stage", "runs/small", "zzz"]);
    assert!(unknown.contains("zzz"), "{unknown}");
    lab.ok("sweep", &["stage", "runs/small", last]);
    assert_eq!(status(&lab), before);
    let again = fs::read_to_string(folder.join("result.json")).unwrap();
    let untimed = |text: &str| {
        let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
        json["train_seconds"] = 0.into();
        json
    };
    assert_eq!(untimed(&result), untimed(&again));
}

#[test]
fn launchers_and_devices_that_are_not_there_are_errors() {
    let lab = Lab::new();
    let auto = lab.fails("sweep", &["--launcher", "slurm"]);
    assert!(auto.contains("--backend cuda"), "{auto}");
    let mut command = lab.command("sweep", &["--launcher", "slurm", "--backend", "cpu"]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("squeue"), "{told}");
    let devices = lab.fails("sweep", &["--devices", "2"]);
    assert!(devices.contains("`cuda` is not compiled in"), "{devices}");
    let memory = ["--memory", "10MB", "--jobs", "1"];
    let memory = lab.fails("sweep", &memory);
    assert!(
        memory.contains("stage tiny/") && memory.contains("9.5 MiB"),
        "{memory}"
    );
}
