//! What a definition with a VNC display lacks: something that draws, and something to type and point
//! with. libvirt adds a video card and input devices too.
//!
//! PS/2 devices stay what they are, the guest's own: viewers reach virtio devices only.

use super::{device, schema};
use crate::xml::{Edits, Element, NewElement};

fn has_vnc(devices: Element<'_>) -> bool {
    let mut graphics = devices.children_named("graphics");
    graphics.any(|graphics| graphics.value("type") == Some("vnc"))
}

/// Whether this `<video>` is a card of the machine.
pub(super) fn is_card(video: Element<'_>) -> bool {
    let model = video.child("model").and_then(|model| model.value("type"));
    device::is_card(model.unwrap_or("default"))
}

/// Whether this `<input>` is a device of the machine that needs a place.
pub(super) fn is_virtio_input(input: Element<'_>) -> bool {
    input.value("bus") == Some("virtio")
}

/// What is missing, without places.
pub(super) fn missing(devices: Element<'_>) -> Vec<NewElement> {
    let mut missing = Vec::new();
    if !has_vnc(devices) {
        return missing;
    }
    let has_input = |kinds: &[&str]| {
        devices
            .children_named("input")
            .filter(|input| is_virtio_input(*input))
            .any(|input| {
                input
                    .value("type")
                    .is_some_and(|kind| kinds.contains(&kind))
            })
    };
    let input = |kind| {
        NewElement::new("input")
            .attribute("type", kind)
            .attribute("bus", "virtio")
    };
    if !has_input(&["tablet", "mouse"]) {
        missing.push(input("tablet"));
    }
    if !has_input(&["keyboard"]) {
        missing.push(input("keyboard"));
    }
    if devices.child("video").is_none() {
        let model = NewElement::new("model").attribute("type", "virtio");
        missing.push(NewElement::new("video").child(model));
    }
    missing
}

/// Writes what is missing, each with a place.
pub(super) fn add(devices: Element<'_>, element: NewElement, edits: &mut Edits) {
    edits.insert(devices.id(), element, schema::order("devices"));
}
