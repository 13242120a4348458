//! `cargo xtask check`: the rules of the house, each finding one line: place, what, what to do.
//!
//! The quick checks read files and `cargo metadata`; formatting and clippy come last because they
//! take longest. All findings are printed, not only the first.

mod arrows;
mod lock;
mod sources;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

use crate::project;

#[derive(clap::Args)]
pub struct Args {
    /// Leave out clippy, which compiles the workspace
    #[arg(long)]
    no_clippy: bool,
}

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the workspace root, with `:line` where there is one.
    pub place: String,
    /// What is there.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    pub fn new(place: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.fix)
    }
}

/// Runs every check; a finding is an error.
pub fn must_hold() -> Result<()> {
    if run(&Args { no_clippy: false })? == ExitCode::SUCCESS {
        return Ok(());
    }
    anyhow::bail!("the lines above name what does not hold")
}

/// Runs every check.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut findings = static_findings()?;
    findings.extend(format_findings()?);
    if !args.no_clippy {
        findings.extend(clippy_findings()?);
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("check: all rules hold");
        return Ok(ExitCode::SUCCESS);
    }
    println!("check: {} finding(s)", findings.len());
    Ok(ExitCode::FAILURE)
}

fn static_findings() -> Result<Vec<Finding>> {
    let root = project::root();
    let metadata = MetadataCommand::new()
        .current_dir(&root)
        .exec()
        .context("cannot read the workspace with cargo metadata")?;
    let mut findings = arrows::findings(&arrows::Graph::from_metadata(&metadata));
    let lock =
        std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    findings.extend(lock::findings(&lock));
    findings.extend(sources::findings(&root, &metadata)?);
    Ok(findings)
}

fn format_findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for manifest in ["Cargo.toml", "tests/guest/Cargo.toml"] {
        if !project::root().join(manifest).exists() {
            continue;
        }
        let output = project::cargo()
            .args([
                "fmt",
                "--all",
                "--manifest-path",
                manifest,
                "--",
                "--check",
                "-l",
            ])
            .output()
            .context("cannot run cargo fmt (rustup component add rustfmt)")?;
        let root = project::root();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let before = findings.len();
        for line in listed.lines().filter(|line| line.ends_with(".rs")) {
            let path = std::path::Path::new(line);
            let place = path
                .strip_prefix(&root)
                .unwrap_or(path)
                .display()
                .to_string();
            findings.push(Finding::new(place, "is not formatted", "run cargo fmt"));
        }
        if !output.status.success() && findings.len() == before {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("no message").to_owned();
            findings.push(Finding::new(
                manifest,
                format!("cargo fmt fails: {said}"),
                "mend it",
            ));
        }
    }
    Ok(findings)
}

fn clippy_findings() -> Result<Vec<Finding>> {
    let mut clippy = project::cargo();
    clippy
        .args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--message-format=short",
        ])
        .args(["--", "-D", "warnings"]);
    let mut findings = Vec::new();
    if project::run(&mut clippy).is_err() {
        let fix = "mend the lines printed above";
        findings.push(Finding::new("workspace", "clippy is not content", fix));
    }
    // A package of its own, whose settings count only in its folder.
    let mut guest = project::cargo();
    guest.current_dir(project::root().join("tests/guest"));
    guest.args([
        "clippy",
        "--release",
        "--quiet",
        "--message-format=short",
        "--target-dir",
    ]);
    guest
        .arg(project::target().join("guest"))
        .args(["--", "-D", "warnings"]);
    if project::run(&mut guest).is_err() {
        let fix = "mend the lines printed above";
        findings.push(Finding::new("tests/guest", "clippy is not content", fix));
    }
    Ok(findings)
}
