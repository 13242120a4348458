//! `cargo xtask fuzz`: the fuzz bodies of `tests/fuzz`, longer than the CI runs them.
//!
//! With cargo-fuzz and a nightly toolchain it is libFuzzer that looks, following coverage; without, a seeded
//! mutation loop on the toolchain that is here.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::project;

#[derive(clap::Args)]
pub struct FuzzArgs {
    /// The body, such as `transport`; without one, each in turn
    target: Option<String>,
    /// How long, for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The plain loop, even where cargo-fuzz is
    #[arg(long)]
    plain: bool,
}

/// Runs it.
pub fn run(args: &FuzzArgs) -> Result<ExitCode> {
    match &args.target {
        Some(target) if !args.plain && have_cargo_fuzz() => {
            let time = format!("-max_total_time={}", args.seconds);
            let mut command = Command::new("cargo");
            command
                .args(["+nightly", "fuzz", "run", "--fuzz-dir", "tests/fuzz"])
                .args(["--features", "libfuzzer", &format!("target-{target}")])
                .args(folders(target))
                .args(["--", &time, &format!("-seed={}", args.seed)]);
            project::run(command.current_dir(project::root()))?;
        }
        target => {
            if !args.plain {
                println!(
                    "cargo-fuzz and a nightly toolchain are not here: a plain mutation loop, without coverage"
                );
            }
            let mut command = project::cargo();
            command.args(["run", "--quiet", "--profile=fuzz", "--package=fuzz", "--"]);
            command.args(target);
            command.args(["--seconds", &args.seconds.to_string()]);
            command.args(["--seed", &args.seed.to_string()]);
            project::run(command.current_dir(project::root()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where libFuzzer writes what it learns, and where it also begins.
fn folders(target: &str) -> Vec<String> {
    let learned = project::target().join("fuzz-corpus").join(target);
    let mut folders = vec![learned.display().to_string()];
    drop(std::fs::create_dir_all(learned));
    for kind in ["corpus", "regressions"] {
        let kept = project::root().join("tests/fuzz").join(kind).join(target);
        if kept.is_dir() {
            folders.push(kept.display().to_string());
        }
    }
    folders
}

fn have_cargo_fuzz() -> bool {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
