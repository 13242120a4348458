//! `vm vcpuinfo`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::State;
use crate::runtime::guest::ANSWER;
use crate::runtime::threads::{VcpuUse, vcpus_of};
use serde::Serialize;

/// Print what each virtual CPU of a running domain is doing on which processor of the host
#[derive(Debug, clap::Args)]
pub struct Vcpuinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// Show the affinity as a list of processors
    #[arg(long)]
    pretty: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    vcpu: u32,
    cpu: u32,
    state: State,
    cpu_time_ns: u64,
    affinity: String,
}

impl Verb for Vcpuinfo {
    const NAME: &'static str = "vcpuinfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = manager.running(&domain)?;
        let state = State::of_run(&guest.status(ANSWER)?.run);
        let process = guest.record.process.filter(|process| process.exists());
        let used = process.map(|process| vcpus_of(process.pid));
        let used = used.unwrap_or_default();
        if used.is_empty() {
            let what = format!("the threads of domain '{}' cannot be seen", domain.name);
            return Err(Error::new(Kind::Host, what).cause("/proc does not show its process"));
        }
        let lines: Vec<Line> = used.iter().map(|vcpu| line(vcpu, state)).collect();
        if context.ui.is_json() {
            return context.ui.json(&lines);
        }
        for (at, (line, vcpu)) in lines.iter().zip(&used).enumerate() {
            if at > 0 {
                context.ui.line("")?;
            }
            let affinity = match self.pretty {
                true => format!("{} (out of {})", line.affinity, processors()),
                false => drawn(&vcpu.allowed, processors()),
            };
            context.ui.line(format!(
                "VCPU:           {}\nCPU:            {}\nState:          {}\nCPU time:       {:.1}s\nCPU Affinity:   {affinity}",
                line.vcpu,
                line.cpu,
                state.as_str(),
                line.cpu_time_ns as f64 / 1e9,
            ))?;
        }
        Ok(())
    }
}

fn line(vcpu: &VcpuUse, state: State) -> Line {
    Line {
        vcpu: vcpu.index,
        cpu: vcpu.processor,
        state,
        cpu_time_ns: vcpu.cpu_time_ns,
        affinity: vcpu.allowed.clone(),
    }
}

/// Processors of the host.
fn processors() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/present")
        .ok()
        .and_then(|text| members(&text).max())
        .map_or(1, |last| last + 1)
}

/// The numbers of a list such as `0-3,7`, as the kernel writes it.
fn members(list: &str) -> impl Iterator<Item = usize> + '_ {
    list.trim().split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => first..last + 1,
            _ => 0..0,
        }
    })
}

/// virsh's picture of a list: a letter for each processor, a dash for those that are not in it.
fn drawn(list: &str, processors: usize) -> String {
    let mut picture = vec!['-'; processors];
    for member in members(list) {
        if let Some(place) = picture.get_mut(member) {
            *place = 'y';
        }
    }
    picture.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_is_drawn_as_virsh_draws_it() {
        assert_eq!(drawn("0-1,3\n", 5), "yy-y-");
        assert_eq!(drawn("0-7", 2), "yy");
        assert_eq!(drawn("nonsense", 2), "--");
    }
}
