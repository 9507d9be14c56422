//! Tells the programs which commit they are built from, for results to name it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for path in sources(&root).into_iter().chain(log(&root)) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    if let Some(commit) = commit(&root) {
        println!("cargo:rustc-env=UPCYCLE_COMMIT={commit}");
    }
}

/// What a change of makes the sources other than those of the commit.
fn sources(root: &Path) -> Vec<PathBuf> {
    let crates = fs::read_dir(root.join("crates")).into_iter().flatten();
    let crates = crates.flatten().map(|folder| folder.path());
    let packages = crates.chain([root.join("experiments")]);
    let sources = packages.map(|package| package.join("src"));
    sources.filter(|folder| folder.is_dir()).collect()
}

/// Git's log of what was checked out and committed; none without a repository.
fn log(root: &Path) -> Option<PathBuf> {
    let log = root.join(git(root, &["rev-parse", "--git-path", "logs/HEAD"])?);
    log.is_file().then_some(log)
}

/// The commit in short, and whether files differ from it; none where this is not a repository of its own.
fn commit(root: &Path) -> Option<String> {
    let prefix = git(root, &["rev-parse", "--show-prefix"])?;
    let describe = [
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty= with changes",
    ];
    git(root, &describe).filter(|commit| prefix.is_empty() && !commit.is_empty())
}

/// What git says; none where there is no git, or it fails.
fn git(root: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Others may be at work in the repository.
    command.env("GIT_OPTIONAL_LOCKS", "0");
    let output = command.arg("-C").arg(root).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
