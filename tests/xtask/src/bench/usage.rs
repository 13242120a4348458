//! Runs a program and tells what it used: time, processor, memory.
#![allow(unsafe_code)]

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::project;

/// What a program used, and what it said.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Seconds from its start to its end.
    pub wall: f64,
    /// Seconds of processor time, user and system.
    pub cpu: f64,
    /// Most memory at any time, in MiB.
    pub memory: f64,
    /// Its standard output.
    pub output: String,
}

/// Runs a program that must succeed.
pub fn measure(command: &mut Command) -> Result<Usage> {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", project::describe(command)))?;
    let mut output = String::new();
    if let Some(mut said) = child.stdout.take() {
        said.read_to_string(&mut output)
            .context("cannot read a program's output")?;
    }
    let (status, cpu, memory) = wait(child)?;
    if status != 0 {
        bail!("{} failed: {output}", project::describe(command));
    }
    Ok(Usage {
        wall: started.elapsed().as_secs_f64(),
        cpu,
        memory,
        output,
    })
}

/// Waits for a program: its wait status, its processor time in seconds, its most memory in MiB.
pub fn wait(child: Child) -> Result<(i32, f64, f64)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, all zero is a valid value.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = i32::try_from(child.id()).context("a process number")?;
    // SAFETY: both pointers are to live, writable values. The child is waited for here alone: the
    // handle is dropped without another wait.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut used) };
    drop(child);
    if waited != pid {
        bail!("cannot wait for process {pid}");
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let cpu = seconds(used.ru_utime) + seconds(used.ru_stime);
    Ok((status, cpu, used.ru_maxrss as f64 / 1024.0))
}
