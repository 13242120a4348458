//! `<cputune>`, `<numatune>` and `<memtune>`: pins, nodes, and limits of the whole process.

use super::general;
use crate::model::domain::Vcpus;
use crate::model::findings::Findings;
use crate::model::tune::{CpuList, CpuTune, MemTune, NumaMode, NumaTune, cpu_list};
use crate::model::value;
use crate::runtime::limits::{CpuMax, PERIODS, QUOTAS, WEIGHTS};
use crate::xml::Element;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The largest weight of a cgroup v2.
const MOST_SHARES: u64 = *WEIGHTS.end();
/// From here on libvirt's memory limits are none (formatdomain, memtune).
const UNLIMITED_KIB: u64 = 9_007_199_254_740_991;
/// What a list of nodes looks like.
const NODES: &str = "a list of nodes such as 0-1";
/// What a list of processors looks like.
const LIST: &str = "a list of processors such as 0-3,^2";

pub(super) fn cputune(
    root: Element<'_>,
    vcpus: Option<&Vcpus>,
    findings: &mut Findings<'_>,
) -> CpuTune {
    let mut tune = CpuTune {
        default: root
            .child("vcpu")
            .and_then(|vcpu| findings.parsed(vcpu, "cpuset", LIST, cpu_list)),
        ..CpuTune::default()
    };
    let Some(element) = root.child("cputune") else {
        return tune;
    };
    for pin in element.children_named("vcpupin") {
        let index = match pin.attribute("vcpu") {
            Some(_) => findings.parsed(pin, "vcpu", "the number of a vCPU", value::unsigned32),
            None => {
                missing(pin, "vcpu", findings);
                None
            }
        };
        let list = list(pin, findings);
        let (Some(index), Some(list)) = (index, list) else {
            continue;
        };
        if vcpus.is_some_and(|vcpus| index >= vcpus.max) {
            let message = format!("<vcpupin vcpu='{index}'> has no effect: there is no such vCPU");
            findings.warn(pin.position(), message);
            continue;
        }
        if tune.vcpus.insert(index, list).is_some() {
            let message = format!("<vcpupin vcpu='{index}'> is there twice");
            findings.error(pin.position(), message);
        }
    }
    tune.emulator = element
        .child("emulatorpin")
        .and_then(|pin| list(pin, findings));
    tune.iothreads = iothreadpins(element, findings);
    tune.shares = shares(element, findings);
    tune.global = global(element, findings);
    tune
}

/// Whether there are such iothreads is seen at the start; one that is not there is pinned nowhere.
fn iothreadpins(element: Element<'_>, findings: &mut Findings<'_>) -> BTreeMap<u32, CpuList> {
    let mut pins = BTreeMap::new();
    for pin in element.children_named("iothreadpin") {
        if pin.attribute("iothread").is_none() {
            missing(pin, "iothread", findings);
            continue;
        }
        let id = findings.parsed(pin, "iothread", "a number from 1", |text| {
            value::unsigned32(text).filter(|id| *id > 0)
        });
        let (Some(id), Some(list)) = (id, list(pin, findings)) else {
            continue;
        };
        if pins.insert(id, list).is_some() {
            let message = format!("<iothreadpin iothread='{id}'> is there twice");
            findings.error(pin.position(), message);
        }
    }
    pins
}

/// libvirt passes the number on as it is; cgroup v2 takes fewer than cgroup v1.
fn shares(element: Element<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let child = element.child("shares")?;
    let shares = number(child, 1..=262_144, findings)?;
    if shares > MOST_SHARES {
        findings.warn(
            child.position(),
            format!("<shares> of {shares} has no effect: cgroup v2 takes 1 to {MOST_SHARES}"),
        );
        return None;
    }
    Some(shares)
}

fn global(element: Element<'_>, findings: &mut Findings<'_>) -> Option<CpuMax> {
    let period = element.child("global_period");
    let quota = element.child("global_quota");
    let period_us = match period {
        Some(child) => number(child, PERIODS, findings)?,
        None => CpuMax::ANY.period_us,
    };
    // Any number below zero stands for no limit.
    let limited = quota.filter(|quota| {
        let text = quota.text().trim();
        text.strip_prefix('-').and_then(value::unsigned).is_none()
    });
    let quota_us = match limited {
        Some(child) => Some(number(child, QUOTAS, findings)?),
        None => None,
    };
    period.or(quota).map(|_| CpuMax {
        quota_us,
        period_us,
    })
}

fn number(
    element: Element<'_>,
    range: RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    let text = element.text().trim();
    let number = value::unsigned(text).filter(|number| range.contains(number));
    if number.is_none() {
        findings.error_with_hint(
            element.text_position(),
            format!("'{text}' is no value for <{}>", element.name()),
            format!("it takes {} to {}", range.start(), range.end()),
        );
    }
    number
}

pub(super) fn memtune(root: Element<'_>, findings: &mut Findings<'_>) -> MemTune {
    let Some(element) = root.child("memtune") else {
        return MemTune::default();
    };
    let mut kib = |name: &str| {
        let bytes = general::scaled_bytes(element.child(name)?, findings)?;
        // libvirt's word for no limit.
        let limited = bytes / 1024 < UNLIMITED_KIB;
        limited.then(|| bytes.div_ceil(1024))
    };
    MemTune {
        hard_kib: kib("hard_limit"),
        soft_kib: kib("soft_limit"),
    }
}

/// The weights of cgroup v2; libvirt's older ones, 10 to 1000, are among them.
pub(super) fn io_weight(root: Element<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let weight = root.child("blkiotune")?.child("weight")?;
    number(weight, WEIGHTS, findings)
}

/// What cannot be said to the kernel for a whole process has no effect, and says so.
pub(super) fn numatune(root: Element<'_>, findings: &mut Findings<'_>) -> Option<NumaTune> {
    let memory = root.child("numatune")?.child("memory")?;
    let nodes = findings.parsed(memory, "nodeset", NODES, cpu_list);
    let at = memory.position();
    if memory.value("placement") == Some("auto") {
        findings.warn(
            at,
            "<memory placement='auto'> has no effect: nodes are not chosen for a guest",
        );
        return None;
    }
    let nodes = nodes?;
    let mode = match memory.value("mode") {
        None | Some("strict") => NumaMode::Strict,
        Some("preferred") => NumaMode::Preferred,
        Some("interleave") => NumaMode::Interleave,
        Some(other) => {
            let message = format!("<memory mode='{other}'> has no effect: it is not built yet");
            findings.warn(at, message);
            return None;
        }
    };
    if mode == NumaMode::Preferred && nodes.len() > 1 {
        findings.error_with_hint(
            at,
            "<memory mode='preferred'> takes one node",
            "name one, or write mode='strict' or mode='interleave'",
        );
        return None;
    }
    Some(NumaTune { mode, nodes, at })
}

fn list(pin: Element<'_>, findings: &mut Findings<'_>) -> Option<CpuList> {
    if pin.attribute("cpuset").is_none() {
        missing(pin, "cpuset", findings);
    }
    findings.parsed(pin, "cpuset", LIST, cpu_list)
}

fn missing(pin: Element<'_>, attribute: &str, findings: &mut Findings<'_>) {
    let message = format!("<{}> has no {attribute}=", pin.name());
    findings.error_with_hint(
        pin.position(),
        message,
        match pin.name() {
            "iothreadpin" => "write <iothreadpin iothread='1' cpuset='0-3'/>",
            _ => "write <vcpupin vcpu='0' cpuset='0-3'/> or <emulatorpin cpuset='0-3'/>",
        },
    );
}
