//! Sense in the devices that are kept or have no effect yet.

use super::display;
use super::ports::{self, is_on_virtio};
use super::sense::once;
use crate::model::findings::Findings;
use crate::model::value::{any_base, unit_bytes, unsigned};
use crate::xml::Element;

pub(super) fn check(devices: Element<'_>, findings: &mut Findings<'_>) {
    for disk in devices.children_named("disk") {
        check_disk(disk, findings);
    }
    addresses(devices, findings);
    usb(devices, findings);
    videos(devices, findings);
    hostdevs(devices, findings);
    for shmem in devices.children_named("shmem") {
        check_shmem(shmem, findings);
    }
    for tpm in devices.children_named("tpm") {
        check_tpm(tpm, findings);
    }
    for interface in devices.children_named("interface") {
        check_interface(interface, findings);
    }
    memory_devices(devices, findings);
    for name in [
        "serial",
        "console",
        "channel",
        "parallel",
        "smartcard",
        "redirdev",
    ] {
        for device in devices.children_named(name) {
            check_stream(device, device.value("type"), findings);
        }
    }
    for rng in devices.children_named("rng") {
        if let Some(backend) = rng.child("backend")
            && backend.value("model") == Some("egd")
        {
            check_stream(backend, backend.value("type"), findings);
        }
    }
    for graphics in devices.children_named("graphics") {
        check_graphics(graphics, findings);
        display::check(graphics, findings);
    }
    display::check_all(devices, findings);
}

fn check_disk(disk: Element<'_>, findings: &mut Findings<'_>) {
    let format = disk.child("driver").and_then(|driver| driver.value("type"));
    let kind = disk.value("type").unwrap_or("file");
    if disk.value("device") == Some("lun") && !matches!(kind, "block" | "network" | "volume") {
        findings.error_with_hint(
            disk.position(),
            format!("device='lun' needs a block device, not type='{kind}'"),
            "write type='block'",
        );
    }
    let source = disk.child("source");
    let encrypted = disk
        .child("encryption")
        .or(source.and_then(|s| s.child("encryption")));
    if let Some(encryption) = encrypted
        && encryption.value("engine") != Some("librbd")
        && !matches!(format, None | Some("raw" | "qcow2" | "qcow" | "luks"))
    {
        findings.error_with_hint(
            encryption.position(),
            "only raw and qcow2 images can be encrypted",
            "remove <encryption>, or convert the image",
        );
    }
    if let (Some(auth), Some(_)) = (disk.child("auth"), source.and_then(|s| s.child("auth"))) {
        findings.error_with_hint(
            auth.position(),
            "<auth> is there for the disk and for its source",
            "keep that of <source>",
        );
    }
    if let Some(shareable) = disk.child("shareable")
        && !matches!(format, None | Some("raw"))
    {
        findings.error_with_hint(
            shareable.position(),
            "only a raw image can be used by several domains at once",
            "remove <shareable/>, or convert the image to raw",
        );
    }
    if let (Some(filters), Some(_)) = (disk.child("throttlefilters"), disk.child("iotune")) {
        findings.error(
            filters.position(),
            "<throttlefilters> and <iotune> exclude each other",
        );
    }
    if let Some(source) = source {
        check_network_source(kind, source, findings);
        for label in source.children_named("seclabel") {
            let relabel = label.value("relabel") == Some("yes");
            if relabel && label.child("label").is_none() {
                findings.error(label.position(), "relabel='yes' without a <label>");
            }
        }
    }
    disk_address(disk, findings);
}

fn check_network_source(kind: &str, source: Element<'_>, findings: &mut Findings<'_>) {
    if kind != "network" {
        return;
    }
    const PROTOCOLS: &[&str] = &[
        "nbd", "rbd", "iscsi", "gluster", "vxhs", "http", "https", "ftp", "ftps", "tftp", "ssh",
        "nfs",
    ];
    let Some(protocol) = source.attribute("protocol") else {
        findings.error(source.position(), "a disk on the network needs protocol=");
        return;
    };
    if !PROTOCOLS.contains(&protocol.value()) {
        let known = crate::model::value::alternatives(PROTOCOLS.iter().copied());
        findings.bad_attribute(source, protocol, &known);
    }
    let hosts = source.children_named("host").count();
    if protocol.value() == "iscsi" && hosts != 1 {
        findings.error(
            source.position(),
            format!("iSCSI takes one <host>, not {hosts}"),
        );
    }
    let secret = source.child("auth").and_then(|auth| auth.child("secret"));
    if let Some(secret) = secret {
        let right = match protocol.value() {
            "iscsi" => "iscsi",
            "rbd" => "ceph",
            _ => return,
        };
        if secret.value("type") != Some(right) {
            findings.error_with_hint(
                secret.position(),
                format!("<secret> is of the wrong type for {}", protocol.value()),
                format!("write type='{right}'"),
            );
        }
    }
}

