//! The threads of a guest's process: what the kernel tells of them (proc(5)), and where they may run.
//! Must never be used to find out whether a guest lives.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// Nanoseconds of a clock tick of /proc, 100 of which are a second on every architecture that KVM has.
const TICK: u64 = 10_000_000;

/// The thread of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuUse {
    /// Which vCPU.
    pub index: u32,
    /// The host's processor that it ran on last.
    pub processor: u32,
    /// Nanoseconds of CPU time.
    pub cpu_time_ns: u64,
    /// Processors that it may run on, as a list such as `0-3`.
    pub allowed: String,
}

/// The vCPU threads of a process in the order of their numbers; none where they cannot be seen.
pub fn vcpus_of(pid: u32) -> Vec<VcpuUse> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let mut vcpus: Vec<VcpuUse> = tasks.filter_map(|task| vcpu(&task.path())).collect();
    vcpus.sort_by_key(|vcpu| vcpu.index);
    vcpus
}

/// Processors that the iothreads of a process may run on, by their numbers; those that have not been
/// started are not among them.
pub fn iothreads_of(pid: u32) -> BTreeMap<u32, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let iothread = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let id = name.trim_end().strip_prefix("iothread")?.parse().ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        Some((id, allowed_of(&status)?))
    };
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(iothread)
        .collect()
}

fn vcpu(task: &Path) -> Option<VcpuUse> {
    let read = |name: &str| fs::read_to_string(task.join(name)).ok();
    let name = read("comm")?;
    let index = name.trim_end().strip_prefix("vcpu")?.parse().ok()?;
    let (processor, ticks) = of_stat(&read("stat")?)?;
    let exact = read("schedstat").and_then(|text| text.split(' ').next()?.parse().ok());
    let status = read("status")?;
    Some(VcpuUse {
        index,
        processor,
        cpu_time_ns: exact.unwrap_or(ticks.saturating_mul(TICK)),
        allowed: allowed_of(&status)?,
    })
}

/// Fields 39, and 14 and 15 together: the processor, and ticks in user and kernel mode.
fn of_stat(stat: &str) -> Option<(u32, u64)> {
    // The command in parentheses may contain anything, so fields are counted after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    Some((u32::try_from(number(39)?).ok()?, ticks))
}

/// CPU time of a whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProcessTimes {
    /// Nanoseconds in the program, guest code among them.
    pub user_ns: u64,
    /// Nanoseconds in the kernel.
    pub system_ns: u64,
}

/// What a process has used so far, to a hundredth of a second.
pub fn process_times(pid: u32) -> Option<ProcessTimes> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(14 - 3);
    let mut next = || ticks.next()?.parse::<u64>().ok();
    Some(ProcessTimes {
        user_ns: next()?.saturating_mul(TICK),
        system_ns: next()?.saturating_mul(TICK),
    })
}

/// The processors that a process's first thread may run on, as a list such as `0-3`.
pub fn allowed(pid: u32) -> Option<String> {
    allowed_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn allowed_of(status: &str) -> Option<String> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_string())
}

/// Lets one vCPU's thread run on these processors only.
///
/// # Errors
/// There is no such thread; none of the processors is there.
pub fn pin_vcpu(pid: u32, index: u32, list: &BTreeSet<u32>) -> io::Result<()> {
    match pin_named(pid, &format!("vcpu{index}"), list)? {
        0 => Err(io::Error::other("it has no such thread")),
        _ => Ok(()),
    }
}

/// Lets the threads of one iothread run on these processors only: one for each engine of its disks, and
/// none where no disk names it.
///
/// # Errors
/// None of the processors is there.
pub fn pin_iothread(pid: u32, id: u32, list: &BTreeSet<u32>) -> io::Result<()> {
    pin_named(pid, &format!("iothread{id}"), list).map(drop)
}

/// Pins all threads of this name; how many these are.
fn pin_named(pid: u32, name: &str, list: &BTreeSet<u32>) -> io::Result<usize> {
    let mut count = 0;
    for (thread, _) in tasks_of(pid).filter(|(_, comm)| comm == name) {
        pin(thread, list)?;
        count += 1;
    }
    Ok(count)
}

/// Lets every thread that is no vCPU's run on these processors only, and that of no iothread which is
/// pinned by itself; later ones inherit that.
///
/// # Errors
/// None of the processors is there.
pub fn pin_others(pid: u32, list: &BTreeSet<u32>, pinned: &BTreeSet<u32>) -> io::Result<()> {
    let by_itself = |name: &str| {
        let id = name.strip_prefix("iothread").and_then(|id| id.parse().ok());
        id.is_some_and(|id| pinned.contains(&id))
    };
    for (thread, name) in tasks_of(pid) {
        if name.strip_prefix("vcpu").is_some_and(is_number) || by_itself(&name) {
            continue;
        }
        match pin(thread, list) {
            // One that has ended meanwhile needs none.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            done => done?,
        }
    }
    Ok(())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Numbers and names of a process's threads.
fn tasks_of(pid: u32) -> impl Iterator<Item = (u32, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.filter_map(|task| {
        let number = task.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((number, name.trim_end().to_string()))
    })
}

fn pin(thread: u32, list: &BTreeSet<u32>) -> io::Result<()> {
    let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let mut set = CpuSet::new();
    for processor in list {
        let processor = usize::try_from(*processor).unwrap_or(usize::MAX);
        if processor < CpuSet::MAX_CPU {
            set.set(processor);
        }
    }
    Ok(sched_setaffinity(thread, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_command_whatever_it_is() {
        let mut fields: Vec<String> = (3..=52).map(|at: u32| (at * 10).to_string()).collect();
        fields[0] = "S".into();
        let stat = format!("17 (a ) b (c) {}", fields.join(" "));
        assert_eq!(of_stat(&stat), Some((390, 290)));
        assert_eq!(of_stat("17 (short) S 1"), None);
    }

    #[test]
    fn threads_are_pinned_by_their_names() {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("vcpu7".into())
            .spawn(move || wait.recv())
            .expect("a thread");
        let own = std::process::id();
        let vcpu = |index| vcpus_of(own).into_iter().find(|vcpu| vcpu.index == index);
        // A thread has its name a moment after it is there.
        while vcpu(7).is_none() {
            std::thread::yield_now();
        }
        let all = vcpu(7).expect("there").allowed;
        let first = all.split([',', '-']).next().expect("a number").to_string();
        let list = [first.parse().expect("a number")].into();
        pin_vcpu(own, 7, &list).expect("a processor that is there");
        assert_eq!(vcpu(7).expect("there").allowed, first);
        assert!(pin_vcpu(own, 8, &list).is_err());
        assert!(pin_vcpu(own, 7, &[1000].into()).is_err());
        drop(end);
        let _ = thread.join();
    }

    #[test]
    fn a_process_without_vcpus_has_none() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.expect("sleep");
        assert!(vcpus_of(child.id()).is_empty());
        let _ = child.kill();
        let _ = child.wait();
        assert!(vcpus_of(u32::MAX).is_empty());
    }
}
