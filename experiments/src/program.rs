//! What this program is, for results to name it, and how its commands are called.

use std::{
    ffi::OsString,
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};

/// The program that has all commands.
pub const NAME: &str = "burn-upcycle";

/// The commit that it was built from, in short, and whether files differed from it; none where that was not known.
pub const COMMIT: Option<&str> = option_env!("UPCYCLE_COMMIT");

/// Features that are compiled in unless they are left out.
const DEFAULT: [(&str, bool); 2] = [
    ("cpu", cfg!(feature = "cpu")),
    ("hub", cfg!(feature = "hub")),
];
/// Features that have to be asked for.
const FURTHER: [(&str, bool); 6] = [
    ("ndarray", cfg!(feature = "ndarray")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("cuda", cfg!(feature = "cuda")),
    ("tui", cfg!(feature = "tui")),
];

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = COMMIT.unwrap_or("unknown");
    let features = features();
    format!(
        "{} (commit {commit}; features {features})",
        env!("CARGO_PKG_VERSION")
    )
});

/// Whether this process is the program that has all commands, not one that is a command of its own.
static HAS_ALL: AtomicBool = AtomicBool::new(false);

/// Notes by which name this process parses its flags.
pub fn started_as(name: &str) {
    HAS_ALL.store(name == NAME, Ordering::Relaxed);
}

/// Whether all commands are subcommands of this process's program.
pub fn has_all() -> bool {
    HAS_ALL.load(Ordering::Relaxed)
}

/// A command line of today, such as `sweep status runs/quick`, as it is called here: `burn-upcycle sweep status runs/quick`.
pub fn call(command: &str) -> String {
    match has_all() {
        true => format!("{NAME} {command}"),
        false => command.to_owned(),
    }
}

/// The words that run a command of this program in another process.
///
/// # Errors
/// If the system does not say where this program is.
pub fn words(command: &str) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let subcommand = has_all().then(|| OsString::from(command));
    Ok([OsString::from(program)]
        .into_iter()
        .chain(subcommand)
        .collect())
}

/// Version, commit and features.
pub fn version() -> &'static str {
    VERSION.as_str()
}

fn compiled_in(features: &[(&'static str, bool)]) -> Vec<&'static str> {
    let features = features.iter().filter(|(_, is_in)| *is_in);
    features.map(|(name, _)| *name).collect()
}

/// Features beyond the usual ones that are compiled in.
pub fn further_features() -> Vec<&'static str> {
    compiled_in(&FURTHER)
}

fn features() -> String {
    [compiled_in(&DEFAULT), further_features()]
        .concat()
        .join(", ")
}

/// The name that it was started by and its features, such as `sweep (cpu, hub)`.
pub fn name() -> String {
    let started = std::env::args().next().unwrap_or_default();
    let name = Path::new(&started).file_stem().unwrap_or_default();
    format!("{} ({})", name.to_string_lossy(), features())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named() {
        assert!(name().ends_with(')') && name().contains(" ("));
        for text in [name(), version().to_owned()] {
            assert_eq!(text.contains("cpu"), cfg!(feature = "cpu"), "{text}");
        }
        assert_eq!(further_features().contains(&"cuda"), cfg!(feature = "cuda"));
        assert!(version().starts_with(env!("CARGO_PKG_VERSION")));
    }
}
