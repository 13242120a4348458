//! Starting a guest's process, locks, taps and waiting for descriptors: the one room of this crate with `unsafe` in it.
//!
//! A `vmm` outlives whoever started it. So it gets its own session, ignores the hang-up of the
//! terminal, and inherits exactly the descriptors that its spec names: everything else that the
//! caller happened to have open is closed, or a guest would keep a shell's pipes and locks alive.
//! This module must never know what the descriptors are for.

mod lock;
mod numa;
mod tap;
mod wait;

pub use lock::{byte_is_locked, is_locked, take_lock};
pub use numa::MemoryPolicy;
pub use tap::{Tap, mtu};
pub use wait::readable;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A process to start.
#[derive(Debug)]
pub struct Plan {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Descriptors that it inherits, under the same numbers.
    pub descriptors: Vec<RawFd>,
    /// Its standard output and standard error.
    pub output: File,
    /// An open `cgroup.procs` of the group that it joins before it runs.
    pub cgroup: Option<OwnedFd>,
    /// From which of the host's nodes its memory comes; any when absent.
    pub memory: Option<MemoryPolicy>,
}

/// Starts the process.
///
/// # Errors
/// What fork, exec or the preparation between them says.
pub fn spawn(plan: Plan) -> io::Result<Child> {
    spawn_as(plan, None)
}

/// As [`spawn`], under another name than its program's where one is given.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_as(plan: Plan, name: Option<&str>) -> io::Result<Child> {
    let output = plan.output.try_clone()?;
    let mut command = Command::new(plan.program);
    if let Some(name) = name {
        command.arg0(name);
    }
    command
        .args(plan.arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(plan.output)
        .current_dir("/");
    let descriptors = plan.descriptors;
    let cgroup = plan.cgroup;
    let memory = plan.memory;
    let prepare = move || {
        memory.as_ref().map_or(Ok(()), MemoryPolicy::apply)?;
        prepare(&descriptors, cgroup.as_ref())
    };
    // SAFETY: `prepare` runs between fork and exec of a process that may have threads, so it must
    // only make async-signal-safe calls: it makes plain system calls and does not allocate.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Runs in the child. System calls only: no allocation, no locks.
fn prepare(descriptors: &[RawFd], cgroup: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(group) = cgroup {
        // "0" is the writer itself. A group that cannot be joined does not stop a guest.
        let _ = rustix::io::write(group, b"0");
    }
    rustix::process::setsid()?;
    // SAFETY: setting a disposition to SIG_IGN installs no handler.
    if unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    close_on_exec_from(3);
    for descriptor in descriptors {
        // SAFETY: fcntl on a number touches no memory; a number that is not open is an error.
        if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn close_on_exec_from(first: libc::c_uint) {
    // SAFETY: close_range with CLOEXEC marks descriptors and touches no memory.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return;
    }
    // Kernels before 5.11: mark them one by one, as far as a process usually goes.
    for descriptor in 3..65_536 {
        // SAFETY: fcntl on a number touches no memory; a number that is not open is ignored.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Takes over a descriptor that this process was started with under a known number.
///
/// # Errors
/// A number that is not open.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number touches no memory.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `copy` was just created by the call above and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::os::fd::AsRawFd;

    fn output_of(script: &str, descriptors: Vec<RawFd>) -> String {
        let mut output = tempfile::tempfile().unwrap();
        let mut child = spawn(Plan {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            descriptors,
            output: output.try_clone().unwrap(),
            cgroup: None,
            memory: None,
        })
        .unwrap();
        assert!(child.wait().unwrap().success());
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_child_has_what_it_was_given_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let given = File::create(dir.path().join("given")).unwrap();
        let other = File::create(dir.path().join("other")).unwrap();
        // As a descriptor that a caller left open without close-on-exec.
        rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
        let script = "for f in /proc/$$/fd/*; do echo ${f##*/} $(readlink $f); done";
        let text = output_of(script, vec![given.as_raw_fd()]);
        let expected = format!("{} {}/given", given.as_raw_fd(), dir.path().display());
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert!(!text.contains("/other"), "{text}");
    }

    #[test]
    fn a_child_leads_its_own_session() {
        let text = output_of("cut -d' ' -f1,6 /proc/$$/stat", vec![]);
        let mut words = text.split_whitespace();
        assert_eq!(words.next(), words.next(), "{text}");
    }
}
