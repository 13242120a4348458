//! `--map-to-virtio`: disks and network cards of other kinds become virtio devices.
//!
//! The guest sees the difference (its drivers and the names of its disks change), so this happens
//! only when a person asks for it.

use super::parse::{disk_bus, disk_number};
use super::{DiskBus, schema};
use crate::xml::{Diagnostics, Document, Edits, Element, NewElement};
use std::collections::BTreeSet;

/// Turns every disk on IDE, SATA, SCSI or USB and every network card of another model into a
/// virtio device, in the document, and takes empty CD-ROM drives out of it. Says what it did, one sentence per device; run
/// [`super::complete`] behind it, which gives the new devices their places.
///
/// # Errors
/// When the result would not parse, or when there are no disk names left.
pub fn map_to_virtio(document: &mut Document) -> Result<Vec<String>, Diagnostics> {
    let mut edits = Edits::new();
    let mut done = Vec::new();
    if let Some(devices) = document.root().child("devices") {
        let mut taken: BTreeSet<u32> = devices
            .children_named("disk")
            .filter(|disk| disk_bus(*disk) == DiskBus::Virtio)
            .filter_map(|disk| disk_number(disk.child("target")?.value("dev")?))
            .collect();
        for disk in devices.children_named("disk").filter(|disk| changes(*disk)) {
            done.extend(match is_empty_drive(disk) {
                true => leave_out(disk, &mut edits),
                false => move_disk(disk, &mut taken, &mut edits),
            });
        }
        for interface in devices.children_named("interface") {
            done.extend(change_model(interface, &mut edits));
        }
    }
    document.apply(edits)?;
    Ok(done)
}

fn changes(disk: Element<'_>) -> bool {
    is_empty_drive(disk)
        || matches!(disk.value("device"), None | Some("disk" | "cdrom"))
            && matches!(
                disk_bus(disk),
                DiskBus::Ide | DiskBus::Sata | DiskBus::Scsi | DiskBus::Usb
            )
}

/// A drive without a medium, which a disk on virtio cannot be.
fn is_empty_drive(disk: Element<'_>) -> bool {
    let medium = disk.child("source").is_some_and(|source| {
        source.attributes().any(|attribute| {
            !matches!(attribute.name(), "startupPolicy" | "index") && !attribute.value().is_empty()
        })
    });
    disk.value("device") == Some("cdrom") && !medium
}

fn leave_out(disk: Element<'_>, edits: &mut Edits) -> Option<String> {
    let target = disk.child("target")?.value("dev")?;
    edits.remove(disk.id());
    Some(format!(
        "the empty drive '{target}' is left out: media cannot be changed in a virtio disk"
    ))
}

fn move_disk(disk: Element<'_>, taken: &mut BTreeSet<u32>, edits: &mut Edits) -> Option<String> {
    let target = disk.child("target")?;
    let old = target.value("dev")?;
    // The same letter where it is free, so that the order of the disks stays what it was.
    let wanted = disk_number(old).unwrap_or(0);
    let number = std::iter::once(wanted)
        .chain(0..)
        .find(|number| !taken.contains(number))?;
    taken.insert(number);
    let new = format!("vd{}", letters(number));
    edits.set_attribute(target.id(), "dev", &new);
    edits.set_attribute(target.id(), "bus", "virtio");
    for name in ["removable", "rotation_rate"] {
        edits.remove_attribute(target.id(), name);
    }
    if let Some(address) = disk.child("address") {
        edits.remove(address.id());
    }
    Some(format!("the disk '{old}' becomes the virtio disk '{new}'"))
}

/// `a` for 0, `aa` for 26.
fn letters(number: u32) -> String {
    let mut rest = number;
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + u8::try_from(rest % 26).unwrap_or(0)));
        match (rest / 26).checked_sub(1) {
            Some(next) => rest = next,
            None => break,
        }
    }
    letters.iter().rev().collect()
}

fn change_model(interface: Element<'_>, edits: &mut Edits) -> Option<String> {
    let at = interface.position();
    match interface.child("model") {
        Some(model) => {
            let old = model.value("type").unwrap_or("unnamed");
            if old.starts_with("virtio") {
                return None;
            }
            edits.set_attribute(model.id(), "type", "virtio");
            Some(format!(
                "the {old} network card of line {} becomes a virtio one",
                at.line
            ))
        }
        None => {
            let model = NewElement::new("model").attribute("type", "virtio");
            edits.insert(interface.id(), model, schema::order("devices/interface"));
            None
        }
    }
}
