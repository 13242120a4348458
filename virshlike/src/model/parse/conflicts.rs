//! What must agree between the parts of a domain: names, addresses and aliases that are there
//! once, and the parts that this build cannot start.

use crate::model::device::{DiskBus, DiskDevice};
use crate::model::domain::Domain;
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::{Element, Position};
use std::collections::BTreeMap;
use vmm_api::spec::PciAddress;

pub(super) fn check(root: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    duplicate_targets(domain, findings);
    duplicate_macs(domain, findings);
    duplicate_sources(domain, findings);
    duplicate_controllers(domain, findings);
    if let Some(devices) = root.child("devices") {
        duplicate_aliases(devices, findings);
        duplicate_pci_addresses(devices, domain, findings);
        boot_orders(devices, root, findings);
        several_consoles(devices, findings);
    }
    startable(root, domain, findings);
}

fn duplicate_targets(domain: &Domain, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
    for disk in &domain.disks {
        if let Some(first) = seen.insert(&disk.target, disk.at) {
            findings.error_with_hint(
                disk.at,
                format!(
                    "the target '{}' is taken by the disk in line {}",
                    disk.target, first.line
                ),
                "give each disk a name of its own",
            );
        }
    }
}

fn duplicate_macs(domain: &Domain, findings: &mut Findings<'_>) {
    let mut seen = BTreeMap::new();
    for interface in &domain.interfaces {
        let Some(mac) = interface.mac else { continue };
        if let Some(first) = seen.insert(mac, interface.at) {
            let first: Position = first;
            findings.warn(
                interface.at,
                format!(
                    "the MAC address {mac} is that of the interface in line {} as well; they cannot both work on one network",
                    first.line
                ),
            );
        }
    }
}

/// The same file twice is a mistake that only warns: it can be meant, when both are read-only.
fn duplicate_sources(domain: &Domain, findings: &mut Findings<'_>) {
    use crate::model::device::DiskSource::{Block, File};
    let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
    for disk in &domain.disks {
        if disk.readonly || disk.shareable {
            continue;
        }
        if let Some(File(path) | Block(path)) = &disk.source
            && let Some(first) = seen.insert(path, disk.at)
        {
            findings.warn(
                disk.at,
                format!(
                    "the disk in line {} uses {path} as well; a start refuses this unless both are <shareable/>",
                    first.line
                ),
            );
        }
    }
}

fn duplicate_aliases(devices: Element<'_>, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for device in devices
        .children()
        .filter(|device| device.name() != "console")
    {
        let Some(attribute) = device
            .child("alias")
            .and_then(|alias| alias.attribute("name"))
        else {
            continue;
        };
        let name = attribute.value();
        if let Some(line) = seen.insert(name, device.position().line) {
            findings.error_with_hint(
                attribute.value_position(),
                format!("the alias '{name}' is that of the device in line {line}"),
                "give each device an alias of its own, or none",
            );
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
            findings.error_with_hint(
                attribute.value_position(),
                format!("'{name}' is no alias"),
                "aliases are letters, digits, '-', '_', '.' and ':'",
            );
        }
    }
}

/// Two devices at one place, what belongs to the machine itself, and buses that lead nowhere.
fn duplicate_pci_addresses(devices: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<PciAddress, (String, u32)> = BTreeMap::new();
    // A console is a serial port seen from another side and repeats its address.
    for device in devices
        .children()
        .filter(|device| device.name() != "console")
    {
        let Some(address) = super::devices::pci_address(device, findings) else {
            continue;
        };
        let Some(element) = device.child("address") else {
            continue;
        };
        let at = element.position();
        let entry = (device.name().to_string(), device.position().line);
        if let Some((name, line)) = seen.insert(address, entry) {
            findings.error_with_hint(
                at,
                format!("the PCI address {address} is taken by <{name}> in line {line}"),
                "remove <address> to get a free one",
            );
        } else if address.bus == 0 && address.slot == 0 {
            findings.error_with_hint(
                at,
                format!("the PCI address {address} belongs to the host bridge"),
                "remove <address> to get a free one",
            );
        }
    }
    unreachable_buses(devices, domain, findings);
}

