//! Who is measured, and how each of them is started.
//!
//! All are the same to the benchmarks: a process, the guest's serial line as something to read, and
//! perhaps a folder that has to live as long as the process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ::tests::machine::{Builder, Disk};
use anyhow::{Context, Result, bail};

use super::Common;
use crate::lab::Lab;
use crate::project;

/// Where QEMU's leanest machine has PCI's configuration space; ours has it elsewhere.
const QEMU_ECAM: u64 = 0xe000_0000;

/// What the guest is made of.
#[derive(Clone, Default)]
pub struct Guest {
    /// Our own VMM's program.
    pub vmm: PathBuf,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub disk: Option<PathBuf>,
    /// Its disk is a qcow2 image; else a raw one.
    pub qcow2: bool,
    /// The tap of its network card, which exists.
    pub tap: Option<String>,
    pub cmdline: String,
    /// MiB.
    pub memory: u64,
}

/// One of the measured VMMs.
pub enum Vmm {
    /// Our own.
    Ours,
    /// A command with placeholders.
    Command {
        name: String,
        words: Vec<String>,
        modules: Option<PathBuf>,
    },
}

/// A guest that was started.
pub struct Running {
    pub child: Child,
    /// The guest's serial line.
    pub serial: File,
    _folder: Option<tempfile::TempDir>,
}

impl Vmm {
    pub fn name(&self) -> String {
        match self {
            Self::Ours => "vmm".into(),
            Self::Command { name, .. } => name.clone(),
        }
    }

    /// What the test guest has to be told of where PCI's configuration space is.
    pub fn ecam(&self) -> String {
        match self {
            Self::Ours => String::new(),
            Self::Command { .. } => format!(" ecam={QEMU_ECAM}"),
        }
    }

    /// Prepares everything that may be prepared, calls `now`, and starts the process.
    pub fn start(&self, guest: &Guest, now: impl FnOnce()) -> Result<Running> {
        match self {
            Self::Ours => start_ours(guest, now),
            Self::Command { words, modules, .. } => {
                let mut command = fill_in(words, guest)?;
                if let Some(folder) = modules {
                    command.env("QEMU_MODULE_DIR", folder);
                }
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
                now();
                let mut child = command
                    .spawn()
                    .with_context(|| format!("cannot run {}", project::describe(&command)))?;
                let output = child.stdout.take().context("the process has no output")?;
                let serial = File::from(std::os::fd::OwnedFd::from(output));
                Ok(Running {
                    child,
                    serial,
                    _folder: None,
                })
            }
        }
    }
}

fn start_ours(guest: &Guest, now: impl FnOnce()) -> Result<Running> {
    let mut builder = Builder::guest(&guest.cmdline)
        .kernel(&guest.kernel, guest.initrd.as_deref())
        .memory(guest.memory)
        .program(&guest.vmm);
    if let Some(disk) = &guest.disk {
        let disk = if guest.qcow2 {
            Disk::qcow2(disk)
        } else {
            Disk::raw(disk)
        };
        builder = builder.disk(disk);
    }
    if let Some(tap) = &guest.tap {
        builder = builder.tap(tap);
    }
    let mut prepared = builder
        .prepare()
        .context("our own machine cannot be prepared")?;
    prepared.command.stdout(Stdio::null()).stderr(Stdio::null());
    now();
    let (child, output, folder) = prepared.spawn().context("cannot run our vmm")?;
    let serial = File::from(std::os::fd::OwnedFd::from(output));
    Ok(Running {
        child,
        serial,
        _folder: Some(folder),
    })
}

/// Us, QEMU and the peers that were asked for.
pub fn all(common: &Common, qemu: impl IntoIterator<Item = Vmm>) -> Result<Vec<Vmm>> {
    let mut vmms = vec![Vmm::Ours];
    vmms.extend(qemu);
    for peer in &common.peers {
        let Some((name, command)) = peer.split_once('=') else {
            bail!("--peer {peer}: write NAME=COMMAND");
        };
        let words = command.split_whitespace().map(Into::into).collect();
        vmms.push(Vmm::Command {
            name: name.into(),
            words,
            modules: None,
        });
    }
    Ok(vmms)
}

/// The least that a VMM can be: what is left is the kernel's own time.
pub fn floor() -> Result<Vmm> {
    let program = ::tests::guest::build_floor().context("the floor cannot be built")?;
    let words = [
        &*program.to_string_lossy(),
        "{kernel}",
        "{cmdline}",
        "{mem}",
    ];
    let words = words.iter().map(ToString::to_string).collect();
    Ok(Vmm::Command {
        name: "floor".into(),
        words,
        modules: None,
    })
}

/// QEMU's leanest machine, out of the lab host's folder, on this machine's KVM.
pub fn microvm(common: &Common) -> Result<Option<Vmm>> {
    microvm_with(common, "microvm", &[])
}

