//! `<devices>`: addresses and aliases, and the devices that are not disks.

use super::user_network;
use crate::model::device::{
    CharBackend, CharLog, Controller, Interface, InterfaceSource, MacAddress, MemBalloon, Panic,
    Rng, SerialPort,
};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::Element;
use vmm_api::spec::{MAX_CONSOLE_PORTS, PciAddress};

/// The alias that the document gives, else `default`.
pub(super) fn alias(element: Element<'_>, default: impl FnOnce() -> String) -> String {
    element
        .child("alias")
        .and_then(|alias| alias.value("name"))
        .filter(|name| !name.is_empty())
        .map_or_else(default, str::to_string)
}

/// The PCI address of a device, if it has one.
pub(super) fn pci_address(device: Element<'_>, findings: &mut Findings<'_>) -> Option<PciAddress> {
    let element = device.child("address")?;
    // libvirt reads an address without a type as PCI, as all the old ones are.
    if element.value("type").is_some_and(|kind| kind != "pci") {
        return None;
    }
    let mut part = |name: &str, max: u8| match element.attribute(name) {
        None => Some(0),
        Some(attribute) => {
            let value = value::any_base8(attribute.value()).filter(|value| *value <= max);
            if value.is_none() {
                let expected = format!("a number from 0 to {max:#x}");
                findings.bad_attribute(element, attribute, &expected);
            }
            value
        }
    };
    let domain = part("domain", 0);
    let bus = part("bus", 255);
    let slot = part("slot", 31);
    let function = part("function", 7);
    domain?;
    // A type alone asks for an address to be assigned.
    if ["bus", "slot", "function"]
        .iter()
        .all(|name| element.attribute(name).is_none())
    {
        return None;
    }
    PciAddress::new(bus?, slot?, function?)
}

/// `<boot order=...>` of a device.
pub(super) fn boot_order(device: Element<'_>, findings: &mut Findings<'_>) -> Option<u32> {
    let boot = device.child("boot")?;
    findings.parsed(boot, "order", "a whole number from 1", |text| {
        value::unsigned32(text).filter(|order| *order > 0)
    })
}

