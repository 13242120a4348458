//! `cargo xtask demo`: the main job as a person would do it, on a stock Debian guest.
//!
//! ```text
//! what is this machine? -> packages -> build -> disk and XML in target/demo -> vm define, start, console
//! ```
//!
//! Two halves: `run` prepares, and then has `act` do the `vm` commands where guest kernels can run: on
//! this machine, or in a lab host with this very program in it. With a terminal the person is put on
//! the guest's console; without one `act` logs in, looks around, shuts the guest down, and fails when
//! anything is not as it should be.

mod act;
mod prepare;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::lab::{self, Lab, Options, Place, Run};
use crate::{packages, project};

pub use act::{ActArgs, act};

#[derive(clap::Args)]
pub struct DemoArgs {
    /// Install missing packages without asking
    #[arg(long)]
    yes: bool,
    /// Where the guest runs: `auto` takes this machine when it has VT-x or AMD-V
    #[arg(long, value_enum, default_value_t = Place::Auto)]
    place: Place,
    /// Log in and shut down by itself even on a terminal
    #[arg(long)]
    batch: bool,
}

/// Everything that the demonstration makes.
fn folder() -> PathBuf {
    project::target().join("demo")
}

/// Runs the demonstration.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let batch = args.batch || !terminal;
    let native = prepare::report_host(args.place)?;
    packages::need(&["mmdebstrap", "e2fsprogs"], args.yes || !terminal)?;
    println!("\nBuilding vm and vmm...");
    lab::build_programs()?;
    let lab = Lab::prepare(args.yes)?;
    let folder = folder();
    if native {
        prepare::disk(&lab, &folder)?;
        prepare::definition(&folder, &prepare::Places::native(&lab, &folder))?;
        act_here(&folder, batch)
    } else {
        std::fs::create_dir_all(&folder).context("cannot make target/demo")?;
        prepare::definition(&folder, &prepare::Places::lab())?;
        act_in_lab(&folder, batch, args.yes)
    }
}

fn act_here(folder: &Path, batch: bool) -> Result<ExitCode> {
    let bin = project::target().join("release");
    act(&ActArgs {
        folder: folder.into(),
        vm: bin.join("vm"),
        batch,
        lab: false,
    })
}

/// The same in a lab host, where the disk is a copy of LAB_DISK.
fn act_in_lab(folder: &Path, batch: bool, yes: bool) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let name = program
        .file_name()
        .context("this program has no name")?
        .to_string_lossy();
    let script = folder.join("in-the-lab.sh");
    let mode = if batch { "--batch" } else { "" };
    let lines = format!(
        "mkdir -p /demo && cp \"$LAB_FILES/debian.xml\" /demo/ && cp \"$LAB_DISK\" /demo/debian.qcow2 &&\n\
         exec \"$LAB_FILES/{name}\" demo-act --lab {mode} --folder /demo --vm /lab/run/bin/vm\n"
    );
    std::fs::write(&script, lines).context("cannot write the script")?;
    let options = Options {
        yes,
        place: Place::Lab,
        time_limit: if batch { 600 } else { 0 },
        cpus: 1,
        memory: 2048,
        no_build: true,
        with: vec![program, folder.join("debian.xml")],
    };
    println!("\nStarting the lab host (some 5 seconds; it is gone when you leave)...");
    lab::run_script(&Run {
        options,
        hosts: 1,
        nfs: false,
        systemd: false,
        script,
        arguments: Vec::new(),
    })
}
