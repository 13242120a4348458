//! Helpers of the host's that put themselves into the background once they serve (dnsmasq, passt):
//! starting one, and ending one for certain.
//!
//! Nothing here may signal a process that only calls itself so: who has the right words in its command
//! line must also be owned by whom a helper of ours is owned by, and run that program ([`is_ours`]). A
//! handle is taken before a process is looked at, so that its number cannot change hands meanwhile.
//!
//! Such a program closes what it inherited and leads a session of its own, so it outlives whoever
//! started it. Until it serves it is our child, and how that ends is its verdict.

use crate::error::{Error, Kind, Result};
use crate::spawn::{self, Plan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long it may take to serve.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to end, after each of two signals.
const LEAVE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Numbers of users below are the system's own (Debian's policy 9.2.2).
const FIRST_PERSON: u32 = 1000;
/// Nobody: Debian's, and Fedora's of old.
const NOBODY: [u32; 2] = [65534, 99];

/// Starts a helper, under another name than its program's where one is given, and waits until it has
/// gone into the background or given up: its status.
///
/// # Errors
/// There is no process, or it did neither in time.
pub fn launch(plan: Plan, name: Option<&str>) -> Result<ExitStatus> {
    let program = plan.program.clone();
    let mut child =
        spawn::spawn_as(plan, name).map_err(|error| Error::io("start", &program, &error))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                // Both fail only when it is gone already.
                let _ = child.kill();
                let _ = child.wait();
                let name = program.file_name().unwrap_or_default().to_string_lossy();
                let seconds = PATIENCE.as_secs();
                let message = format!("{name} did not serve after {seconds} s");
                return Err(Error::new(Kind::Timeout, message));
            }
        }
    }
}

/// Ends a process and waits until it is gone.
pub fn end(process: &OwnedFd) {
    if !signal(process, Signal::TERM) {
        kill(process);
    }
}

/// As [`end`], without asking.
pub fn kill(process: &OwnedFd) {
    signal(process, Signal::KILL);
}

/// Whether it is gone after this signal.
fn signal(process: &OwnedFd, signal: Signal) -> bool {
    // It fails only when it is gone already.
    let _ = pidfd_send_signal(process, signal);
    let mut waiting = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut waiting, Some(&LEAVE)), Ok(1..))
}

/// The processes of ours that run `program` with a command line that fits (its words, each ended by a
/// null byte).
pub fn find(program: &Path, fits: impl Fn(&[u8]) -> bool) -> Vec<(Pid, OwnedFd)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // Most processes are told by a glance.
    pids.filter(|pid| line_of(*pid).is_some_and(|line| fits(&line)))
        .filter_map(|pid| process(Pid::from_raw(pid)?, program, &fits))
        .collect()
}

/// The process of this number, if it is one of ours that runs `program` with a command line that fits.
pub fn process(pid: Pid, program: &Path, fits: impl Fn(&[u8]) -> bool) -> Option<(Pid, OwnedFd)> {
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let number = pid.as_raw_nonzero().get();
    let line = line_of(number)?;
    (fits(&line) && is_ours(number, program)).then_some((pid, handle))
}

fn line_of(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}

/// Whether a process has the owner of a helper of ours and runs its program. A helper of root's may
/// have become a user of the system's, which no person is. Which program it is can be read of most
/// processes; where it cannot, the owner is this user, who could do worse without us.
fn is_ours(pid: i32, program: &Path) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let Some(owner) = real_owner(&status) else {
        return false;
    };
    let me = rustix::process::geteuid().as_raw();
    let of_system = owner < FIRST_PERSON || NOBODY.contains(&owner);
    if owner != me && !(me == 0 && of_system) {
        return false;
    }
    match fs::read_link(format!("/proc/{pid}/exe")) {
        // One whose mounts are gone, as passt's are, is shown with a part of its path only.
        Ok(runs) => is_program(&runs, program) || is_file(pid, program),
        Err(_) => me != 0,
    }
}

/// The first number of `Uid:`, the real owner.
fn real_owner(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether a process runs this very file, or the build of it for processors with AVX2.
fn is_file(pid: i32, program: &Path) -> bool {
    let identity = |path: &Path| {
        fs::metadata(path)
            .map(|found| (found.dev(), found.ino()))
            .ok()
    };
    let mut build = program.as_os_str().to_os_string();
    build.push(".avx2");
    let runs = identity(Path::new(&format!("/proc/{pid}/exe")));
    runs.is_some() && (runs == identity(program) || runs == identity(Path::new(&build)))
}

/// Whether `/proc/PID/exe` says this program: itself, a build of it for this processor beside it
/// (`passt.avx2`), or the one that was there before an upgrade.
fn is_program(runs: &Path, program: &Path) -> bool {
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_path_buf());
    let runs = runs.to_string_lossy();
    let runs = Path::new(runs.strip_suffix(" (deleted)").unwrap_or(&runs));
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let (Some(is), Some(wanted)) = (name(runs), name(&program)) else {
        return false;
    };
    let build = is.strip_prefix(&wanted);
    runs.parent() == program.parent()
        && build.is_some_and(|build| build.is_empty() || build.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_known_by_its_place() {
        let wanted = Path::new("/usr/sbin/no-such-server");
        for runs in [
            "/usr/sbin/no-such-server",
            "/usr/sbin/no-such-server.avx2",
            "/usr/sbin/no-such-server (deleted)",
        ] {
            assert!(is_program(Path::new(runs), wanted), "{runs}");
        }
        for runs in [
            "/tmp/no-such-server",
            "/usr/sbin/no-such-server2",
            "/usr/sbin/no-such",
            "/usr/sbin",
            "/",
        ] {
            assert!(!is_program(Path::new(runs), wanted), "{runs}");
        }
    }

    #[test]
    fn the_owner_is_the_real_one() {
        let status = "Name:\tUid:\nUid:\t1000\t0\t0\t0\nGid:\t5\n";
        assert_eq!(real_owner(status), Some(1000));
        assert_eq!(real_owner("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_is_ours_and_runs_its_own_program_only() {
        let own = std::process::id().cast_signed();
        let program = std::env::current_exe().unwrap();
        assert!(is_ours(own, &program));
        assert!(!is_ours(own, Path::new("/usr/bin/passt")));
        let pid = Pid::from_raw(own).unwrap();
        assert!(process(pid, &program, |line| !line.is_empty()).is_some());
        assert!(process(pid, &program, |_| false).is_none());
    }
}
