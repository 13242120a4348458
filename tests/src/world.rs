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
        let ready = holder.stdout.as_mut()?.read_exact(&mut first);
        ready.ok()?;
        let mut world = Self::new();
        world.network = Some(holder);
        Some(world)
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
        let Some(holder) = &self.network else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", holder.id()));
        command.arg(program);
        command
    }

    /// What a program that must succeed prints; the words are those of a command line.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = self.program(words.next().expect("a program"));
        let output = command.args(words).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
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
