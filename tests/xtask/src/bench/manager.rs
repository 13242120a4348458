//! The manager: what an administrator's commands cost, as whole processes, against Debian's virsh and
//! libvirtd in the same run, turn by turn; and how our cost grows with the number of domains.
//!
//! libvirtd runs in a mount namespace of its own, with its configuration, state and sockets in the
//! benchmark's folder and the two accounts that it insists on; virsh reaches it by that socket. Our
//! store lies in the same folder. Both hold the same definitions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::stats::{Samples, table};
use crate::{packages, project};

/// What the peer needs.
const PACKAGES: &[&str] = &[
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "qemu-system-x86",
    "mount",
];

/// How long libvirtd may take to answer: it asks QEMU for its abilities first.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct ManagerArgs {
    /// Rounds; each round measures everybody once
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Domains in the store while libvirt is compared
    #[arg(long, default_value_t = 1000)]
    domains: usize,
    /// Sizes of the store for the table of growth
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 10_000])]
    growth: Vec<usize>,
    /// Measure only us
    #[arg(long)]
    no_libvirt: bool,
    /// Install missing packages without asking
    #[arg(long)]
    yes: bool,
}

/// Measures and prints.
pub fn run(args: &ManagerArgs) -> Result<()> {
    if !args.no_libvirt {
        packages::need(PACKAGES, args.yes)?;
    }
    let words = ["build", "--release", "--locked", "--package=virshlike"];
    project::run(project::cargo().args(words).arg("--bin=vm"))?;
    let folder = project::target().join("tmp");
    fs::create_dir_all(&folder)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-manager-")
        .tempdir_in(folder)?;
    let ours = Ours {
        program: project::target().join("release/vm"),
        root: folder.path().join("store"),
    };
    let theirs = match args.no_libvirt {
        true => None,
        false => Some(Libvirt::start(folder.path())?),
    };
    let mut makers: Vec<&dyn Maker> = vec![&ours];
    makers.extend(theirs.iter().map(|theirs| theirs as &dyn Maker));
    println!(
        "manager: {} rounds, {} domains, whole processes",
        args.rounds, args.domains
    );
    compare(args, &makers, folder.path())?;
    println!(
        "\nvm daemon, idle: {:.1} MiB resident",
        idle_daemon(&ours)? as f64 / 1024.0
    );
    if let Some(theirs) = &theirs {
        println!(
            "\nlibvirtd with {} domains: {} MiB resident; vm needs no process",
            args.domains,
            resident(theirs.daemon.id())? / 1024
        );
    }
    drop(theirs);
    grow(args, &ours)
}

/// Whoever defines and lists domains.
trait Maker {
    fn name(&self) -> &'static str;
    fn command(&self, words: &[&str]) -> Command;
    /// Defines many at once, as fast as it can.
    fn fill(&self, folder: &Path, numbers: std::ops::Range<usize>) -> Result<()>;
}

struct Ours {
    program: PathBuf,
    root: PathBuf,
}

impl Maker for Ours {
    fn name(&self) -> &'static str {
        "vm"
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("VM_STORE_ROOT", &self.root).args(words);
        command
    }

    /// The store is a folder of definitions: they are put there.
    fn fill(&self, _: &Path, numbers: std::ops::Range<usize>) -> Result<()> {
        let domains = self.root.join("etc/vm/domains");
        fs::create_dir_all(&domains)?;
        for number in numbers {
            let path = domains.join(format!("bench{number}.xml"));
            fs::write(path, definition(number))?;
        }
        Ok(())
    }
}

/// libvirtd, ended when this goes.
struct Libvirt {
    daemon: Child,
    uri: String,
}

