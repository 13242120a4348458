//! The figures of a domain under libvirt's names (virConnectGetAllDomainStats), in its order.
//!
//! Must never give a figure that is not known: a field that this build cannot tell is not there.

use super::usage::resident;
use super::{Domain, Manager, State, memory};
use crate::error::Result;
use crate::model::{self, DiskSource};
use crate::runtime::guest::ANSWER;
use crate::runtime::threads::vcpus_of;
use crate::runtime::{Guest, chain};
use serde_json::{Map, Value};
use std::path::Path;

/// Groups of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Groups {
    /// What the domain is doing, and why.
    pub state: bool,
    /// CPU time of the whole process.
    pub cpu: bool,
    /// Memory.
    pub balloon: bool,
    /// vCPUs.
    pub vcpu: bool,
    /// Network interfaces.
    pub interface: bool,
    /// Disks.
    pub block: bool,
    /// I/O threads.
    pub iothread: bool,
}

impl Groups {
    /// All of them.
    pub const ALL: Self = Self {
        state: true,
        cpu: true,
        balloon: true,
        vcpu: true,
        interface: true,
        block: true,
        iothread: true,
    };
}

/// Names and figures, in libvirt's order.
pub type Figures = Vec<(String, Value)>;

/// libvirt's words for the counters of a disk: kind of request, and which of its counters.
const DISK: &[(&str, &str, &str)] = &[
    ("rd.reqs", "read", "requests"),
    ("rd.bytes", "read", "bytes"),
    ("rd.times", "read", "total_ns"),
    ("wr.reqs", "write", "requests"),
    ("wr.bytes", "write", "bytes"),
    ("wr.times", "write", "total_ns"),
    ("fl.reqs", "flush", "requests"),
    ("fl.times", "flush", "total_ns"),
];

/// libvirt's words for the counters of an interface: direction, and which of its counters.
const CARD: &[(&str, &str, &str)] = &[
    ("rx.bytes", "rx", "bytes"),
    ("rx.pkts", "rx", "packets"),
    ("rx.errs", "rx", "errors"),
    ("rx.drop", "rx", "dropped"),
    ("tx.bytes", "tx", "bytes"),
    ("tx.pkts", "tx", "packets"),
    ("tx.errs", "tx", "errors"),
    ("tx.drop", "tx", "dropped"),
];

impl Manager {
    /// The figures of a domain.
    ///
    /// # Errors
    /// A definition that is wrong, or a process that does not answer.
    pub fn figures(&self, domain: &Domain, groups: Groups) -> Result<Figures> {
        let guest = self.guest(domain)?;
        let (_, model) = self.current_definition(domain, guest.as_ref())?;
        let mut figures = Figures::new();
        if groups.state {
            let condition = self.condition(domain)?;
            let (state, reason) = numbers(condition.state, &condition.reason);
            figures.push(("state.state".into(), state.into()));
            figures.push(("state.reason".into(), reason.into()));
        }
        let status = match &guest {
            Some(guest) => Some(guest.status(ANSWER)?),
            None => None,
        };
        if let Some(status) = status.as_ref().filter(|_| groups.cpu) {
            figures.push(("cpu.time".into(), status.cpu_time.into()));
        }
        let devices = groups.interface || groups.block || groups.balloon;
        let counters = match &guest {
            Some(guest) if devices => self.device_stats(guest)?,
            _ => Map::new(),
        };
        if groups.balloon {
            let current = status.as_ref().map_or(model.memory.current_kib, |status| {
                status.memory_left.unwrap_or(status.memory) / 1024
            });
            figures.push(("balloon.current".into(), current.into()));
            figures.push(("balloon.maximum".into(), model.memory.size_kib.into()));
            add_balloon(&model, guest.as_ref(), &counters, &mut figures);
        }
        if groups.vcpu {
            let current = status.map_or(model.vcpus.current, |status| status.vcpus);
            figures.push(("vcpu.current".into(), current.into()));
            figures.push(("vcpu.maximum".into(), model.vcpus.max.into()));
            add_vcpus(guest.as_ref(), &mut figures);
        }
        if groups.interface {
            add_cards(&model, guest.as_ref(), &counters, &mut figures);
        }
        if groups.block {
            add_disks(&model, &counters, &mut figures);
        }
        // libvirt tells of them while they run.
        if groups.iothread && guest.is_some() && !model.iothreads.is_empty() {
            figures.push(("iothread.count".into(), model.iothreads.len().into()));
        }
        Ok(figures)
    }
}

