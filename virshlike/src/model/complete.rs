//! What a definition lacks, filled in once and written down, so that it never changes again.
//!
//! ```text
//! UUID, machine version -> indices and places of root ports -> MAC addresses, places of devices
//!   -> a balloon
//! ```
//!
//! Every step only adds; what a person wrote is not moved. A complete definition is left alone.

use super::DiskBus;
use super::device::MacAddress;
use super::display;
use super::domain::Domain;
use super::parse::{disk_bus, pci_address};
use super::schema;
use super::serial_bus;
use super::slots::Slots;
use super::value;
use crate::xml::{Diagnostics, Document, Edits, Element, NewElement};
use std::collections::BTreeSet;
use uuid::Uuid;
use vmm_api::spec::{MACHINE_NEWEST, PciAddress};

/// Fills in what the definition lacks, in the document and in the domain: the UUID, the machine
/// version, MAC addresses, indices of PCI controllers and PCI addresses. Doing it again changes
/// nothing.
///
/// # Errors
/// When there is no room for what is missing; the document is then unchanged.
pub fn complete(document: &mut Document, domain: &mut Domain) -> Result<(), Diagnostics> {
    let uuid = domain.uuid.unwrap_or_else(Uuid::new_v4);
    let mut work = document.clone();
    let mut edits = Edits::new();
    identity(work.root(), uuid, &mut edits);
    if let Some(devices) = work.root().child("devices") {
        let mut completer = Completer::new(devices, &work);
        completer.ports(devices, &mut edits)?;
        completer.devices(devices, uuid, &mut edits)?;
    }
    work.apply(edits)?;
    let (complete, _) = Domain::parse(&work)?;
    *document = work;
    *domain = complete;
    Ok(())
}

fn identity(root: Element<'_>, uuid: Uuid, edits: &mut Edits) {
    if root.child("uuid").is_none() {
        let element = NewElement::new("uuid").text(uuid.to_string());
        edits.insert(root.id(), element, schema::order(""));
    }
    if let Some(kind) = root.child("os").and_then(|os| os.child("type"))
        && kind.value("machine") != Some(MACHINE_NEWEST)
    {
        edits.set_attribute(kind.id(), "machine", MACHINE_NEWEST);
    }
}

struct Completer<'a> {
    document: &'a Document,
    slots: Slots,
    /// Indices of PCI controllers, which are bus numbers.
    indices: BTreeSet<u32>,
    chassis: BTreeSet<u64>,
}

/// The PCI address that an element gives; its mistakes have been told by the parse.
fn address_of(device: Element<'_>, document: &Document) -> Option<PciAddress> {
    pci_address(device, document)
}

fn is_pci(controller: &Element<'_>) -> bool {
    controller.value("type") == Some("pci")
}

fn is_root_port(controller: &Element<'_>) -> bool {
    is_pci(controller) && controller.value("model") == Some("pcie-root-port")
}

impl<'a> Completer<'a> {
    fn new(devices: Element<'_>, document: &'a Document) -> Self {
        let mut slots = Slots::default();
        for device in devices.children() {
            if let Some(address) = address_of(device, document) {
                slots.take(address);
            }
        }
        let controllers = || devices.children_named("controller").filter(is_pci);
        let indices = controllers()
            .filter_map(|controller| value::unsigned32(controller.value("index")?))
            .collect();
        let chassis = controllers()
            .filter_map(|controller| value::any_base(controller.child("target")?.value("chassis")?))
            .collect();
        Self {
            document,
            slots,
            indices,
            chassis,
        }
    }

    fn no_room(&self, device: Element<'_>, what: &str) -> Diagnostics {
        let error = self.document.error(
            device.position(),
            format!("there is no free {what} for this <{}>", device.name()),
        );
        Diagnostics::one(
            error.with_hint("remove devices, or add root ports and put devices behind them"),
        )
    }

