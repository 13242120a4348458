//! Sense in the parts that are kept or have no effect yet: what libvirt would refuse in them is
//! refused, so that a definition does not turn out to be wrong on the day when they are built.

use crate::model::findings::Findings;
use crate::model::value::{any_base, cpu_set, unit_bytes, unsigned};
use crate::xml::Element;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(root: Element<'_>, findings: &mut Findings<'_>) {
    if let Some(cpu) = root.child("cpu") {
        cpu_parts(cpu, findings);
        numa_cells(cpu, findings);
    }
    firmware(root, findings);
    hugepages(root, findings);
    numatune(root, findings);
    sysinfo(root, findings);
    features(root, findings);
    cputune(root, findings);
    if let Some(devices) = root.child("devices") {
        super::sense_devices::check(devices, findings);
        pci_root(devices, machine(root), findings);
    }
}

/// A q35 has PCI Express at its root. What names the other machine gets ours instead, whatever its root.
fn pci_root(devices: Element<'_>, machine: &str, findings: &mut Findings<'_>) {
    if machine != "q35" && !machine.starts_with("pc-q35-") {
        return;
    }
    for controller in devices.children_named("controller") {
        let first = controller.value("type") == Some("pci")
            && controller.value("index").and_then(unsigned) == Some(0);
        if let Some(model) = controller.attribute("model")
            && first
            && model.value() != "pcie-root"
        {
            findings.bad_attribute(controller, model, "'pcie-root', which a q35 has at index 0");
        }
    }
}

fn cpu_parts(cpu: Element<'_>, findings: &mut Findings<'_>) {
    if let Some(cache) = cpu.child("cache") {
        match (cache.value("mode"), cache.value("level")) {
            (Some("emulate"), Some(level)) if level != "3" => findings.error_with_hint(
                cache.position(),
                format!("<cache mode='emulate' level='{level}'>: only level 3 can be emulated"),
                "write level='3'",
            ),
            (Some("passthrough" | "disable"), Some(_)) => findings.error_with_hint(
                cache.position(),
                "<cache> in this mode is about all levels",
                "leave level= out",
            ),
            (Some("passthrough"), None)
                if !matches!(cpu.value("mode"), Some("host-passthrough" | "maximum")) =>
            {
                findings.error_with_hint(
                    cache.position(),
                    "the host's caches can be shown only with the host's CPU",
                    "write <cpu mode='host-passthrough'>",
                );
            }
            _ => {}
        }
    }
    if let Some(width) = cpu.child("maxphysaddr") {
        match (width.value("mode"), width.attribute("bits")) {
            (Some("passthrough"), Some(bits)) => findings.error_with_hint(
                bits.position(),
                "<maxphysaddr mode='passthrough'> takes the host's width",
                "leave bits= out, or write mode='emulate'",
            ),
            (Some("emulate"), None) => {
                findings.error(width.position(), "<maxphysaddr mode='emulate'> needs bits=");
            }
            _ => {}
        }
    }
}

fn numa_cells(cpu: Element<'_>, findings: &mut Findings<'_>) {
    let Some(numa) = cpu.child("numa") else {
        return;
    };
    let cells: Vec<_> = numa.children_named("cell").collect();
    let mut seen = BTreeSet::new();
    for (index, cell) in cells.iter().enumerate() {
        let id = match cell.value("id") {
            Some(id) => unsigned(id),
            None => u64::try_from(index).ok(),
        };
        let Some(id) = id else { continue };
        if id >= cells.len() as u64 || !seen.insert(id) {
            findings.error_with_hint(
                cell.position(),
                format!("the NUMA node {id} is there twice, or numbers are left out"),
                format!("number the {} nodes from 0", cells.len()),
            );
        }
    }
}