pub(super) fn controller(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Controller> {
    let Some(kind) = element.value("type") else {
        findings.error_with_hint(
            element.position(),
            "<controller> has no type",
            "write type='pci'",
        );
        return None;
    };
    let model = element.value("model").map(str::to_string);
    let index = findings.parsed(element, "index", "a whole number", value::unsigned32);
    let mut target = |name: &str| {
        let target = element.child("target")?;
        findings.parsed(target, name, "a number from 0 to 255", value::any_base8)
    };
    let chassis = target("chassis");
    let port = target("port");
    let expected = format!("a number from 1 to {MAX_CONSOLE_PORTS}");
    let ports = match kind {
        "virtio-serial" => findings.parsed(element, "ports", &expected, |text| {
            let ports = value::unsigned32(text).and_then(|ports| u16::try_from(ports).ok())?;
            (1..=MAX_CONSOLE_PORTS).contains(&ports).then_some(ports)
        }),
        _ => None,
    };
    if kind == "pci" {
        check_pci_controller(element, model.as_deref(), index, findings);
    }
    Some(Controller {
        at: element.position(),
        alias: alias(element, || match (kind, index) {
            ("pci", Some(0)) if model.as_deref() == Some("pcie-root") => "pcie.0".into(),
            ("pci", Some(index)) => format!("pci.{index}"),
            (kind, index) => format!("{kind}{}", index.unwrap_or(0)),
        }),
        kind: kind.to_string(),
        model,
        index,
        chassis,
        port,
        ports,
        address: pci_address(element, findings),
    })
}

fn check_pci_controller(
    element: Element<'_>,
    model: Option<&str>,
    index: Option<u32>,
    findings: &mut Findings<'_>,
) {
    let Some(model) = model else {
        findings.error_with_hint(
            element.position(),
            "a PCI controller needs a model",
            "write model='pcie-root-port'",
        );
        return;
    };
    let root = matches!(model, "pcie-root" | "pci-root");
    match index {
        Some(index) if root && index != 0 => findings.error_with_hint(
            element.position(),
            format!("the {model} has index {index}"),
            "the root bus is index='0'",
        ),
        Some(index) if !root && !(1..=255).contains(&index) => findings.error_with_hint(
            element.position(),
            format!("the {model} has index {index}"),
            "the index is the bus number, 1 to 255",
        ),
        _ => {}
    }
}

pub(super) fn interface(
    index: usize,
    element: Element<'_>,
    findings: &mut Findings<'_>,
) -> Option<Interface> {
    let source = interface_source(element, findings);
    let mac = element
        .child("mac")
        .and_then(|mac| mac_address(mac, findings));
    let driver = element.child("driver");
    let queues = driver.and_then(|driver| {
        findings.parsed(driver, "queues", "a number from 1 to 256", |text| {
            value::unsigned32(text)
                .filter(|queues| (1..=256).contains(queues))
                .and_then(|queues| queues.try_into().ok())
        })
    });
    let mtu = element.child("mtu").and_then(|mtu| {
        findings.parsed(mtu, "size", "a number from 68 to 65535", |text| {
            value::unsigned32(text)
                .filter(|size| (68..=65535).contains(size))
                .and_then(|size| size.try_into().ok())
        })
    });
    Some(Interface {
        at: element.position(),
        alias: alias(element, || format!("net{index}")),
        source: source?,
        mac,
        model: element
            .child("model")
            .and_then(|model| model.value("type"))
            .unwrap_or("virtio")
            .to_string(),
        target: element
            .child("target")
            .and_then(|target| target.value("dev"))
            .map(str::to_string),
        managed: element
            .child("target")
            .and_then(|target| target.value("managed"))
            != Some("no"),
        link_up: element.child("link").and_then(|link| link.value("state")) != Some("down"),
        mtu,
        queues,
        boot_order: boot_order(element, findings),
        address: pci_address(element, findings),
    })
}

fn interface_source(element: Element<'_>, findings: &mut Findings<'_>) -> Option<InterfaceSource> {
    let Some(kind) = element.value("type") else {
        findings.error_with_hint(
            element.position(),
            "<interface> has no type",
            "write type='network', type='bridge' or type='user'",
        );
        return None;
    };
    if kind != "user" {
        user_network::refuse_elsewhere(element, findings);
    }
    let mut named = |name: &str| {
        let value = element
            .child("source")
            .and_then(|source| source.value(name));
        match value {
            Some(value) if !value.is_empty() => Some(value.to_string()),
            _ => {
                findings.error_with_hint(
                    element.position(),
                    format!("<interface type='{kind}'> does not say which {name}"),
                    format!("add <source {name}='...'/>"),
                );
                None
            }
        }
    };
    Some(match kind {
        "network" => InterfaceSource::Network(named("network")?),
        "bridge" => InterfaceSource::Bridge(named("bridge")?),
        "user" => InterfaceSource::User(user_network::read(element, findings)),
        "ethernet" => InterfaceSource::Ethernet,
        other => InterfaceSource::Other(other.to_string()),
    })
}

fn mac_address(element: Element<'_>, findings: &mut Findings<'_>) -> Option<MacAddress> {
    let attribute = element.attribute("address")?;
    let Ok(mac) = attribute.value().parse::<MacAddress>() else {
        findings.bad_attribute(
            element,
            attribute,
            "six pairs of hex digits, such as 52:54:00:12:34:56",
        );
        return None;
    };
    if mac.0[0] & 1 != 0 {
        findings.error_with_hint(
            attribute.value_position(),
            format!("{mac} is a multicast address; an interface cannot have it"),
            "the lowest bit of the first byte must be 0",
        );
        return None;
    }
    Some(mac)
}

pub(super) fn backend(element: Element<'_>) -> CharBackend {
    match element.value("type").unwrap_or("pty") {
        "pty" => CharBackend::Pty,
        "null" => CharBackend::Null,
        "unix" => CharBackend::UnixListen(
            element
                .child("source")
                .and_then(|source| source.value("path"))
                .map(str::to_string),
        ),
        other => CharBackend::Other(other.to_string()),
    }
}

fn char_log(element: Element<'_>, findings: &mut Findings<'_>) -> Option<CharLog> {
    let log = element.child("log")?;
    let Some(file) = log.value("file").filter(|file| !file.is_empty()) else {
        findings.error_with_hint(
            log.position(),
            "<log> does not say which file",
            "write <log file='/path'/>",
        );
        return None;
    };
    if !file.starts_with('/') {
        findings.error(
            log.position(),
            format!("the log '{file}' is no absolute path"),
        );
    }
    let append = findings.parsed(log, "append", "'on' or 'off'", value::on_off);
    Some(CharLog {
        file: file.to_string(),
        append: append.unwrap_or(false),
    })
}

fn serial_port(element: Element<'_>, default: u8, findings: &mut Findings<'_>) -> SerialPort {
    let port = element.child("target").and_then(|target| {
        findings.parsed(target, "port", "0 (COM1) to 3 (COM4)", |text| {
            value::any_base8(text).filter(|port| *port < 4)
        })
    });
    let port = port.unwrap_or(default);
    SerialPort {
        at: element.position(),
        alias: alias(element, || format!("serial{port}")),
        port,
        backend: backend(element),
        log: char_log(element, findings),
    }
}

/// Serial ports. Without `<serial>` a console that leads to one stands for it, as in libvirt.
pub(super) fn serials(
    devices: Option<Element<'_>>,
    findings: &mut Findings<'_>,
) -> Vec<SerialPort> {
    let mut ports = Vec::new();
    for (index, element) in devices
        .into_iter()
        .flat_map(|devices| devices.children_named("serial"))
        .enumerate()
    {
        let default = u8::try_from(index).unwrap_or(u8::MAX);
        ports.push(serial_port(element, default, findings));
    }
    for (index, port) in ports.iter().enumerate() {
        if port.port > 3 {
            findings.error(port.at, "a PC has four serial ports");
        } else if ports
            .iter()
            .take(index)
            .any(|other| other.port == port.port)
        {
            findings.error_with_hint(
                port.at,
                format!("serial port {} is there twice", port.port),
                "give each <target port=...> a number of its own",
            );
        }
    }
    if !ports.is_empty() {
        return ports;
    }
    let console = devices
        .into_iter()
        .flat_map(|devices| devices.children_named("console"))
        .find(|console| {
            let target = console
                .child("target")
                .and_then(|target| target.value("type"));
            matches!(target, None | Some("serial"))
        });
    console
        .map(|console| serial_port(console, 0, findings))
        .into_iter()
        .collect()
}

pub(super) fn rng(index: usize, element: Element<'_>, findings: &mut Findings<'_>) -> Option<Rng> {
    let Some(backend) = element.child("backend") else {
        findings.error_with_hint(
            element.position(),
            "<rng> has no <backend>",
            "add <backend model='random'>/dev/urandom</backend>",
        );
        return None;
    };
    let mut source = backend.text().trim();
    if source.is_empty() || backend.value("model") == Some("builtin") {
        source = "/dev/urandom";
    } else if backend.value("model") == Some("random") && !source.starts_with('/') {
        findings.error_with_hint(
            backend.text_position(),
            format!("'{source}' is no absolute path"),
            "/dev/urandom is the usual source",
        );
    }
    let rate = element.child("rate");
    let mut number = |name: &str| {
        let parse = |text: &str| value::unsigned(text).filter(|number| *number > 0);
        findings.parsed(rate?, name, "a whole number from 1", parse)
    };
    let rate_bytes = number("bytes");
    let period = number("period");
    if let Some(rate) = rate
        && rate.attribute("bytes").is_none()
    {
        findings.error(rate.position(), "<rate> does not say how many bytes");
    }
    let rate_period_ms = period.and_then(|period| u32::try_from(period).ok());
    if period.is_some() && rate_period_ms.is_none() {
        findings.error(
            element.position(),
            "the period of the rate is longer than 49 days",
        );
    }
    Some(Rng {
        at: element.position(),
        alias: alias(element, || format!("rng{index}")),
        source: source.to_string(),
        rate_bytes,
        rate_period_ms,
        address: pci_address(element, findings),
    })
}

/// The panic device on ISA; there is one port for it.
pub(super) fn panic(devices: Option<Element<'_>>, findings: &mut Findings<'_>) -> Option<Panic> {
    let mut panic = None;
    for element in devices?.children_named("panic") {
        if !matches!(element.value("model"), None | Some("isa")) {
            continue;
        }
        if panic.is_some() {
            findings.error_with_hint(
                element.position(),
                "a second panic device on ISA",
                "remove one of them",
            );
        }
        let base = element
            .child("address")
            .and_then(|address| address.attribute("iobase"));
        if let Some(base) = base
            && value::any_base(base.value()) != Some(0x505)
        {
            findings.keep_with_hint(
                base.value_position(),
                format!(
                    "the panic device sits at port 0x505, not at {}",
                    base.value()
                ),
                "remove <address>",
            );
        }
        panic = Some(Panic {
            at: element.position(),
            alias: alias(element, || "panic0".to_string()),
        });
    }
    panic
}

pub(super) fn memballoon(element: Element<'_>, findings: &mut Findings<'_>) -> MemBalloon {
    let stats_period = element.child("stats").and_then(|stats| {
        findings.parsed(stats, "period", "a number of seconds", value::unsigned32)
    });
    let mut switch = |name: &str| findings.parsed(element, name, "'on' or 'off'", value::on_off);
    let free_page_reporting = switch("freePageReporting");
    let autodeflate = switch("autodeflate").unwrap_or(false);
    if element.attribute("model").is_none() {
        findings.error_with_hint(
            element.position(),
            "<memballoon> has no model",
            "write model='virtio' or model='none'",
        );
    }
    MemBalloon {
        at: element.position(),
        alias: alias(element, || "balloon0".to_string()),
        present: element.value("model") != Some("none"),
        stats_period,
        free_page_reporting,
        autodeflate,
        address: pci_address(element, findings),
    }
}
