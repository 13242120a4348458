//! A group of its own for each guest, so that it is not ended with the session, unit or cron job
//! that started it.
//!
//! With systemd the guest becomes `machine.slice/vm-NAME.scope`: systemd is asked over its bus,
//! because groups made behind its back are removed by it. The system's scopes are ordered before
//! `vm-guests.service` and after mounts and network: when the host goes down, that unit's command
//! comes first, then the scopes end, then what guests need goes. Without systemd a group is made directly
//! where cgroup v2 is writable. Otherwise the guest stays where it was born, which only matters to
//! those who end whole groups; a line in the guest's log says so and why. A guest that starts is
//! worth more than its group: nothing here is ever an error.

use super::limits::Limits;
use crate::error::plain_io;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where cgroup v2 is mounted.
const BASE: &str = "/sys/fs/cgroup";

/// Properties of the system's scopes: what they come before and after at boot, the other way round
/// at shutdown.
const ORDER: &[&str] = &[
    "Before",
    "as",
    "1",
    "vm-guests.service",
    "After",
    "as",
    "3",
    "local-fs.target",
    "remote-fs.target",
    "network.target",
];

/// Where a guest's process goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Group {
    /// A scope that systemd makes.
    Scope(String),
    /// A cgroup v2 directory.
    Directory(std::path::PathBuf),
    /// Nowhere, and why not.
    None(String),
}

impl Group {
    /// Decides for a guest on this host.
    pub fn for_guest(name: &str) -> Self {
        Self::for_unit(format!("vm-{}.scope", escape(name)))
    }

    /// Decides for the server of a network. No guest's unit is called so: a dash in a name is
    /// written in another way.
    pub fn for_network(name: &str) -> Self {
        Self::for_unit(format!("vm-net-{}.scope", escape(name)))
    }

    /// Decides for what carries the network of a guest. No guest's unit is called so either.
    pub fn for_helper(name: &str) -> Self {
        Self::for_unit(format!("vm-passt-{}.scope", escape(name)))
    }

    fn for_unit(unit: String) -> Self {
        if Path::new("/run/systemd/system").is_dir() {
            return Self::Scope(unit);
        }
        let base = Path::new(BASE);
        if !base.join("cgroup.controllers").exists() {
            return Self::None(format!("there is no cgroup v2 at {BASE}, and no systemd"));
        }
        let directory = base.join("machine.slice").join(&unit);
        match fs::create_dir_all(&directory) {
            Ok(()) => Self::Directory(directory),
            Err(error) => {
                let why = plain_io(&error);
                Self::None(format!("cannot make {}: {why}", directory.display()))
            }
        }
    }