    /// Bus numbers, places and slot numbers of root ports, and what bus they lead to.
    fn ports(&mut self, devices: Element<'_>, edits: &mut Edits) -> Result<(), Diagnostics> {
        let missing = |device: &Element<'_>| address_of(*device, self.document).is_none();
        let wanted = devices
            .children()
            .filter(|device| is_root_port(device) || wants_pci(*device))
            .filter(missing)
            .count();
        let tight = self.slots.free_slots() < wanted;
        for controller in devices.children_named("controller").filter(is_pci) {
            let index = match controller.value("index").and_then(value::unsigned32) {
                Some(index) => index,
                None => self.new_index(controller, edits)?,
            };
            if !is_root_port(&controller) {
                continue;
            }
            let address = match address_of(controller, self.document) {
                Some(address) => address,
                None => {
                    let address = self
                        .slots
                        .port_place(tight)
                        .ok_or_else(|| self.no_room(controller, "PCI slot"))?;
                    write_address(controller, address, tight && address.function == 0, edits);
                    address
                }
            };
            self.port_target(controller, index, address, edits);
            if let Ok(bus) = u8::try_from(index) {
                self.slots.add_port(bus);
            }
        }
        Ok(())
    }

    fn new_index(
        &mut self,
        controller: Element<'_>,
        edits: &mut Edits,
    ) -> Result<u32, Diagnostics> {
        let root = matches!(controller.value("model"), Some("pcie-root" | "pci-root"));
        let first = if root { 0 } else { 1 };
        let index = (first..=255)
            .find(|index| root || !self.indices.contains(index))
            .ok_or_else(|| self.no_room(controller, "bus number"))?;
        self.indices.insert(index);
        edits.set_attribute(controller.id(), "index", &index.to_string());
        Ok(index)
    }

    /// The slot numbers that the guest reads; libvirt's choice of them.
    fn port_target(
        &mut self,
        controller: Element<'_>,
        index: u32,
        address: PciAddress,
        edits: &mut Edits,
    ) {
        let target = controller.child("target");
        let has = |name: &str| target.is_some_and(|target| target.attribute(name).is_some());
        let mut chassis = u64::from(index);
        if !has("chassis") {
            chassis = (chassis..=255)
                .chain(1..chassis)
                .find(|chassis| !self.chassis.contains(chassis))
                .unwrap_or(chassis);
            self.chassis.insert(chassis);
        }
        let (chassis, port) = (chassis.to_string(), format!("{:#x}", address.devfn()));
        match target {
            None => {
                let target = NewElement::new("target")
                    .attribute("chassis", chassis)
                    .attribute("port", port);
                edits.insert(controller.id(), target, schema::order("devices/controller"));
            }
            Some(target) => {
                if !has("chassis") {
                    edits.set_attribute(target.id(), "chassis", &chassis);
                }
                if !has("port") {
                    edits.set_attribute(target.id(), "port", &port);
                }
            }
        }
    }

    fn devices(
        &mut self,
        devices: Element<'_>,
        uuid: Uuid,
        edits: &mut Edits,
    ) -> Result<(), Diagnostics> {
        self.macs(devices, uuid, edits);
        for device in devices.children().filter(|device| wants_pci(*device)) {
            if address_of(device, self.document).is_some() {
                continue;
            }
            let address = self
                .slots
                .device_place()
                .ok_or_else(|| self.no_room(device, "PCI slot"))?;
            write_address(device, address, false, edits);
        }
        for index in serial_bus::missing_controllers(devices) {
            let address = self
                .slots
                .device_place()
                .ok_or_else(|| self.no_room(devices, "PCI slot"))?;
            let controller = NewElement::new("controller")
                .attribute("type", "virtio-serial")
                .attribute("index", index.to_string())
                .child(new_address(address, false));
            edits.insert(devices.id(), controller, schema::order("devices"));
        }
        serial_bus::assign_ports(devices, edits);
        for device in display::missing(devices) {
            let address = self
                .slots
                .device_place()
                .ok_or_else(|| self.no_room(devices, "PCI slot"))?;
            display::add(devices, device.child(new_address(address, false)), edits);
        }
        self.balloon(devices, edits);
        Ok(())
    }