/// A disk sits where its bus has places.
fn disk_address(disk: Element<'_>, findings: &mut Findings<'_>) {
    let Some(address) = disk.child("address") else {
        return;
    };
    let Some(kind) = address.attribute("type") else {
        return;
    };
    let bus = disk.child("target").and_then(|target| target.value("bus"));
    let right = match bus {
        Some("fdc" | "ide" | "sata" | "scsi") => "drive",
        Some("virtio") => "pci",
        Some("usb") => "usb",
        _ => return,
    };
    if kind.value() != right && !matches!(kind.value(), "ccw" | "virtio-s390" | "virtio-mmio") {
        findings.error_with_hint(
            kind.value_position(),
            format!(
                "a disk on bus='{}' has no {} address",
                bus.unwrap_or_default(),
                kind.value()
            ),
            format!("write type='{right}', or remove <address>"),
        );
    }
}

/// Two devices at one place of a bus that is not PCI.
fn addresses(devices: Element<'_>, findings: &mut Findings<'_>) {
    let drives = devices.children().filter_map(|device| {
        let bus = match device.name() {
            "disk" => device.child("target")?.value("bus")?,
            // A SCSI device of the host sits on the same controllers as disks do.
            "hostdev" => "scsi",
            _ => return None,
        };
        let address = device.child("address")?;
        let part = |name: &str| any_base(address.value(name).unwrap_or("0"));
        let place = [
            part("controller"),
            part("bus"),
            part("target"),
            part("unit"),
        ];
        (address.value("type") == Some("drive")).then_some(((bus, place), address))
    });
    once(drives, findings, |line| {
        format!("this place on the bus is taken by the device in line {line}")
    });
    let ports = devices.children().filter_map(|device| {
        let address = device.child("address").filter(|_| is_on_virtio(device))?;
        let place = ports::place(device);
        let taken = (place.controller, place.port?);
        (address.value("type") == Some("virtio-serial")).then_some((taken, address))
    });
    once(ports, findings, |line| {
        format!("this port is taken by the device in line {line}")
    });
}

fn usb(devices: Element<'_>, findings: &mut Findings<'_>) {
    let controllers = || {
        devices
            .children_named("controller")
            .filter(|controller| controller.value("type") == Some("usb"))
    };
    let disabled = controllers().any(|controller| controller.value("model") == Some("none"));
    for controller in controllers() {
        let xhci = matches!(controller.value("model"), Some("nec-xhci" | "qemu-xhci"));
        if let Some(ports) = controller.attribute("ports")
            && xhci
            && unsigned(ports.value()).is_some_and(|ports| ports > 15)
        {
            findings.bad_attribute(controller, ports, "at most 15 ports");
        }
    }
    let devices_on_usb = devices
        .children()
        .filter(|device| device.value("bus") == Some("usb"));
    for device in devices_on_usb.filter(|_| disabled) {
        findings.error_with_hint(
            device.position(),
            format!(
                "<{}> is on USB, and the USB controller has model='none'",
                device.name()
            ),
            "remove one of them",
        );
    }
    usb_places(devices, highest_index(controllers()), findings);
}

/// Without any controller there is the implicit one with index 0.
fn highest_index<'a>(controllers: impl Iterator<Item = Element<'a>>) -> u64 {
    let index = |controller: Element<'_>| unsigned(controller.value("index").unwrap_or("0"));
    controllers.filter_map(index).max().unwrap_or(0)
}

fn usb_places(devices: Element<'_>, highest: u64, findings: &mut Findings<'_>) {
    let mut places = Vec::new();
    for device in devices.children() {
        let Some(address) = device.child("address") else {
            continue;
        };
        if address.value("type") != Some("usb") || device.name() == "controller" {
            continue;
        }
        let bus = address.value("bus").unwrap_or("0");
        if unsigned(bus).is_some_and(|bus| bus > highest) {
            findings.error(
                address.position(),
                format!("no USB controller has the index {bus}"),
            );
        }
        let Some(port) = address.value("port") else {
            continue;
        };
        if !is_usb_port(port) {
            findings.error(address.position(), format!("'{port}' is no USB port"));
        }
        places.push(((bus, port), address));
    }
    once(places.into_iter(), findings, |line| {
        format!("this USB port is taken by the device in line {line}")
    });
}

