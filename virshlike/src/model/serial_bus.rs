//! Ports of virtio-serial controllers: which controllers are missing, and which port a channel or
//! console gets that does not say one.
//!
//! libvirt's rules: port 0 is for consoles, because drivers without ports know only that one;
//! channels begin at 1.

use super::parse::ports::{is_on_virtio, place};
use super::schema;
use super::value;
use crate::xml::{Edits, Element, NewElement};
use std::collections::BTreeSet;

fn users(devices: Element<'_>) -> impl Iterator<Item = Element<'_>> {
    devices.children().filter(|device| is_on_virtio(*device))
}

/// Indices of controllers that channels and consoles name and that are not there.
pub(super) fn missing_controllers(devices: Element<'_>) -> BTreeSet<u32> {
    let there: BTreeSet<u32> = devices
        .children_named("controller")
        .filter(|controller| controller.value("type") == Some("virtio-serial"))
        .map(|controller| {
            let index = controller.value("index").and_then(value::unsigned32);
            index.unwrap_or(0)
        })
        .collect();
    users(devices)
        .map(|device| place(device).controller)
        .filter(|index| !there.contains(index))
        .collect()
}

/// Writes the ports that are missing.
pub(super) fn assign_ports(devices: Element<'_>, edits: &mut Edits) {
    let mut taken: BTreeSet<(u32, u16)> = users(devices)
        .filter_map(|device| {
            let place = place(device);
            Some((place.controller, place.port?))
        })
        .collect();
    for device in users(devices) {
        let place = place(device);
        if place.port.is_some() {
            continue;
        }
        let first = if device.name() == "console" { 0 } else { 1 };
        let Some(port) = (first..=u16::MAX).find(|port| taken.insert((place.controller, *port)))
        else {
            continue;
        };
        write(device, place.controller, port, edits);
    }
}

fn write(device: Element<'_>, controller: u32, port: u16, edits: &mut Edits) {
    let attributes = [
        ("type", "virtio-serial".to_string()),
        ("controller", controller.to_string()),
        ("bus", "0".to_string()),
        ("port", port.to_string()),
    ];
    if let Some(element) = device.child("address") {
        for (name, value) in attributes {
            edits.set_attribute(element.id(), name, &value);
        }
        return;
    }
    let mut element = NewElement::new("address");
    for (name, value) in attributes {
        element = element.attribute(name, value);
    }
    let order = schema::order(&format!("devices/{}", device.name()));
    edits.insert(device.id(), element, order);
}
