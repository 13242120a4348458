//! `cargo xtask man DIR`: manual pages and completion scripts, for a package or to look at.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::project;

#[derive(clap::Args)]
pub struct ManArgs {
    /// The folder; it gets man/man1/ and completions/{bash,zsh,fish}/
    folder: PathBuf,
}

/// Writes them.
pub fn run(args: &ManArgs) -> Result<ExitCode> {
    write(&args.folder)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes them to a folder.
pub fn write(folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder)?;
    let words = ["run", "--quiet", "--locked", "--package=virshlike"];
    project::run(
        project::cargo()
            .args(words)
            .args(["--example=pages", "--"])
            .arg(folder),
    )
}