fn firmware(root: Element<'_>, findings: &mut Findings<'_>) {
    let Some(os) = root.child("os") else { return };
    let (kind, loader, nvram) = (os.value("firmware"), os.child("loader"), os.child("nvram"));
    let stateless = loader.and_then(|loader| loader.attribute("stateless"));
    if let Some(nvram) = nvram {
        let rom = loader.is_some_and(|loader| super::os::is_rom(os, loader));
        if kind == Some("bios") || rom {
            findings.error_with_hint(
                nvram.position(),
                "only EFI firmware in flash has variables",
                "remove <nvram>",
            );
        } else if stateless.is_some_and(|stateless| stateless.value() == "yes") {
            findings.error_with_hint(
                nvram.position(),
                "firmware that is stateless has no variables",
                "remove <nvram> or stateless=",
            );
        }
    }
    if let (Some(stateless), Some("bios")) = (stateless, kind)
        && stateless.value() == "no"
    {
        findings.error(stateless.position(), "a BIOS is always stateless");
    }
    if let Some(loader) = loader {
        let rom = super::os::is_rom(os, loader);
        if rom && stateless.is_some_and(|stateless| stateless.value() == "no") {
            findings.error(loader.position(), "firmware in a ROM is always stateless");
        }
        if kind.is_none() && loader.text().trim().is_empty() && loader.value("stateless").is_none()
        {
            findings.error_with_hint(
                loader.position(),
                "<loader> does not say which file",
                "write its path, or firmware='efi' into <os>",
            );
        }
    }
    let feature = |name: &str, state: &str| {
        os.child("firmware").into_iter().any(|firmware| {
            firmware
                .children_named("feature")
                .any(|f| f.value("name") == Some(name) && f.value("enabled") == Some(state))
        })
    };
    if feature("enrolled-keys", "yes") && feature("secure-boot", "no") {
        findings.error(
            os.child("firmware").unwrap_or(os).position(),
            "enrolled-keys means nothing without secure-boot",
        );
    }
}

fn hugepages(root: Element<'_>, findings: &mut Findings<'_>) {
    let pages = root
        .child("memoryBacking")
        .and_then(|backing| backing.child("hugepages"));
    let Some(pages) = pages else { return };
    let mut default = false;
    for page in pages.children_named("page") {
        let Some(size) = page.attribute("size") else {
            findings.error(page.position(), "<page> does not say its size");
            continue;
        };
        let unit = unit_bytes(page.value("unit").unwrap_or("KiB")).unwrap_or(1024);
        let bytes = unsigned(size.value()).and_then(|size| size.checked_mul(unit));
        // x86-64 has pages of 4 KiB, 2 MiB and 1 GiB.
        if bytes.is_some_and(|bytes| ![4096, 2 << 20, 1 << 30].contains(&bytes)) {
            findings.error_with_hint(
                size.value_position(),
                format!(
                    "x86-64 has no pages of {} {}",
                    size.value(),
                    page.value("unit").unwrap_or("KiB")
                ),
                "there are 2048 KiB and 1048576 KiB",
            );
        }
        if page.value("nodeset").is_none() && std::mem::replace(&mut default, true) {
            findings.error_with_hint(
                page.position(),
                "two sizes of pages for the same memory",
                "keep one, or say which nodeset= each is for",
            );
        }
    }
    let cells = cell_count(root);
    for page in pages.children_named("page") {
        let Some(nodes) = page.attribute("nodeset") else {
            continue;
        };
        match cpu_set(nodes.value()).and_then(|set| set.last().copied()) {
            Some(highest) if highest >= cells.max(1) => findings.error(
                nodes.value_position(),
                format!("the guest has no NUMA node {highest}"),
            ),
            // All its memory is one node, of which both speak.
            Some(_) if cells <= 1 && default => findings.error_with_hint(
                nodes.value_position(),
                "two sizes of pages for the same memory: the guest has one NUMA node",
                "keep one <page>",
            ),
            _ => {}
        }
    }
}

/// The machine of QEMU's that the document names.
fn machine<'a>(root: Element<'a>) -> &'a str {
    let kind = root.child("os").and_then(|os| os.child("type"));
    kind.and_then(|kind| kind.value("machine")).unwrap_or("")
}

fn is_i440fx(machine: &str) -> bool {
    machine == "pc" || machine.starts_with("pc-i440fx-")
}

/// How many NUMA nodes the guest has.
fn cell_count(root: Element<'_>) -> u64 {
    root.child("cpu")
        .and_then(|cpu| cpu.child("numa"))
        .map_or(0, |numa| numa.children_named("cell").count() as u64)
}

fn numatune(root: Element<'_>, findings: &mut Findings<'_>) {
    let Some(tune) = root.child("numatune") else {
        return;
    };
    let cells = cell_count(root);
    let memory = tune.child("memory");
    if let Some(memory) = memory {
        let auto = memory.value("placement") == Some("auto")
            || (memory.value("placement").is_none()
                && root.child("vcpu").and_then(|vcpu| vcpu.value("placement")) == Some("auto"));
        if !auto && memory.value("nodeset").is_none() {
            findings.error_with_hint(
                memory.position(),
                "<memory> of <numatune> does not say which nodes",
                "add nodeset=, or placement='auto'",
            );
        }
        if memory.value("placement") == Some("auto") && tune.child("memnode").is_some() {
            findings.error(
                memory.position(),
                "placement='auto' and <memnode> exclude each other",
            );
        }
    }
    let restrictive = |element: Option<Element<'_>>| {
        element.is_some_and(|element| element.value("mode") == Some("restrictive"))
    };
    for node in tune.children_named("memnode") {
        match node.attribute("cellid").and_then(|id| unsigned(id.value())) {
            Some(id) if id >= cells => findings.error_with_hint(
                node.position(),
                format!("the guest has no NUMA node {id}"),
                "nodes are the <cell> elements of <cpu><numa>",
            ),
            None => findings.error(node.position(), "<memnode> does not say which cellid"),
            Some(_) => {}
        }
        if memory.is_some() && restrictive(memory) != restrictive(Some(node)) {
            findings.error(
                node.position(),
                "mode='restrictive' holds for <memory> and every <memnode>, or for none",
            );
        }
    }
}

