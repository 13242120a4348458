//! Helpers of the host's that put themselves into the background once they serve (dnsmasq, passt):
//! starting one, and ending one for certain.
//!
//! Such a program closes what it inherited and leads a session of its own, so it outlives whoever
//! started it. Until it serves it is our child, and how that ends is its verdict.

use crate::error::{Error, Kind, Result};
use crate::spawn::{self, Plan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How long it may take to serve.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to end, after each of two signals.
const LEAVE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

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
    for signal in [Signal::TERM, Signal::KILL] {
        // It fails only when it is gone already.
        let _ = pidfd_send_signal(process, signal);
        let mut waiting = [PollFd::new(process, PollFlags::IN)];
        if matches!(poll(&mut waiting, Some(&LEAVE)), Ok(1..)) {
            return;
        }
    }
}
