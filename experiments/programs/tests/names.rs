//! Every command is also a program of its own.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn programs_are_called_by_their_command() {
    for (name, program) in [
        ("bench", env!("CARGO_BIN_EXE_bench")),
        ("evaluate", env!("CARGO_BIN_EXE_evaluate")),
        ("generate", env!("CARGO_BIN_EXE_generate")),
        ("inspect", env!("CARGO_BIN_EXE_inspect")),
        ("report", env!("CARGO_BIN_EXE_report")),
        ("sweep", env!("CARGO_BIN_EXE_sweep")),
        ("train", env!("CARGO_BIN_EXE_train")),
        ("upcycle", env!("CARGO_BIN_EXE_upcycle")),
    ] {
        let output = Command::new(program).arg("--version").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.starts_with(name), "{said}");
        let wrong = Command::new(program).arg("--no-such-flag").output();
        assert_eq!(wrong.unwrap().status.code(), Some(2), "{name}");
    }
}