    /// The file through which a child joins before it runs.
    pub fn procs(&self) -> Option<OwnedFd> {
        let Self::Directory(directory) = self else {
            return None;
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(directory.join("cgroup.procs"), flags, Mode::empty()).ok()
    }

    /// Whether a process joins only after it was started, by [`Self::adopt`].
    pub fn adopts_later(&self) -> bool {
        matches!(self, Self::Scope(_))
    }

    /// Sets limits, where that is done before a process is there; says which could not be set.
    pub fn limit(&self, limits: &Limits) -> Vec<String> {
        match self {
            // Told to systemd with the scope.
            Self::Scope(_) => Vec::new(),
            Self::Directory(directory) => limit(directory, limits),
            Self::None(_) if limits.is_empty() => Vec::new(),
            Self::None(why) => vec![format!("its limits have no effect: {why}")],
        }
    }

    /// Moves a process that was just started, where that is done from outside. Says why a process
    /// stays in its caller's group, if it does.
    pub fn adopt(&self, pid: u32, limits: &Limits) -> Option<String> {
        match self {
            Self::None(why) => Some(why.clone()),
            Self::Scope(unit) => scope(unit, pid, limits),
            Self::Directory(directory) => {
                let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let unit = directory.file_name().unwrap_or_default().to_string_lossy();
                // One that has ended already is in no group, and needs none.
                let outside = own.lines().any(|line| line.starts_with("0::"))
                    && !own.lines().any(|line| line.ends_with(&*unit));
                outside.then(|| format!("it could not join {}", directory.display()))
            }
        }
    }
}

/// Writes a group's limits. Its controllers are turned on from the root down, as far as they go.
fn limit(directory: &Path, limits: &Limits) -> Vec<String> {
    let mut failed = Vec::new();
    for (controller, file, value) in limits.files() {
        let above: Vec<&Path> = directory
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(BASE))
            .collect();
        for group in above.into_iter().rev() {
            // One that is on already stays on; one that cannot be turned on shows below.
            let _ = fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        if let Err(error) = fs::write(directory.join(file), value) {
            failed.push(format!("{file} has no effect: {}", plain_io(&error)));
        }
    }
    failed
}

/// A scope of that name, or of one that is free: two stores may have a domain of the same name.
fn scope(unit: &str, pid: u32, limits: &Limits) -> Option<String> {
    let Err(why) = ask_systemd(unit, pid, limits) else {
        return wait_until_in(unit, pid);
    };
    let stem = unit.trim_end_matches(".scope");
    let taken = why.contains("already loaded") || why.contains("already exists");
    let second = format!("{stem}-{pid}.scope");
    if taken && ask_systemd(&second, pid, limits).is_ok() {
        return wait_until_in(&second, pid);
    }
    Some(format!("systemd made no scope {unit}: {why}"))
}

/// systemd only promises to move the process. Whoever started it may end at once, and a service's
/// end takes everything with it that is still in its group.
fn wait_until_in(unit: &str, pid: u32) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        // One that has ended already needs no group.
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        if own.is_empty() || own.lines().any(|line| line.ends_with(unit)) {
            return None;
        }
        if Instant::now() >= deadline {
            return Some(format!("systemd has not yet made the scope {unit}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes what is left of an ended guest's group. systemd cleans its scopes by itself.
pub fn forget(name: &str) {
    forget_unit(&format!("vm-{}.scope", escape(name)));
    forget_unit(&format!("vm-passt-{}.scope", escape(name)));
}

/// The same for the server of a network.
pub fn forget_network(name: &str) {
    forget_unit(&format!("vm-net-{}.scope", escape(name)));
}

fn forget_unit(unit: &str) {
    let path = Path::new(BASE).join("machine.slice").join(unit);
    if !Path::new("/run/systemd/system").is_dir() {
        let _ = fs::remove_dir(path);
    }
}

fn ask_systemd(unit: &str, pid: u32, limits: &Limits) -> Result<(), String> {
    let mut command = Command::new("busctl");
    let pid = pid.to_string();
    let (slice, count, order): (_, usize, &[&str]) = if rustix::process::geteuid().is_root() {
        ("machine.slice", 5, ORDER)
    } else {
        command.arg("--user");
        ("app.slice", 3, &[])
    };
    let properties = limits.properties();
    let count = (count + properties.len()).to_string();
    let properties = properties
        .into_iter()
        .flat_map(|(name, value)| [name.to_string(), "t".into(), value.to_string()]);
    command
        .args(["--quiet", "--timeout=5", "call", "org.freedesktop.systemd1"])
        .args([
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        ])
        .args([
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            unit,
            "replace",
            &count,
        ])
        .args(["PIDs", "au", "1", &pid, "Slice", "s", slice])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .args(order)
        .args(properties)
        .arg("0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
}

/// A name as a part of a unit's name: letters, digits and a few signs stay, bytes else are
/// written as `\xNN` (systemd.unit(5)).
fn escape(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes().take(200) {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_unit_names() {
        assert_eq!(escape("centos7"), "centos7");
        assert_eq!(escape("web-01 a/b"), "web\\x2d01\\x20a\\x2fb");
    }
}