    /// As libvirt does, a definition that says nothing of a balloon gets one; where there is no place
    /// left it goes without.
    fn balloon(&mut self, devices: Element<'_>, edits: &mut Edits) {
        if devices.child("memballoon").is_some() {
            return;
        }
        let Some(address) = self.slots.device_place() else {
            return;
        };
        let balloon = NewElement::new("memballoon")
            .attribute("model", "virtio")
            .child(new_address(address, false));
        edits.insert(devices.id(), balloon, schema::order("devices"));
    }

    fn macs(&self, devices: Element<'_>, uuid: Uuid, edits: &mut Edits) {
        let stated = |interface: Element<'_>| {
            interface
                .child("mac")
                .and_then(|mac| mac.value("address")?.parse::<MacAddress>().ok())
        };
        let mut taken: BTreeSet<MacAddress> = devices
            .children_named("interface")
            .filter_map(stated)
            .collect();
        let missing = devices
            .children_named("interface")
            .enumerate()
            .filter(|(_, interface)| stated(*interface).is_none());
        for (index, interface) in missing {
            let mac = (0u32..)
                .map(|attempt| derived_mac(uuid, index, attempt))
                .find(|mac| taken.insert(*mac));
            let Some(mac) = mac else { continue };
            match interface.child("mac") {
                Some(element) => edits.set_attribute(element.id(), "address", &mac.to_string()),
                None => edits.insert(
                    interface.id(),
                    NewElement::new("mac").attribute("address", mac.to_string()),
                    schema::order("devices/interface"),
                ),
            }
        }
    }
}

/// QEMU's and libvirt's prefix, and three bytes that follow from the domain's UUID.
fn derived_mac(uuid: Uuid, index: usize, attempt: u32) -> MacAddress {
    let hash = Uuid::new_v5(&uuid, format!("mac {index} {attempt}").as_bytes());
    let [a, b, c, ..] = *hash.as_bytes();
    MacAddress([0x52, 0x54, 0x00, a, b, c])
}

/// Whether a device needs a PCI address: the virtio devices that a machine is built from.
fn wants_pci(device: Element<'_>) -> bool {
    let model = |element: Element<'_>, name: &str| {
        element
            .value(name)
            .is_none_or(|model| model.starts_with("virtio"))
    };
    match device.name() {
        "disk" => device.value("device") != Some("floppy") && disk_bus(device) == DiskBus::Virtio,
        "interface" => device
            .child("model")
            .is_none_or(|element| model(element, "type")),
        "rng" => model(device, "model"),
        "memballoon" => device
            .value("model")
            .is_some_and(|model| model.starts_with("virtio")),
        "controller" => device.value("type") == Some("virtio-serial"),
        "video" => display::is_card(device),
        "input" => display::is_virtio_input(device),
        _ => false,
    }
}

fn address_attributes(address: PciAddress, multifunction: bool) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("type", "pci".to_string()),
        ("domain", "0x0000".to_string()),
        ("bus", format!("{:#04x}", address.bus)),
        ("slot", format!("{:#04x}", address.slot)),
        ("function", format!("{:#x}", address.function)),
    ];
    if multifunction {
        attributes.push(("multifunction", "on".to_string()));
    }
    attributes
}

fn new_address(address: PciAddress, multifunction: bool) -> NewElement {
    let mut element = NewElement::new("address");
    for (name, value) in address_attributes(address, multifunction) {
        element = element.attribute(name, value);
    }
    element
}

fn write_address(device: Element<'_>, address: PciAddress, multifunction: bool, edits: &mut Edits) {
    if let Some(element) = device.child("address") {
        for (name, value) in address_attributes(address, multifunction) {
            edits.set_attribute(element.id(), name, &value);
        }
        return;
    }
    let element = new_address(address, multifunction);
    let order = schema::order(&format!("devices/{}", device.name()));
    edits.insert(device.id(), element, order);
}
