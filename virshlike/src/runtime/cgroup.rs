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

use super::limits::{Limit, Limits};
use crate::error::plain_io;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
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
    Directory(PathBuf),
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
        // One that a failed start has left would keep its limits; one with processes stays.
        let _ = fs::remove_dir(&directory);
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

/// Writes a group's limits; says which could not be set.
fn limit(directory: &Path, limits: &Limits) -> Vec<String> {
    let written = limits.given().into_iter().map(|one| write(directory, one));
    let failed = written.filter_map(Result::err);
    failed
        .map(|(file, why)| format!("{file} has no effect: {why}"))
        .collect()
}

/// Writes one limit of a group. Its controller is turned on from the root down, as far as that goes.
fn write(directory: &Path, limit: Limit) -> Result<(), (&'static str, String)> {
    let (controller, file, value) = limit.file();
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
    fs::write(directory.join(file), value).map_err(|error| (file, plain_io(&error)))
}

/// The group of a guest that runs: one of its own, or nothing is known or changed here.
#[derive(Debug)]
pub struct Living {
    directory: PathBuf,
    /// The scope, where systemd owns the group.
    unit: Option<String>,
}

impl Living {
    /// That of a guest's process.
    ///
    /// # Errors
    /// Why it has none of its own.
    pub fn of(pid: u32) -> Result<Self, String> {
        if !Path::new(BASE).join("cgroup.controllers").exists() {
            return Err(format!("there is no cgroup v2 at {BASE}"));
        }
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let text = text.map_err(|error| plain_io(&error))?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = group.unwrap_or_default();
        let unit = group.rsplit('/').next().unwrap_or_default();
        if !unit.starts_with("vm-") || !unit.ends_with(".scope") {
            return Err("it is in the group of what started it".into());
        }
        let systemd = Path::new("/run/systemd/system").is_dir();
        Ok(Self {
            directory: Path::new(BASE).join(group),
            unit: systemd.then(|| unit.to_string()),
        })
    }

    /// The limits that it has now.
    pub fn limits(&self) -> Limits {
        Limits::of_files(|name| fs::read_to_string(self.directory.join(name)).ok())
    }

    /// Bytes of memory that it uses now.
    pub fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join("memory.current"));
        text.ok()?.trim().parse().ok()
    }

    /// Changes one limit.
    ///
    /// # Errors
    /// What the kernel or systemd says.
    pub fn set(&self, limit: Limit) -> Result<(), String> {
        let Some(unit) = &self.unit else {
            return write(&self.directory, limit).map_err(|(file, why)| format!("{file}: {why}"));
        };
        let properties = limit.properties();
        let count = properties.len().to_string();
        let runtime = ["SetUnitProperties", "sba(sv)", unit, "true", &count];
        call_systemd(&runtime.map(String::from), as_numbers(properties))
    }
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
    let pid = pid.to_string();
    let (slice, count, order): (_, usize, &[&str]) = match rustix::process::geteuid().is_root() {
        true => ("machine.slice", 5, ORDER),
        false => ("app.slice", 3, &[]),
    };
    let properties = limits.properties();
    let count = (count + properties.len()).to_string();
    let start = ["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace"];
    let place = ["PIDs", "au", "1", &pid, "Slice", "s", slice];
    let collect = ["CollectMode", "s", "inactive-or-failed"];
    let words = start.into_iter().chain([count.as_str()]);
    let words = words.chain(place).chain(collect);
    let words: Vec<String> = words
        .chain(order.iter().copied())
        .map(String::from)
        .collect();
    let end = as_numbers(properties).chain(["0".to_string()]);
    call_systemd(&words, end)
}

/// Properties as busctl(1) takes them.
fn as_numbers(properties: Vec<(&'static str, u64)>) -> impl Iterator<Item = String> {
    let words = |(name, value): (&str, u64)| [name.into(), "t".into(), value.to_string()];
    properties.into_iter().flat_map(words)
}

/// Calls a method of the systemd that owns our groups: the system's, or a user's own.
fn call_systemd(words: &[String], more: impl Iterator<Item = String>) -> Result<(), String> {
    let mut command = Command::new("busctl");
    if !rustix::process::geteuid().is_root() {
        command.arg("--user");
    }
    command
        .args(["--quiet", "--timeout=5", "call", "org.freedesktop.systemd1"])
        .args([
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        ])
        .args(words)
        .args(more)
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
