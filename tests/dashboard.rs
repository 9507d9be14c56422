//! The dashboard in a pseudo-terminal: its keys end a run as Ctrl-C does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{CommandBuilder, ExitStatus, PtySize, native_pty_system};

const SCALE: &str = include_str!("micro.toml");

const PATIENCE: Duration = Duration::from_secs(120);

/// Trains a micro model on the dashboard, see [`run`].
fn train(dir: &Path, tokens: &str, keys: &[&str]) -> (ExitStatus, String) {
    let args = [
        "--out",
        "run",
        "--scale",
        "micro.toml",
        "--tokens",
        tokens,
        "--ui",
        "tui",
    ];
    run(dir, "train", &args, keys)
}

/// Runs a command in a terminal of its own, presses keys once it shows steps, and gives its exit status and all that it
/// wrote.
fn run(dir: &Path, name: &str, args: &[&str], keys: &[&str]) -> (ExitStatus, String) {
    fs::write(dir.join("micro.toml"), SCALE).unwrap();
    let size = PtySize {
        rows: 40,
        cols: 120,
        ..PtySize::default()
    };
    let pair = native_pty_system().openpty(size).unwrap();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_burn-upcycle"));
    command.arg(name);
    command.args(args);
    command.cwd(dir);
    command.env("TERM", "xterm");
    let mut child = pair.slave.spawn_command(command).unwrap();
    drop(pair.slave);
    let screen = Arc::new(Mutex::new(Vec::new()));
    let mut reader = pair.master.try_clone_reader().unwrap();
    let copy = Arc::clone(&screen);
    let reading = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            copy.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
    let text = || String::from_utf8_lossy(&screen.lock().unwrap()).into_owned();
    let begun = Instant::now();
    let mut writer = pair.master.take_writer().unwrap();
    while !text().contains("Tokens/s") {
        assert!(begun.elapsed() < PATIENCE, "{}", text());
        thread::sleep(Duration::from_millis(50));
    }
    for key in keys {
        thread::sleep(Duration::from_millis(500));
        writer.write_all(key.as_bytes()).unwrap();
    }
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", text());
        thread::sleep(Duration::from_millis(50));
    };
    drop((writer, pair.master));
    reading.join().unwrap();
    (status, text())
}

#[test]
fn its_stop_and_kill_keys_end_a_run_with_a_checkpoint() {
    for key in ["s", "k"] {
        let dir = tempfile::tempdir().unwrap();
        let (status, text) = train(dir.path(), "20M", &["q", key]);
        assert_eq!(status.exit_code(), 130, "{key}: {text}");
        assert!(!text.contains("panicked"), "{key}: {text}");
        let checkpoints = fs::read_dir(dir.path().join("run/checkpoints")).unwrap();
        assert_eq!(checkpoints.count(), 1, "{key}");
    }
}

#[test]
fn a_sweep_shows_its_stages_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--scales",
        "micro.toml",
        "--tokens",
        "2M",
        "--ui",
        "tui",
        "--force",
    ];
    let (status, text) = run(dir.path(), "sweep", &args, &["q", "s"]);
    assert_eq!(status.exit_code(), 130, "{text}");
    assert!(
        !text.contains("panicked") && text.contains("goes on from there"),
        "{text}"
    );
}

#[test]
fn a_run_that_ends_by_itself_leaves_the_terminal_with_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let (status, text) = train(dir.path(), "400k", &[]);
    assert_eq!(status.exit_code(), 0, "{text}");
    // The alternate screen is left before the result is printed.
    let left = text.rfind("\u{1b}[?1049l").unwrap();
    assert!(text[left..].contains("validation loss"), "{text}");
}
