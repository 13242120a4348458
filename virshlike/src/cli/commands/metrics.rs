//! `vm metrics`

use crate::cli::openmetrics::{Family, Kind, Text, seconds};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::usage::{Counters, Usage};
use crate::manager::{State, Summary};

/// Print the figures of all domains as OpenMetrics text, for Prometheus and its kin
///
/// Names and labels are kept between releases; families are only ever added. With node_exporter:
/// vm metrics > /var/lib/node_exporter/vm.prom.tmp, then rename it to vm.prom.
#[derive(Debug, clap::Args)]
pub struct Metrics {}

/// A family of counters or sizes: name, kind, unit, help, and which figure.
type Row = (
    &'static str,
    Kind,
    &'static str,
    &'static str,
    fn(&Counters) -> String,
);

/// The same, for what only some guests tell.
type ToldRow = (
    &'static str,
    Kind,
    &'static str,
    &'static str,
    fn(&Counters) -> Option<u64>,
);

const TOLD: &[ToldRow] = &[
    (
        "vm_domain_guest_unused_bytes",
        Kind::Gauge,
        "bytes",
        "Memory that the guest says it has unused.",
        |of| of.guest_unused,
    ),
    (
        "vm_domain_guest_usable_bytes",
        Kind::Gauge,
        "bytes",
        "Memory that the guest says it can use without swapping.",
        |of| of.guest_usable,
    ),
];

const FIGURES: &[Row] = &[
    (
        "vm_domain_vcpus",
        Kind::Gauge,
        "",
        "Virtual CPUs online.",
        |of| of.vcpus.to_string(),
    ),
    (
        "vm_domain_cpu_seconds",
        Kind::Counter,
        "seconds",
        "CPU time of the domain's process.",
        |of| seconds(of.cpu_time_ns),
    ),
    (
        "vm_domain_memory_bytes",
        Kind::Gauge,
        "bytes",
        "Guest RAM.",
        |of| of.memory.to_string(),
    ),
    (
        "vm_domain_memory_left_bytes",
        Kind::Gauge,
        "bytes",
        "Guest RAM that the balloon leaves to the guest.",
        |of| of.memory_left.to_string(),
    ),
    (
        "vm_domain_resident_bytes",
        Kind::Gauge,
        "bytes",
        "Memory of the host that the domain's process holds.",
        |of| of.resident.to_string(),
    ),
    (
        "vm_domain_disk_reads",
        Kind::Counter,
        "",
        "Read requests of all disks.",
        |of| of.read_requests.to_string(),
    ),
    (
        "vm_domain_disk_read_bytes",
        Kind::Counter,
        "bytes",
        "Bytes read from all disks.",
        |of| of.read_bytes.to_string(),
    ),
    (
        "vm_domain_disk_writes",
        Kind::Counter,
        "",
        "Write requests of all disks.",
        |of| of.write_requests.to_string(),
    ),
    (
        "vm_domain_disk_written_bytes",
        Kind::Counter,
        "bytes",
        "Bytes written to all disks.",
        |of| of.write_bytes.to_string(),
    ),
    (
        "vm_domain_network_receive_bytes",
        Kind::Counter,
        "bytes",
        "Bytes that the guest received.",
        |of| of.rx_bytes.to_string(),
    ),
    (
        "vm_domain_network_transmit_bytes",
        Kind::Counter,
        "bytes",
        "Bytes that the guest sent.",
        |of| of.tx_bytes.to_string(),
    ),
];

impl Verb for Metrics {
    const NAME: &'static str = "metrics";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let usage = manager.usage()?;
        if context.ui.is_json() {
            return context.ui.json(&usage);
        }
        let list = manager.list()?;
        context.ui.no_end();
        context.ui.data(&text(&list, &usage))
    }
}

fn text(list: &[Summary], usage: &[Usage]) -> String {
    let mut text = Text::default();
    text.family("vm_build", Kind::Info, "", "The build that answers.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let mut domains = text.family("vm_domains", Kind::Gauge, "", "Domains by state.");
    for state in State::ALL {
        let count = list.iter().filter(|summary| summary.state == state).count();
        domains.sample(&[("state", state.as_str())], count);
    }
    let help = "1 for the state that a running domain is in.";
    let mut states = text.family("vm_domain_state", Kind::Gauge, "", help);
    for one in usage {
        let uuid = one.uuid.to_string();
        let labels = [
            ("domain", one.name.as_str()),
            ("uuid", &uuid),
            ("state", one.state.as_str()),
        ];
        states.sample(&labels, 1);
    }
    let help = "When the domain's process was started, since the Unix epoch.";
    let mut starts = text.family("vm_domain_start_time_seconds", Kind::Gauge, "seconds", help);
    for one in usage {
        of(&mut starts, one, &one.started.to_string());
    }
    for (name, kind, unit, help, figure) in FIGURES {
        let mut family = text.family(name, *kind, unit, help);
        for one in usage {
            if let Some(counters) = &one.counters {
                of(&mut family, one, &figure(counters));
            }
        }
    }
    for (name, kind, unit, help, figure) in TOLD {
        let mut family = text.family(name, *kind, unit, help);
        for one in usage {
            if let Some(value) = one.counters.as_ref().and_then(figure) {
                of(&mut family, one, &value.to_string());
            }
        }
    }
    text.end()
}

fn of(family: &mut Family<'_>, one: &Usage, value: &str) {
    let uuid = one.uuid.to_string();
    family.sample(&[("domain", &one.name), ("uuid", &uuid)], value);
}
