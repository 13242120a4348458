//! Packages of this machine that a verb cannot do without.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project;

/// Makes sure that Debian packages are installed; asks first, unless `yes` or nobody is there.
pub fn need(names: &[&str], yes: bool) -> Result<()> {
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let command = format!("apt-get install --no-install-recommends {list}");
    if !rustix::process::geteuid().is_root() {
        bail!("missing packages: {list}; install them as root: {command}");
    }
    println!("These packages are missing: {list}");
    if !yes && !agreed(&command)? {
        bail!("nothing was installed; to do it yourself: {command}");
    }
    install(&missing)
}

/// Which of the packages are not installed.
pub fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for name in names {
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status}", name])
            .output()
            .context("cannot ask dpkg for installed packages: is this Debian?")?;
        if output.stdout != b"installed" {
            missing.push(*name);
        }
    }
    Ok(missing)
}

fn agreed(command: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("to have them installed without a question, add --yes; by hand: {command}");
    }
    print!("Install them now with {command}? [Y/n] ");
    std::io::stdout().flush().context("cannot write")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

fn install(names: &[&str]) -> Result<()> {
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .args(words);
        command.stdout(Stdio::null());
        command
    };
    project::run(apt(&["-q", "update"]).arg("--error-on=any"))
        .or_else(|_| project::run(&mut apt(&["-q", "update"])))?;
    project::run(apt(&["-q", "install", "--yes", "--no-install-recommends"]).args(names))
}
