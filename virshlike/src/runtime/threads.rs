//! What the kernel tells of the threads of a guest's process (proc(5)). Must never be used to find out
//! whether a guest lives.

use std::fs;
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

fn vcpu(task: &Path) -> Option<VcpuUse> {
    let read = |name: &str| fs::read_to_string(task.join(name)).ok();
    let name = read("comm")?;
    let index = name.trim_end().strip_prefix("vcpu")?.parse().ok()?;
    let (processor, ticks) = of_stat(&read("stat")?)?;
    let exact = read("schedstat").and_then(|text| text.split(' ').next()?.parse().ok());
    let status = read("status")?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(VcpuUse {
        index,
        processor,
        cpu_time_ns: exact.unwrap_or(ticks.saturating_mul(TICK)),
        allowed: allowed.trim().to_string(),
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
    fn a_process_without_vcpus_has_none() {
        assert!(vcpus_of(std::process::id()).is_empty());
        assert!(vcpus_of(u32::MAX).is_empty());
    }
}