/// USB has at most four hubs in a row (libvirt's limit as well), and those of QEMU have eight ports.
fn is_usb_port(port: &str) -> bool {
    let levels: Vec<Option<u64>> = port.split('.').map(unsigned).collect();
    let sound = |(depth, number): (usize, &Option<u64>)| {
        number.is_some_and(|number| number > 0 && (depth == 0 || number <= 8))
    };
    levels.len() <= 4 && levels.iter().enumerate().all(sound)
}

fn videos(devices: Element<'_>, findings: &mut Findings<'_>) {
    let models: Vec<_> = devices
        .children_named("video")
        .filter_map(|video| video.child("model"))
        .collect();
    if models.len() > 1 {
        for model in models
            .iter()
            .filter(|model| model.value("type") == Some("none"))
        {
            findings.error_with_hint(
                model.position(),
                "type='none' says that there is no video card, and there are others",
                "remove this <video>",
            );
        }
    }
    let primary = models
        .iter()
        .filter(|model| model.value("primary") == Some("yes"));
    for model in primary.skip(1) {
        findings.error_with_hint(
            model.position(),
            "a second primary video card",
            "remove primary='yes' from one",
        );
    }
}

fn hostdevs(devices: Element<'_>, findings: &mut Findings<'_>) {
    let all = || devices.children_named("hostdev");
    let source_of = |hostdev: Element<'_>| {
        let source = hostdev.child("source")?;
        let mut identity = vec![hostdev.value("type").unwrap_or_default().to_string()];
        for element in std::iter::once(source).chain(source.children()) {
            for attribute in element.attributes().filter(|a| a.name() != "startupPolicy") {
                let value = attribute.value();
                let number = any_base(value).map_or(value.to_string(), |n| n.to_string());
                identity.push(format!("{} {}={number}", element.name(), attribute.name()));
            }
        }
        identity.sort();
        (identity.len() > 1).then_some(identity)
    };
    let sources = all().filter_map(|hostdev| Some((source_of(hostdev)?, hostdev)));
    let sources: Vec<_> = sources.collect();
    once(sources.into_iter(), findings, |line| {
        format!("the same device of the host is passed through in line {line}")
    });
    let graphics = devices.child("graphics").is_some();
    let mut ramfb = 0;
    for hostdev in all() {
        let kind = hostdev.value("type");
        if kind == Some("mdev") {
            let source = hostdev
                .child("source")
                .and_then(|source| source.child("address"));
            if source.is_none_or(|address| address.attribute("uuid").is_none()) {
                findings.error(
                    source.unwrap_or(hostdev).position(),
                    "a mediated device is named by uuid= of the <address> in its <source>",
                );
            }
            if let Some(address) = hostdev.child("address")
                && address.value("type") == Some("drive")
            {
                findings.error(address.position(), "a mediated device has no drive address");
            }
        }
        if hostdev.value("display") == Some("on") && !graphics {
            findings.error(hostdev.position(), "display='on' without any <graphics>");
        }
        if hostdev.value("ramfb") == Some("on") {
            ramfb += 1;
            if ramfb > 1 {
                findings.error(hostdev.position(), "a second device with ramfb='on'");
            }
        }
        for name in ["rawio", "sgio"] {
            if let Some(attribute) = hostdev.attribute(name)
                && kind != Some("scsi")
            {
                findings.error(
                    attribute.position(),
                    format!("{name}= is for devices of type='scsi'"),
                );
            }
        }
    }
}

fn check_shmem(shmem: Element<'_>, findings: &mut Findings<'_>) {
    if let Some(size) = shmem.child("size") {
        let unit = unit_bytes(size.value("unit").unwrap_or("B")).unwrap_or(1);
        let bytes = unsigned(size.text().trim()).and_then(|size| size.checked_mul(unit));
        if bytes.is_none_or(|bytes| bytes < 1 << 20 || !bytes.is_power_of_two()) {
            findings.error_with_hint(
                size.text_position(),
                "the size of shared memory is a power of two from 1 MiB on",
                "write <size unit='MiB'>4</size>, say",
            );
        }
    }
    if let (Some(msi), None) = (shmem.child("msi"), shmem.child("server")) {
        findings.error(msi.position(), "<msi> needs a <server>");
    }
    not_pci(shmem, findings);
}

fn not_pci(device: Element<'_>, findings: &mut Findings<'_>) {
    let kind = device
        .child("address")
        .and_then(|address| address.attribute("type"));
    if let Some(kind) = kind
        && kind.value() != "pci"
    {
        findings.error_with_hint(
            kind.value_position(),
            format!("<{}> sits on PCI", device.name()),
            "write type='pci'",
        );
    }
}