/// libvirt's numbers of a state and of its reason (virDomainState and its reasons).
fn numbers(state: State, reason: &str) -> (u32, u32) {
    match state {
        State::Running => (1, u32::from(reason == "booted")),
        State::Paused => {
            let reason = match reason {
                "user" => 1,
                "I/O error" => 5,
                _ => 0,
            };
            (3, reason)
        }
        State::Crashed => (6, u32::from(reason == "panicked")),
        State::ShutOff => {
            let words = [
                "shutdown",
                "destroyed",
                "crashed",
                "migrated",
                "saved",
                "failed",
            ];
            let at = words.iter().position(|word| *word == reason);
            (5, at.and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(0))
        }
        State::NoAnswer => (0, 0),
    }
}

fn add_vcpus(guest: Option<&Guest>, figures: &mut Figures) {
    let process = guest.and_then(|guest| guest.record.process);
    let Some(process) = process.filter(|process| process.exists()) else {
        return;
    };
    for vcpu in vcpus_of(process.pid) {
        let name = format!("vcpu.{}.time", vcpu.index);
        figures.push((name, vcpu.cpu_time_ns.into()));
    }
}

/// What the guest says of its memory, and what its process holds of it.
fn add_balloon(
    model: &model::Domain,
    guest: Option<&Guest>,
    counters: &Map<String, Value>,
    figures: &mut Figures,
) {
    let Some(guest) = guest else { return };
    if let Some(balloon) = &model.memballoon {
        for (name, value) in memory::of_devices(counters, &balloon.alias) {
            // virsh has a dash here, and nowhere else.
            let name = name.replace("last_update", "last-update");
            figures.push((format!("balloon.{name}"), value));
        }
    }
    let rss = resident(guest).map(|bytes| ("balloon.rss".into(), (bytes / 1024).into()));
    figures.extend(rss);
}

fn add_cards(
    model: &model::Domain,
    guest: Option<&Guest>,
    counters: &Map<String, Value>,
    figures: &mut Figures,
) {
    // libvirt counts those of a running domain only.
    let Some(guest) = guest else { return };
    figures.push(("net.count".into(), model.interfaces.len().into()));
    for (at, interface) in model.interfaces.iter().enumerate() {
        if let Some(tap) = guest.record.taps.get(&interface.alias) {
            figures.push((format!("net.{at}.name"), tap.clone().into()));
        }
        add_counters(
            &format!("net.{at}"),
            CARD,
            counters.get(&interface.alias),
            figures,
        );
    }
}

fn add_disks(model: &model::Domain, counters: &Map<String, Value>, figures: &mut Figures) {
    figures.push(("block.count".into(), model.disks.len().into()));
    for (at, disk) in model.disks.iter().enumerate() {
        let prefix = format!("block.{at}");
        figures.push((format!("{prefix}.name"), disk.target.clone().into()));
        let path = match &disk.source {
            Some(DiskSource::File(path) | DiskSource::Block(path)) => Some(path),
            _ => None,
        };
        if let Some(path) = path {
            figures.push((format!("{prefix}.path"), path.clone().into()));
        }
        add_counters(&prefix, DISK, counters.get(&disk.alias), figures);
        let sizes = path.and_then(|path| chain::measure(Path::new(path), disk.format).ok());
        if let Some(sizes) = sizes {
            figures.push((format!("{prefix}.allocation"), sizes.allocation.into()));
            figures.push((format!("{prefix}.capacity"), sizes.capacity.into()));
            figures.push((format!("{prefix}.physical"), sizes.physical.into()));
        }
    }
}

fn add_counters(
    prefix: &str,
    names: &[(&str, &str, &str)],
    counters: Option<&Value>,
    figures: &mut Figures,
) {
    for (name, kind, counter) in names {
        let value = counters.and_then(|counters| counters.get(kind)?.get(counter));
        if let Some(value) = value {
            figures.push((format!("{prefix}.{name}"), value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_libvirts_numbers() {
        assert_eq!(numbers(State::Running, "booted"), (1, 1));
        assert_eq!(numbers(State::Paused, "I/O error"), (3, 5));
        assert_eq!(numbers(State::ShutOff, "destroyed"), (5, 2));
        assert_eq!(numbers(State::ShutOff, "failed"), (5, 6));
        assert_eq!(numbers(State::ShutOff, "unknown"), (5, 0));
    }

    #[test]
    fn a_counter_that_is_not_there_is_not_a_zero() {
        let mut figures = Figures::new();
        let counters = serde_json::json!({"rx": {"bytes": 7}});
        add_counters("net.0", CARD, Some(&counters), &mut figures);
        assert_eq!(figures, [("net.0.rx.bytes".to_string(), 7.into())]);
    }
}
