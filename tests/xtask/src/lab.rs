//! The lab: a Debian host with AMD-V that QEMU emulates, so that stock kernels run as guests of our
//! `vmm` on machines whose own KVM cannot run them at full speed, or that have none.
//!
//! ```text
//! this machine -- QEMU, TCG, AMD-V ----> lab host (Debian) -- our vmm, /dev/kvm ----> guest (Debian)
//! ```
//!
//! Everything is built once into a cache (`recipe` names it by what it holds) and each run starts
//! from there unchanged: the lab host's root disk is an image that is never written to. QEMU is the
//! lab host's own, run from its root folder (`tools`), so this machine needs none and it does not
//! matter which one it has.
//!
//! | module | job |
//! |---|---|
//! | `recipe` | packages, names of the cached files, building them |
//! | `initrd` | initial RAM disks for the lab host and its guests |
//! | `tools` | programs out of the lab host's root folder |
//! | `host` | one lab host: its command line, its life, its terminal |
//! | `payload` | what a run brings along: script, `vm`, `vmm` |

mod host;
mod initrd;
mod payload;
mod recipe;
mod tools;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

pub use payload::build_programs;
pub use recipe::Lab;

#[derive(Args)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a shell script inside a lab host and return its exit status
    Run(Run),
    /// Open a shell inside a lab host
    Shell(Options),
    /// Build what the lab needs, and nothing else
    Build(Options),
    /// Remove everything that the lab has built
    Clean,
}

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    pub options: Options,
    /// Lab hosts to start; the script runs on the first
    #[arg(long, default_value_t = 1)]
    pub hosts: u32,
    /// Give the lab hosts a shared NFS export
    #[arg(long)]
    pub nfs: bool,
    /// Boot systemd in the first lab host; the script is a service, and starts again after a reboot
    #[arg(long)]
    pub systemd: bool,
    /// Shell script; it finds vm, vmm, LAB_KERNEL, LAB_INITRD, LAB_DISK and LAB_HOST, and other stock kernels as
    /// LAB_KERNEL_GENERIC, LAB_KERNEL_NEWER, LAB_KERNEL_NEWER_GENERIC with their LAB_INITRD_...
    pub script: PathBuf,
    /// Arguments of the script
    #[arg(trailing_var_arg = true)]
    pub arguments: Vec<String>,
}

/// What holds for every lab host.
#[derive(Args, Clone)]
pub struct Options {
    /// Install missing packages without asking
    #[arg(long)]
    pub yes: bool,
    /// Where scripts run: `auto` takes this machine when it has VT-x or AMD-V
    #[arg(long, value_enum, default_value_t = Place::Auto)]
    pub place: Place,
    /// Seconds until a script that still runs is given up; 0 waits for ever
    #[arg(long, default_value_t = 900)]
    pub time_limit: u64,
    /// Processors of a lab host; with more than one, its guests crash now and then
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Memory of a lab host in MiB
    #[arg(long, default_value_t = 2048)]
    pub memory: u32,
    /// Do not build vm and vmm first
    #[arg(long)]
    pub no_build: bool,
    /// A file or folder to bring along, found as $LAB_FILES/NAME
    #[arg(long = "with", value_name = "PATH")]
    pub with: Vec<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Auto,
    Lab,
    Native,
}

/// Whether this machine's KVM runs guest kernels on the processor itself.
pub fn hardware_virtualisation() -> Option<&'static str> {
    [("kvm_intel", "VT-x"), ("kvm_amd", "AMD-V")]
        .into_iter()
        .find(|(module, _)| std::path::Path::new("/sys/module").join(module).exists())
        .map(|(_, name)| name)
}

/// `cargo xtask lab`.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    match args.verb {
        Verb::Run(run) => run_script(&run),
        Verb::Shell(options) => {
            let script = crate::project::target().join("lab-shell.sh");
            std::fs::write(&script, "exec bash -i\n").context("cannot write the shell's script")?;
            run_script(&Run {
                options,
                hosts: 1,
                nfs: false,
                systemd: false,
                script,
                arguments: Vec::new(),
            })
        }
        Verb::Build(options) => {
            let lab = Lab::prepare(options.yes)?;
            println!("lab: ready in {}", lab.folder().display());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Clean => {
            recipe::clean()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a script where it belongs and returns its exit status as ours.
pub fn run_script(run: &Run) -> Result<ExitCode> {
    status(run).map(ExitCode::from)
}

/// Runs a script where it belongs and returns its exit status.
pub fn status(run: &Run) -> Result<u8> {
    if !(1..=9).contains(&run.hosts) {
        bail!("--hosts {}: 1 to 9 lab hosts can be had", run.hosts);
    }
    if run.hosts > 1 && run.options.place == Place::Native {
        bail!(
            "--hosts {}: this machine is one host; leave out --place native",
            run.hosts
        );
    }
    if !run.script.is_file() {
        bail!("{}: no such script", run.script.display());
    }
    if !run.options.no_build {
        payload::build_programs()?;
    }
    let lab = Lab::prepare(run.options.yes)?;
    let native = match run.options.place {
        Place::Native => true,
        Place::Lab => false,
        // Several hosts, or an export of one, are only to be had in the lab.
        // So is a host that may be rebooted.
        Place::Auto => {
            let special = run.hosts > 1 || run.nfs || run.systemd;
            !special && hardware_virtualisation().is_some()
        }
    };
    if native {
        run_here(&lab, run)
    } else {
        run_in_lab(&lab, run)
    }
}

fn run_in_lab(lab: &Lab, run: &Run) -> Result<u8> {
    let folder = lab.run_folder()?;
    let payload = payload::Payload::assemble(lab, run, &folder)?;
    let image = payload.image(&folder)?;
    let limit = (run.options.time_limit > 0).then(|| Duration::from_secs(run.options.time_limit));
    let folders: Vec<_> = (1..=run.hosts)
        .map(|number| {
            if number == 1 {
                folder.clone()
            } else {
                folder.join(format!("kvm0{number}"))
            }
        })
        .collect();
    let mut hosts = (1..).zip(&folders).map(|(number, folder)| host::Host {
        lab,
        reboots: run.systemd,
        number,
        hosts: run.hosts,
        folder,
        payload: &image,
        cpus: run.options.cpus,
        memory: run.options.memory,
        limit,
    });
    let first = hosts.next().context("no lab host")?;
    let code = first.run(&hosts.collect::<Vec<_>>());
    match &code {
        Ok(_) => drop(std::fs::remove_dir_all(&folder)),
        Err(_) => eprintln!("lab: what is left of this run is in {}", folder.display()),
    }
    code
}

/// The same script on this machine, whose processor can do it all.
fn run_here(lab: &Lab, run: &Run) -> Result<u8> {
    let folder = lab.run_folder()?;
    let payload = payload::Payload::assemble(lab, run, &folder)?;
    let mut command = Command::new("bash");
    command.arg(&run.script).args(&run.arguments);
    for (name, value) in payload.environment(lab) {
        command.env(name, value);
    }
    let status = command.status().context("cannot run bash")?;
    drop(std::fs::remove_dir_all(&folder));
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(125))
}