fn sysinfo(root: Element<'_>, findings: &mut Findings<'_>) {
    let uuid = root
        .child("uuid")
        .map(|uuid| uuid.text().trim().to_lowercase());
    for info in root.children_named("sysinfo") {
        let entry = |group: &str, name: &str| {
            info.child(group)?
                .children_named("entry")
                .find(|entry| entry.value("name") == Some(name))
        };
        if let (Some(entry), Some(uuid)) = (entry("system", "uuid"), &uuid)
            && !entry.text().trim().eq_ignore_ascii_case(uuid)
        {
            findings.error_with_hint(
                entry.text_position(),
                format!("the UUID of <sysinfo> is not the domain's, {uuid}"),
                "remove the entry",
            );
        }
        if let Some(date) = entry("bios", "date")
            && !is_bios_date(date.text().trim())
        {
            findings.error_with_hint(
                date.text_position(),
                format!("'{}' is no BIOS date", date.text().trim()),
                "write it as month/day/year, such as 12/31/2025",
            );
        }
    }
}

fn features(root: Element<'_>, findings: &mut Findings<'_>) {
    let Some(features) = root.child("features") else {
        return;
    };
    if let Some(tseg) = features.child("smm").and_then(|smm| smm.child("tseg")) {
        if is_i440fx(machine(root)) {
            findings.error_with_hint(
                tseg.position(),
                "machines of the i440FX have no <tseg>",
                "remove it, or write machine='q35'",
            );
        }
        let unit = unit_bytes(tseg.value("unit").unwrap_or("MiB")).unwrap_or(1 << 20);
        let bytes = unsigned(tseg.text().trim()).and_then(|size| size.checked_mul(unit));
        if bytes.is_none_or(|bytes| bytes == 0 || !bytes.is_multiple_of(1 << 20)) {
            findings.error(
                tseg.text_position(),
                "the size of <tseg> is a whole number of MiB",
            );
        }
    }
    let no_ps2 = features.child("ps2").and_then(|ps2| ps2.value("state")) == Some("off");
    let inputs = root
        .child("devices")
        .into_iter()
        .flat_map(|devices| devices.children_named("input"))
        .filter(|input| no_ps2 && input.value("bus") == Some("ps2"));
    for input in inputs {
        findings.error_with_hint(
            input.position(),
            "this input device is on PS/2, which <features> turns off",
            "remove one of them",
        );
    }
}

/// One vCPU has one scheduler.
fn cputune(root: Element<'_>, findings: &mut Findings<'_>) {
    let Some(tune) = root.child("cputune") else {
        return;
    };
    for (name, set) in [("vcpusched", "vcpus"), ("iothreadsched", "iothreads")] {
        let mut seen = BTreeSet::new();
        for element in tune.children_named(name) {
            let members = element.value(set).and_then(cpu_set).unwrap_or_default();
            if members.iter().any(|member| seen.contains(member)) {
                findings.error_with_hint(
                    element.position(),
                    format!("<{name}> is about {set} that another one is about as well"),
                    "name each of them once",
                );
            }
            seen.extend(members);
        }
    }
}

/// SMBIOS 3 §7.1: mm/dd/yy or mm/dd/yyyy.
fn is_bios_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |text: &str, low: u64, high: u64| {
        any_base(text).is_some_and(|number| (low..=high).contains(&number))
    };
    match parts.as_slice() {
        [month, day, year] => {
            let year_fits = match year.len() {
                2 => number(year, 0, 99),
                _ => number(year, 1900, 9999),
            };
            number(month, 1, 12) && number(day, 1, 31) && year_fits
        }
        _ => false,
    }
}

/// Reports the second of two devices at one place; `key` is what a place is.
pub(super) fn once<'a, K: Ord>(
    elements: impl Iterator<Item = (K, Element<'a>)>,
    findings: &mut Findings<'_>,
    message: impl Fn(u32) -> String,
) {
    let mut seen: BTreeMap<K, u32> = BTreeMap::new();
    for (key, element) in elements {
        if let Some(line) = seen.insert(key, element.position().line) {
            findings.error(element.position(), message(line));
        }
    }
}
