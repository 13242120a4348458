//! `cargo xtask test`: everything that has to hold, in one command, here and in the CI.
//!
//! ```text
//! packages -> check -> build -> cargo test (units, properties, images, raw KVM, transcripts) -> lab scenarios
//! ```
//!
//! A step that fails does not keep the later ones from running, unless they could not mean anything;
//! the summary at the end names every step and the exit status is the truth.
//!
//! The lab's scenarios are ordinary test programs, `tests/tests/lab_*.rs`. Without the lab's variables
//! in the environment they skip themselves; here they are carried into one lab host and run there, or
//! on this machine when its processor can run guest kernels.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::lab::{self, Options, Place, Run};
use crate::{check, deb, packages, project};

/// What the tests use of this machine.
const PACKAGES: &[&str] = &[
    "mmdebstrap",
    "e2fsprogs",
    "qemu-utils",
    // Another client of our NBD server.
    "libnbd-bin",
    "libxml2-utils",
    // A second opinion on ACPI tables and on domain XML.
    "acpica-tools",
    "libvirt-clients",
    // Bridges, taps and small file systems of the tests' own.
    "iproute2",
    "mount",
    // What virtual networks are made of, and a client of their DHCP server.
    "dnsmasq-base",
    "nftables",
    "udhcpc",
    // The agent that guests run.
    "qemu-guest-agent",
    // What serves <interface type='user'>.
    "passt",
    // Who looks at processes and sockets.
    "procps",
    // The BIOS of guests without a kernel of their own, and a boot loader for their disks.
    "seabios",
    "grub-common",
    "grub-pc-bin",
    "xorriso",
    // A terminal that a test can type into and read.
    "tmux",
    // Shells that read our completion scripts.
    "zsh",
    "fish",
];
/// Test programs that belong into the lab.
const LAB_PREFIX: &str = "lab_";
/// The test program that wants a lab host with systemd, and packages.
const SYSTEMD: &str = "lab_systemd-";
/// Real definitions of libvirt, where a copy of them lies beside the checkout.
const CORPUS: &str = "../shared/corpus";

#[derive(clap::Args)]
pub struct SuiteArgs {
    /// Install missing packages without asking
    #[arg(long)]
    yes: bool,
    /// Leave the lab out
    #[arg(long)]
    no_lab: bool,
    /// Only these scenarios of the lab: part of a test's name
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Also the lab's long scenarios
    #[arg(long)]
    all: bool,
    /// Only the lab's scenarios
    #[arg(long, conflicts_with = "no_lab")]
    only_lab: bool,
}

/// Runs all tests.
pub fn run(args: &SuiteArgs) -> Result<ExitCode> {
    let mut summary = Summary::default();
    if !args.only_lab {
        let ready = summary.step("packages", || packages::need(PACKAGES, args.yes));
        if !ready {
            return Ok(summary.print());
        }
        summary.step("house rules", check::must_hold);
        let words = ["build", "--workspace", "--all-targets", "--locked"];
        if !summary.step("build", || project::run(project::cargo().args(words))) {
            return Ok(summary.print());
        }
        summary.step("tests", cargo_test);
    }
    if args.no_lab {
        summary.skip("lab scenarios", "--no-lab");
    } else {
        summary.step("lab scenarios", || lab_scenarios(args));
    }
    Ok(summary.print())
}

fn cargo_test() -> Result<()> {
    let mut command = project::cargo();
    // What a test that was left out says is output of a test that passed.
    let words = ["--no-fail-fast", "--", "--show-output"];
    command
        .args(["test", "--workspace", "--locked"])
        .args(words);
    let corpus = project::root().join(CORPUS);
    if std::env::var_os("VM_XML_CORPUS").is_none() && corpus.is_dir() {
        command.env("VM_XML_CORPUS", corpus);
    }
    project::run(&mut command)
}

