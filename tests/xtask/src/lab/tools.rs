//! Programs out of a Debian root folder, the lab host's or the emulator's, run on this machine without
//! installing them.
//!
//! The folder's own loader and libraries are used, so nothing depends on this machine's versions;
//! QEMU is told where its modules and firmware are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a root has libraries; one that was only unpacked has some outside of usr.
const LIBRARIES: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/pulseaudio",
    "lib/x86_64-linux-gnu",
];
const QEMU_MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";

/// The programs of a root folder.
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Programs below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A command for the program `name`.
    pub fn command(&self, name: &str) -> Command {
        let path = LIBRARIES.map(|place| self.root.join(place).display().to_string());
        let mut command = Command::new(self.root.join("lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(path.join(":"))
            .arg(self.program(name));
        command.env("QEMU_MODULE_DIR", self.root.join(QEMU_MODULES));
        command
    }

    /// The system emulator of this root.
    pub fn qemu(&self) -> Command {
        let mut command = self.command("qemu-system-x86_64");
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command
    }

    fn program(&self, name: &str) -> PathBuf {
        let places = ["usr/bin", "usr/sbin"];
        let found = places.iter().map(|place| self.root.join(place).join(name));
        found
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| Path::new(name).into())
    }
}