fn unreachable_buses(devices: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    // Bus number to whether a root port leads there.
    let buses: BTreeMap<u32, bool> = domain
        .controllers
        .iter()
        .filter(|controller| controller.kind == "pci")
        .filter_map(|controller| Some((controller.index?, controller.is_root_port())))
        .collect();
    for device in devices.children() {
        let Some(address) = super::devices::pci_address(device, findings) else {
            continue;
        };
        let at = device.child("address").unwrap_or(device).position();
        let port = buses.get(&u32::from(address.bus)).copied();
        if address.bus != 0 && port.is_none() {
            findings.keep_with_hint(
                at,
                format!("no controller of the definition makes the bus of {address}"),
                format!(
                    "add <controller type='pci' index='{}' model='pcie-root-port'/>",
                    address.bus
                ),
            );
        } else if address.bus != 0 && address.slot != 0 && port == Some(true) {
            findings.error_with_hint(
                at,
                format!("{address}: a root port has slot 0 only"),
                "write slot='0x00'",
            );
        }
    }
}

fn duplicate_controllers(domain: &Domain, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<(&str, u32), Position> = BTreeMap::new();
    for controller in &domain.controllers {
        // USB companions share the index of the controller that they belong to.
        let Some(index) = controller.index.filter(|_| controller.kind != "usb") else {
            continue;
        };
        if let Some(first) = seen.insert((&controller.kind, index), controller.at) {
            findings.error_with_hint(
                controller.at,
                format!(
                    "the {} controller with index {index} is there already, in line {}",
                    controller.kind, first.line
                ),
                "give each an index of its own",
            );
        }
    }
}

fn boot_orders(devices: Element<'_>, root: Element<'_>, findings: &mut Findings<'_>) {
    let by_kind = root.child("os").and_then(|os| os.child("boot"));
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for device in devices.children() {
        let Some(boot) = device.child("boot") else {
            continue;
        };
        let expected = "a whole number from 1";
        let from_one = |text: &str| value::unsigned(text).filter(|order| *order > 0);
        let Some(order) = findings.parsed(boot, "order", expected, from_one) else {
            continue;
        };
        if by_kind.is_some() {
            findings.error_with_hint(
                boot.position(),
                "<boot order> of a device and <boot dev> of <os> exclude each other",
                "remove one kind of them",
            );
        }
        if let Some(line) = seen.insert(order, device.position().line) {
            findings.error_with_hint(
                boot.position(),
                format!("the boot order {order} is that of the device in line {line}"),
                "give each device a place of its own",
            );
        }
    }
}

/// Consoles beyond the first: each would need a device that is not built.
fn several_consoles(devices: Element<'_>, findings: &mut Findings<'_>) {
    let serial = |console: &Element<'_>| {
        let target = console
            .child("target")
            .and_then(|target| target.value("type"));
        matches!(target, None | Some("serial"))
    };
    for console in devices.children_named("console").filter(serial).skip(1) {
        findings.keep_with_hint(
            console.position(),
            "a second <console> on a serial port is not built",
            "add a <serial> for it and remove this <console>",
        );
    }
}

/// What the tables cannot see: parts that are missing, or that only together cannot be started.
fn startable(root: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    for disk in &domain.disks {
        // A stated bus has been judged by the tables.
        if !disk.bus_stated
            && !matches!(disk.bus, DiskBus::Virtio | DiskBus::Fdc)
            && disk.device != DiskDevice::Floppy
        {
            findings.keep_with_hint(
                disk.at,
                format!("the disk '{}' is not on virtio by its name", disk.target),
                "add bus='virtio' to its <target>",
            );
        }
    }
    for disk in &domain.disks {
        let missing = disk
            .iothreads
            .iter()
            .find(|id| !domain.iothreads.contains(*id));
        if let Some(id) = missing {
            findings.error_with_hint(
                disk.at,
                format!(
                    "the disk '{}' wants iothread {id}, and there is none",
                    disk.target
                ),
                format!("write <iothreads>{id}</iothreads>, or take iothread= away"),
            );
        }
    }
    let no_balloon = domain.memballoon.as_ref().is_some_and(|b| !b.present);
    if no_balloon && domain.memory.current_kib < domain.memory.size_kib {
        let at = root
            .child("currentMemory")
            .map_or(domain.memory.at, Element::position);
        findings.warn(
            at,
            "<currentMemory> below <memory> has no effect without a balloon: the guest has all of <memory>",
        );
    }
}
