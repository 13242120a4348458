//! A store of its own for each test, guests without KVM, and `vm` as people run it.
#![allow(dead_code, reason = "each test file uses its part of this")]

pub mod daemon;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A place with a store, a kernel file, and a `vm` that runs fake guests.
pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let world = Self { dir };
        let mut kernel = vec![0u8; 0x300];
        kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(world.path("vmlinuz"), kernel).expect("a kernel");
        // `domain NAME [WORDS]` prints a small definition.
        let script = format!(
            "#!/bin/sh\nname=$1; shift\nsed -e \"s|NAME|$name|\" -e \"s|WORDS|$*|\" <<'END'\n{}END\n",
            world.xml("NAME", "WORDS")
        );
        let domain = world.path("bin/domain");
        fs::create_dir(world.path("bin")).expect("a directory");
        fs::write(&domain, script).expect("a script");
        fs::set_permissions(&domain, Permissions::from_mode(0o755)).expect("a script");
        world
    }

    /// A path in the place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the store.
    pub fn store(&self, name: &str) -> PathBuf {
        self.path("store").join(name)
    }

    /// A small definition.
    pub fn xml(&self, name: &str, cmdline: &str) -> String {
        format!(
            "<domain type='kvm'>\n  <name>{name}</name>\n  <memory unit='MiB'>64</memory>\n  \
             <vcpu>1</vcpu>\n  <os>\n    <type arch='x86_64' machine='q35'>hvm</type>\n    \
             <kernel>{}</kernel>\n    <cmdline>console=ttyS0 {cmdline}</cmdline>\n  </os>\n  \
             <devices>\n    <serial type='pty'/>\n  </devices>\n</domain>\n",
            self.path("vmlinuz").display()
        )
    }

    /// Writes a small definition to NAME.xml.
    pub fn write_xml(&self, name: &str, cmdline: &str) -> PathBuf {
        let path = self.path(&format!("{name}.xml"));
        fs::write(&path, self.xml(name, cmdline)).expect("a definition");
        path
    }

    /// A command in this world.
    pub fn command(&self, program: &str) -> Command {
        let vm = Path::new(env!("CARGO_BIN_EXE_vm"));
        let folder = vm.parent().expect("the binary lies in a folder");
        let fake = folder.join("examples/fake-vmm");
        assert!(
            fake.is_file(),
            "{} is not built: run the tests with cargo test -p virshlike",
            fake.display()
        );
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.dir.path())
            .env(
                "PATH",
                format!("{}:{}:{path}", self.path("bin").display(), folder.display()),
            )
            .env("VM_STORE_ROOT", self.path("store"))
            .env("VM_VMM", fake)
            .env("VM_KVM_DEVICE", "/dev/null")
            .env("TMPDIR", self.dir.path())
            .env_remove("VM_FAULT")
            .env_remove("VM_DEFAULT_URI")
            .env_remove("VISUAL")
            .env_remove("EDITOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs `vm` with these arguments.
    pub fn vm(&self, arguments: &[&str]) -> Output {
        self.command("vm")
            .args(arguments)
            .output()
            .expect("vm runs")
    }

    /// Runs `vm` and wants success; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.vm(arguments);
        assert!(
            output.status.success(),
            "vm {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `vm` and wants failure with exit code 1; its standard error.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.vm(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "vm {arguments:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Text with what differs from run to run made the same.
    pub fn normalise(&self, text: &str) -> String {
        let text = text.replace(&self.dir.path().display().to_string(), "/W");
        let mut result = String::new();
        let mut rest = text.as_str();
        while let Some(found) = rest.char_indices().find_map(|(at, _)| {
            let tail = rest.get(at..)?;
            is_uuid(tail.get(..36)?).then_some(at)
        }) {
            result.push_str(&rest[..found]);
            result.push_str("UUID");
            rest = &rest[found + 36..];
        }
        result.push_str(rest);
        result
            .lines()
            .map(|line| {
                for (mark, same) in [("/dev/pts/", "/dev/pts/N"), ("vm-edit-", "vm-edit-X")] {
                    if let Some((before, after)) = line.split_once(mark) {
                        let after = after.trim_start_matches(|one: char| one.is_alphanumeric());
                        return format!("{before}{same}{after}");
                    }
                }
                line.to_string()
            })
            .map(|line| line + "\n")
            .collect()
    }
}

impl Drop for World {
    /// Ends the guests of the test, so that none outlives it.
    fn drop(&mut self) {
        let output = self.command("vm").args(["list", "--id"]).output();
        let Ok(output) = output else { return };
        for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            let _ = self.command("vm").args(["destroy", id]).output();
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