fn check_tpm(tpm: Element<'_>, findings: &mut Findings<'_>) {
    match tpm.child("backend") {
        None => findings.error_with_hint(
            tpm.position(),
            "<tpm> has no <backend>",
            "add <backend type='emulator' version='2.0'/>",
        ),
        Some(backend) => {
            let crb = tpm.value("model") == Some("tpm-crb");
            if crb && backend.value("version") == Some("1.2") {
                findings.error(backend.position(), "tpm-crb is for TPM 2.0");
            }
        }
    }
}

fn check_interface(interface: Element<'_>, findings: &mut Findings<'_>) {
    let kind = interface.value("type").unwrap_or_default();
    let backend = interface.child("backend");
    if let Some(forward) = interface.child("portForward")
        && backend.and_then(|backend| backend.value("type")) != Some("passt")
    {
        findings.error_with_hint(
            forward.position(),
            "<portForward> needs the passt backend",
            "add <backend type='passt'/>",
        );
    }
    let tap = backend.and_then(|backend| backend.attribute("tap"));
    if let Some(tap) = tap
        && matches!(kind, "hostdev" | "vhostuser" | "user" | "udp" | "vdpa")
    {
        findings.error(
            tap.position(),
            format!("an interface of type='{kind}' has no tap device"),
        );
    }
}

fn memory_devices(devices: Element<'_>, findings: &mut Findings<'_>) {
    let bytes = |element: Option<Element<'_>>| {
        let element = element?;
        let unit = unit_bytes(element.value("unit").unwrap_or("KiB"))?;
        unsigned(element.text().trim())?.checked_mul(unit)
    };
    let mut ranges: Vec<(u64, u64, u32)> = Vec::new();
    for memory in devices.children_named("memory") {
        let Some(target) = memory.child("target") else {
            findings.error(memory.position(), "<memory> has no <target>");
            continue;
        };
        let size = bytes(target.child("size"));
        // libvirt leaves the addresses of DIMMs to whoever wrote them.
        let base = target
            .child("address")
            .and_then(|address| address.value("base"));
        let Some(start) = base.and_then(any_base) else {
            continue;
        };
        let Some(end) = size.and_then(|size| start.checked_add(size)) else {
            continue;
        };
        let overlap = ranges.iter().find(|(s, e, _)| start < *e && *s < end);
        if let Some((_, _, line)) = overlap {
            findings.error(
                memory.position(),
                format!("this memory lies over that of the device in line {line}"),
            );
        }
        ranges.push((start, end, memory.position().line));
    }
}

/// What the two ends of a stream have to say.
fn check_stream(device: Element<'_>, kind: Option<&str>, findings: &mut Findings<'_>) {
    let sources: Vec<_> = device.children_named("source").collect();
    let any = |name: &str| sources.iter().any(|source| source.value(name).is_some());
    let missing = |findings: &mut Findings<'_>, what: &str| {
        findings.error(
            sources.first().copied().unwrap_or(device).position(),
            format!(
                "<{}> over {} does not say {what}",
                device.name(),
                kind.unwrap_or("this")
            ),
        );
    };
    match kind {
        Some("tcp") if !any("host") => missing(findings, "which host="),
        Some("tcp") if !any("service") => missing(findings, "which service="),
        Some("udp") if !sources.iter().any(|s| s.value("service").is_some()) => {
            missing(findings, "which service=");
        }
        Some("unix")
            if !any("path") && !matches!(device.name(), "channel" | "serial" | "console") =>
        {
            missing(findings, "which path=");
        }
        Some("file" | "dev" | "pipe") if !any("path") => missing(findings, "which path="),
        _ => {}
    }
    let allowed = if kind == Some("udp") { 2 } else { 1 };
    if let Some(extra) = sources.get(allowed) {
        findings.error(
            extra.position(),
            format!("<{}> has more <source> than ends", device.name()),
        );
    }
    for source in &sources {
        if let Some(reconnect) = source.child("reconnect")
            && source.value("mode") != Some("connect")
        {
            findings.error_with_hint(
                reconnect.position(),
                "only a stream that connects can reconnect",
                "write mode='connect'",
            );
        }
    }
}

fn check_graphics(graphics: Element<'_>, findings: &mut Findings<'_>) {
    let same = |attribute: &str, kind: &str| {
        let outer = graphics.attribute(attribute)?;
        let inner = graphics
            .children_named("listen")
            .find(|listen| listen.value("type") == Some(kind))?
            .attribute(if kind == "socket" {
                "socket"
            } else {
                "address"
            })?;
        (outer.value() != inner.value()).then_some(inner)
    };
    for (attribute, kind) in [("listen", "address"), ("socket", "socket")] {
        if let Some(inner) = same(attribute, kind) {
            findings.error(
                inner.value_position(),
                format!("{attribute}= of <graphics> says another {kind} than <listen>"),
            );
        }
    }
}