/// Every program gets a lab host of its own. An emulated host may die under any VMM's guest, without a
/// status; then, and only then, its program gets another one. A scenario that fails is never tried
/// again.
fn lab_scenarios(args: &SuiteArgs) -> Result<()> {
    let mut programs = lab_programs()?;
    if let Some(scenario) = &args.scenario {
        programs.retain(|program| has_scenario(program, scenario));
        if programs.is_empty() {
            bail!("no scenario of the lab has '{scenario}' in its name");
        }
    }
    if programs.is_empty() {
        bail!("there are no scenarios tests/tests/{LAB_PREFIX}*.rs");
    }
    let mut failed = Vec::new();
    for program in &programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let title = name.rsplit_once('-').map_or(&*name, |(title, _)| title);
        println!("== {title}");
        let status = lab_scenario(args, program).or_else(|error| {
            println!("{error:#}\n== {title}, once more in another lab host");
            lab_scenario(args, program)
        })?;
        if status != 0 {
            failed.push(format!("{title} (status {status})"));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("scenarios failed: {}", failed.join(", "))
}

/// Whether a program has such a test; what cannot be asked is taken for one that has.
fn has_scenario(program: &Path, scenario: &str) -> bool {
    let output = Command::new(program).args(["--list", scenario]).output();
    output.map_or(true, |output| {
        String::from_utf8_lossy(&output.stdout).contains(": test")
    })
}

fn lab_scenario(args: &SuiteArgs, program: &Path) -> Result<u8> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let script = project::target().join("lab-scenario.sh");
    let text = format!("exec \"$LAB_FILES/{name}\" --test-threads=1 --nocapture \"$@\"\n");
    std::fs::write(&script, text).context("cannot write the scenario's script")?;
    let systemd = name.starts_with(SYSTEMD);
    let mut with = vec![program.to_path_buf()];
    if systemd {
        // A package, and the one that it is upgraded to.
        lab::build_programs()?;
        let version = env!("CARGO_PKG_VERSION");
        with.push(deb::build(version)?);
        with.push(deb::build(&format!("{version}+1"))?);
    }
    let options = Options {
        yes: args.yes,
        place: Place::Auto,
        time_limit: if args.all { 3600 } else { 1200 },
        cpus: 1,
        memory: 2048,
        no_build: false,
        with,
    };
    lab::status(&Run {
        options,
        hosts: 1,
        nfs: false,
        systemd,
        script,
        arguments: arguments(args),
    })
}

/// What a scenario's program is told.
fn arguments(args: &SuiteArgs) -> Vec<String> {
    let long = args.all.then(|| "--include-ignored".to_owned());
    args.scenario.iter().cloned().chain(long).collect()
}

/// Builds the lab's test programs and returns their paths.
fn lab_programs() -> Result<Vec<PathBuf>> {
    let text = project::output(project::cargo().args([
        "test",
        "--package=tests",
        "--no-run",
        "--locked",
        "--quiet",
        "--message-format=json",
    ]))?;
    let mut programs: Vec<PathBuf> = Message::parse_stream(text.as_bytes())
        .filter_map(|message| match message {
            Ok(Message::CompilerArtifact(artifact)) => Some(artifact),
            _ => None,
        })
        .filter(|artifact| artifact.target.name.starts_with(LAB_PREFIX))
        .filter_map(|artifact| artifact.executable.map(Into::into))
        .collect();
    programs.sort();
    Ok(programs)
}

#[derive(Clone)]
enum Outcome {
    Passed(Duration),
    Failed(Duration, String),
    Skipped(String),
}

#[derive(Default)]
struct Summary(Vec<(&'static str, Outcome)>);

impl Summary {
    /// Runs a step and says whether it passed.
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> bool {
        println!("\n==== {name}");
        let started = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed(started.elapsed()),
            Err(error) => Outcome::Failed(started.elapsed(), format!("{error:#}")),
        };
        let passed = matches!(outcome, Outcome::Passed(_));
        self.0.push((name, outcome));
        passed
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        self.0.push((name, Outcome::Skipped(why.into())));
    }

    /// Prints what came of every step, and says whether all is well.
    fn print(&self) -> ExitCode {
        println!("\n==== summary");
        for (name, outcome) in &self.0 {
            match outcome {
                Outcome::Passed(time) => println!("passed   {name} ({} s)", time.as_secs()),
                Outcome::Failed(time, why) => {
                    println!("FAILED   {name} ({} s): {why}", time.as_secs());
                }
                Outcome::Skipped(why) => println!("skipped  {name}: {why}"),
            }
        }
        let failed = self
            .0
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(..)));
        println!(
            "{}",
            if failed {
                "Not all is well."
            } else {
                "All is well."
            }
        );
        if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