/// QEMU's leanest machine with PCI and the guest's disk, driven as QEMU does it fastest.
pub fn microvm_with_fast_disk(common: &Common) -> Result<Option<Vmm>> {
    let more = [
        "-name",
        "bench,debug-threads=on",
        "-drive",
        "if=none,id=disk,format={format},file={disk},cache=none,aio=io_uring",
        "-object",
        "iothread,id=worker",
        "-device",
        "virtio-blk-pci,drive=disk,iothread=worker,disable-legacy=on",
    ];
    microvm_with(common, "microvm,pcie=on", &more)
}

/// QEMU's leanest machine with PCI and a card on the guest's tap, which its main loop serves.
pub fn microvm_with_card(common: &Common) -> Result<Option<Vmm>> {
    let more = [
        "-name",
        "bench,debug-threads=on",
        "-netdev",
        "tap,id=net,ifname={tap},script=no,downscript=no,vhost=off",
        "-device",
        "virtio-net-pci,netdev=net,disable-legacy=on,romfile=",
    ];
    microvm_with(common, "microvm,pcie=on", &more)
}

fn microvm_with(common: &Common, machine: &str, more: &[&str]) -> Result<Option<Vmm>> {
    if common.no_qemu {
        return Ok(None);
    }
    let lab = Lab::prepare(common.yes)?;
    let mut command = lab.tools().qemu();
    command.args([
        "-M",
        machine,
        "-bios",
        "qboot.rom",
        "-accel",
        "kvm",
        "-cpu",
        "qemu64",
    ]);
    command.args(["-m", "{mem}", "-kernel", "{kernel}", "-append", "{cmdline}"]);
    command.args(["-serial", "stdio", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args(more);
    let modules = command
        .get_envs()
        .find_map(|(name, value)| (name == "QEMU_MODULE_DIR").then_some(value)?)
        .map(PathBuf::from);
    let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(text).collect();
    Ok(Some(Vmm::Command {
        name: "QEMU microvm".into(),
        words,
        modules,
    }))
}

/// QEMU's leanest machine as it comes, and with what ours has too (PCI, a clock: without a clock a
/// stock kernel waits for one), where QEMU is installed.
pub fn microvms_with_disk() -> Vec<Vmm> {
    let machines = [
        ("QEMU microvm", "microvm", "virtio-blk-device"),
        (
            "QEMU microvm, PCI, RTC",
            "microvm,acpi=on,pcie=on,rtc=on",
            "virtio-blk-pci",
        ),
    ];
    let microvm = |(name, machine, disk): (&str, &str, &str)| {
        let disk = format!("{disk},drive=disk");
        let words = [
            &[
                "qemu-system-x86_64",
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ][..],
            &[
                "-no-reboot",
                "-M",
                machine,
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-m",
                "{mem}",
            ],
            &[
                "-kernel",
                "{kernel}",
                "-initrd",
                "{initrd}",
                "-append",
                "{cmdline}",
            ],
            &[
                "-serial",
                "stdio",
                "-drive",
                "if=none,id=disk,format=raw,file={disk}",
            ],
            &["-device", &disk],
        ];
        let words = words.concat().iter().map(ToString::to_string).collect();
        Vmm::Command {
            name: name.into(),
            words,
            modules: None,
        }
    };
    machines.map(microvm).into()
}

fn fill_in(words: &[String], guest: &Guest) -> Result<Command> {
    let show = |path: &Path| path.display().to_string();
    let optional = |path: &Option<PathBuf>| path.as_deref().map(show).unwrap_or_default();
    let filled = words.iter().map(|word| {
        word.replace("{kernel}", &show(&guest.kernel))
            .replace("{initrd}", &optional(&guest.initrd))
            .replace("{disk}", &optional(&guest.disk))
            .replace("{format}", if guest.qcow2 { "qcow2" } else { "raw" })
            .replace("{tap}", guest.tap.as_deref().unwrap_or_default())
            .replace("{cmdline}", &guest.cmdline)
            .replace("{mem}", &guest.memory.to_string())
    });
    let mut filled = filled.collect::<Vec<_>>().into_iter();
    let program = filled.next().context("a peer's command is empty")?;
    let mut command = Command::new(program);
    command.args(filled);
    Ok(command)
}

/// The test guest with a command line, and our released `vmm` for it.
pub fn test_guest(cmdline: &str) -> Result<Guest> {
    let words = ["build", "--quiet", "--release", "--package", "vmm"];
    project::run(project::cargo().args(words))?;
    let kernel = ::tests::guest::build().context("the test guest cannot be built")?;
    Ok(Guest {
        vmm: project::target().join("release/vmm"),
        kernel,
        cmdline: cmdline.into(),
        memory: 128,
        ..Guest::default()
    })
}
