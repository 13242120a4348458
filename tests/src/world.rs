//! A store of its own with the real `vm` and the real `vmm`, as a person has them.

use crate::{guest, program};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A store in a folder of its own. Whatever runs in it is destroyed with it.
#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
    /// The process in whose network namespace everything runs.
    network: Option<Child>,
}

impl World {
    /// An empty store and a disk of 16 MiB beside it.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let network = None;
        let world = Self { dir, network };
        let disk = fs::File::create(world.path("disk.raw")).expect("a disk");
        disk.set_len(16 << 20).expect("a disk");
        world
    }

    /// A world whose network nobody else sees; `None` where that may not be made.
    pub fn with_network() -> Option<Self> {
        let mut world = Self::new();
        world.network = Some(hold_namespace()?);
        Some(world)
    }

    /// Another host, on a cable of its own: here its end is `cable`, there it is `eth0` and is on.
    pub fn neighbour(&self, cable: &str) -> Neighbour {
        let holder = hold_namespace().expect("a namespace");
        let there = format!("{cable}-there");
        self.run(&format!("ip link add {cable} type veth peer name {there}"));
        self.run(&format!("ip link set {there} netns {}", holder.id()));
        self.run(&format!("ip link set {cable} up"));
        let neighbour = Neighbour { holder };
        neighbour.run(&format!("ip link set {there} name eth0"));
        neighbour.run("ip link set eth0 up");
        neighbour
    }

    /// Where the cores of guests that crashed are.
    pub fn dumps(&self) -> PathBuf {
        self.path("store").join("var/lib/vm/dump")
    }

    /// A file beside the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Defines a domain that runs the test guest.
    pub fn define(&self, name: &str, cmdline: &str) {
        self.define_with(name, cmdline, "");
    }

    /// As [`World::define`], with more devices.
    pub fn define_with(&self, name: &str, cmdline: &str, devices: &str) {
        let kernel = guest::build().expect("the test guest");
        let xml = format!(
            "<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{}</kernel>
    <cmdline>{cmdline}</cmdline>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <serial type='pty'/>
    {devices}
  </devices>
</domain>
",
            kernel.display(),
            self.path("disk.raw").display()
        );
        self.define_xml(&xml);
    }

    /// Defines what the text says.
    pub fn define_xml(&self, xml: &str) {
        let path = self.path("x.xml");
        fs::write(&path, xml).expect("a definition");
        self.ok(&["define", &path.display().to_string()]);
    }

    /// A program in this world's network.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.network {
            Some(holder) => within(holder, program.as_ref()),
            None => Command::new(program),
        }
    }

    /// What a program that must succeed prints; the words are those of a command line.
    pub fn run(&self, line: &str) -> String {
        run(line, |program| self.program(program))
    }

    /// `vm` with these arguments, on this store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(program::vm().expect("vm"));
        command
            .args(arguments)
            .env("VM_STORE_ROOT", self.path("store"))
            .env("VM_VMM", program::vmm().expect("vmm"))
            .stdin(Stdio::null());
        command
    }

    /// What `vm` answers.
    pub fn vm(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("vm runs")
    }

    /// What a `vm` that must succeed prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.vm(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vm {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a `vm` that must fail says.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.vm(arguments);
        assert_eq!(output.status.code(), Some(1), "vm {arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The guest's process, as the record of its run has it.
    pub fn pid(&self, name: &str) -> i32 {
        let uuid = self.ok(&["-q", "domuuid", name]);
        let path = self.path(&format!("store/run/vm/{}/run.json", uuid.trim()));
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON");
        let pid = i32::try_from(record["process"]["pid"].as_i64().expect("a pid"));
        pid.expect("a pid")
    }

    /// A handle to that process.
    pub fn process(&self, name: &str) -> OwnedFd {
        let pid = Pid::from_raw(self.pid(name)).expect("a pid");
        pidfd_open(pid, PidfdFlags::empty()).expect("a process")
    }
}

/// A host beside a world's, with a network of its own.
#[derive(Debug)]
pub struct Neighbour {
    holder: Child,
}

impl Neighbour {
    /// What a program that must succeed prints there.
    pub fn run(&self, line: &str) -> String {
        run(line, |program| within(&self.holder, program.as_ref()))
    }

    /// Whether that address answers, asked so many times.
    pub fn reaches(&self, address: &str, times: u32) -> bool {
        let ping = if address.contains(':') {
            "ping6"
        } else {
            "ping"
        };
        (0..times).any(|_| {
            let mut command = within(&self.holder, "busybox".as_ref());
            command.args([ping, "-c", "1", "-W", "1", address]);
            command.output().expect("busybox").status.success()
        })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// A process that keeps a network namespace, until its input ends.
fn hold_namespace() -> Option<Child> {
    let mut holder = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && echo ready && cat",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut first = [0; 6];
    holder.stdout.as_mut()?.read_exact(&mut first).ok()?;
    Some(holder)
}

/// A program in the network of a process.
fn within(holder: &Child, program: &OsStr) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", holder.id()));
    command.arg(program);
    command
}

fn run<'a>(line: &'a str, program: impl Fn(&'a str) -> Command) -> String {
    let mut words = line.split_whitespace();
    let mut command = program(words.next().expect("a program"));
    let output = command.args(words).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let ids = self.vm(&["list", "--id"]).stdout;
        for id in String::from_utf8_lossy(&ids).split_whitespace() {
            self.vm(&["destroy", id]);
        }
        // A network's server would outlive the namespace.
        let networks = match self.network {
            Some(_) => self.vm(&["net-list", "--name"]).stdout,
            None => Vec::new(),
        };
        for name in String::from_utf8_lossy(&networks).split_whitespace() {
            self.vm(&["net-destroy", name]);
        }
        if let Some(holder) = &mut self.network {
            // It ends with its input.
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}