impl Libvirt {
    fn start(folder: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a private libvirtd needs root, for its mount namespace; or add --no-libvirt");
        }
        let place = folder.join("libvirt");
        let script = include_str!("manager-libvirtd.sh");
        fs::create_dir_all(&place)?;
        let log = fs::File::create(place.join("output"))?;
        let daemon = Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, "libvirtd"])
            .arg(&place)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start libvirtd")?;
        let socket = place.join("run/libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let libvirt = Self { daemon, uri };
        let until = Instant::now() + PATIENCE;
        loop {
            let mut ask = libvirt.command(&["uri"]);
            ask.stdout(Stdio::null()).stderr(Stdio::null());
            if socket.exists() && ask.status().is_ok_and(|status| status.success()) {
                return Ok(libvirt);
            }
            if Instant::now() > until {
                let said = fs::read_to_string(place.join("output")).unwrap_or_default();
                bail!("libvirtd does not answer:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Maker for Libvirt {
    fn name(&self) -> &'static str {
        "virsh and libvirtd"
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("virsh");
        command.args(["-c", &self.uri]).args(words);
        command
    }

    fn fill(&self, folder: &Path, numbers: std::ops::Range<usize>) -> Result<()> {
        let mut script = String::new();
        for number in numbers {
            let path = folder.join(format!("bench{number}.xml"));
            fs::write(&path, definition(number))?;
            script.push_str(&format!("define {};", path.display()));
        }
        finish(&mut self.command(&[&script]))
    }
}

/// A definition as people have them: a disk, a network card, a console.
fn definition(number: usize) -> String {
    format!(
        "<domain type='kvm'>\n  <name>bench{number}</name>\n  \
         <uuid>5d6e8a10-0000-4000-8000-{number:012x}</uuid>\n  <memory unit='MiB'>512</memory>\n  \
         <vcpu>2</vcpu>\n  <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n  </os>\n  \
         <features>\n    <acpi/>\n    <apic/>\n  </features>\n  <devices>\n    \
         <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2'/>\n      \
         <source file='/var/lib/vm/images/bench{number}.qcow2'/>\n      \
         <target dev='vda' bus='virtio'/>\n    </disk>\n    <interface type='bridge'>\n      \
         <mac address='52:54:00:{:02x}:{:02x}:{:02x}'/>\n      <source bridge='br0'/>\n      \
         <model type='virtio'/>\n    </interface>\n    <serial type='pty'/>\n  </devices>\n\
         </domain>\n",
        number >> 16 & 0xff,
        number >> 8 & 0xff,
        number & 0xff
    )
}

fn finish(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{} failed: {}",
        project::describe(command),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Milliseconds from before the process is started until it is gone.
fn time(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    finish(command)?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

fn compare(args: &ManagerArgs, makers: &[&dyn Maker], folder: &Path) -> Result<()> {
    for maker in makers {
        let definitions = folder.join("definitions");
        fs::create_dir_all(&definitions)?;
        maker.fill(&definitions, 0..args.domains)?;
    }
    let jobs: [(&str, &[&str]); 4] = [
        ("--version", &["--version"]),
        ("list --all", &["list", "--all"]),
        ("dominfo", &["dominfo", "bench7"]),
        ("dumpxml", &["dumpxml", "bench7"]),
    ];
    for (title, words) in jobs {
        let mut rows = empty(makers);
        for _ in 0..args.rounds {
            for (at, maker) in makers.iter().enumerate() {
                rows[at].1.add(time(&mut maker.command(words))?);
            }
        }
        table(title, "ms", &rows);
    }
    let mut rows = empty(makers);
    for round in 0..args.rounds {
        let number = args.domains + round;
        let path = folder.join("one.xml");
        fs::write(&path, definition(number))?;
        let file = path.display().to_string();
        for (at, maker) in makers.iter().enumerate() {
            rows[at]
                .1
                .add(time(&mut maker.command(&["define", &file]))?);
        }
    }
    table("define, one by one", "ms", &rows);
    Ok(())
}

fn empty(makers: &[&dyn Maker]) -> Vec<(String, Samples)> {
    makers
        .iter()
        .map(|maker| (maker.name().to_string(), Samples::default()))
        .collect()
}

/// What the table of growth measures: its title and the words, with the definition's file, the
/// name of the domain in it and the UUID of another put in.
const GROWTH: [(&str, &[&str]); 8] = [
    ("list --all", &["list", "--all"]),
    ("define", &["define", "FILE"]),
    ("undefine", &["undefine", "NEW"]),
    ("dominfo", &["dominfo", "bench7"]),
    ("domstate", &["domstate", "bench7"]),
    ("dumpxml", &["dumpxml", "bench7"]),
    ("by UUID", &["domname", "UUID"]),
    ("--version", &["--version"]),
];

/// Our cost by the number of domains, in one table.
fn grow(args: &ManagerArgs, ours: &Ours) -> Result<()> {
    println!("\nvm by the number of domains (ms, medians)");
    let titles = GROWTH.map(|(title, _)| format!("{title:>10}"));
    println!("{:>9}  {}", "domains", titles.join(" "));
    let uuid = format!("5d6e8a10-0000-4000-8000-{:012x}", 7);
    for size in &args.growth {
        // A store from scratch: nothing of the last size is left.
        if ours.root.exists() {
            fs::remove_dir_all(&ours.root)?;
        }
        ours.fill(&ours.root, 0..*size)?;
        // A store at rest: what was written a moment ago is read again by everybody.
        std::thread::sleep(Duration::from_secs(1));
        let mut columns = GROWTH.map(|_| Samples::default());
        let path = ours.root.join("one.xml");
        let file = path.display().to_string();
        for round in 0..args.rounds {
            let number = size + round;
            let new = format!("bench{number}");
            fs::write(&path, definition(number))?;
            for (column, (_, words)) in columns.iter_mut().zip(GROWTH) {
                let put = |word: &&'static str| match *word {
                    "FILE" => file.clone(),
                    "NEW" => new.clone(),
                    "UUID" => uuid.clone(),
                    word => word.to_string(),
                };
                let words: Vec<String> = words.iter().map(put).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                column.add(time(&mut ours.command(&words))?);
            }
        }
        let medians: Vec<String> = columns
            .iter()
            .map(|column| column.summary().map_or(0.0, |(median, ..)| median))
            .map(|median| format!("{median:>10.2}"))
            .collect();
        println!("{size:>9}  {}", medians.join(" "));
    }
    Ok(())
}

/// KiB that our daemon has in memory when it has nothing to do.
fn idle_daemon(ours: &Ours) -> Result<u64> {
    let mut command = ours.command(&["daemon"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut daemon = command.stderr(Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(3));
    let ended = daemon.try_wait()?;
    let resident = resident(daemon.id());
    daemon.kill()?;
    daemon.wait()?;
    match ended {
        Some(status) => bail!("vm daemon ended with {status}"),
        None => resident,
    }
}

/// KiB that a process has in memory.
fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.context("/proc does not tell the memory of a process")
}
