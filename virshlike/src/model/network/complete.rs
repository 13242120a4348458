//! What a network definition lacks, filled in once and written down.

use super::Network;
use crate::model::device::MacAddress;
use crate::model::schema;
use crate::xml::{Diagnostics, Document, Edits, NewElement};
use uuid::Uuid;

/// libvirt's names of bridges.
const STEM: &str = "virbr";
/// More bridges than a host has; a bound on the work.
const MOST: u32 = 4096;

/// Fills in the UUID, the bridge's name and its address, in the document and in the network.
/// `taken` tells which names of bridges others have. Doing it again changes nothing.
///
/// # Errors
/// When the document would not parse afterwards; it is then unchanged.
pub fn complete_network(
    document: &mut Document,
    network: &mut Network,
    taken: impl Fn(&str) -> bool,
) -> Result<(), Diagnostics> {
    let uuid = network.uuid.unwrap_or_else(Uuid::new_v4);
    let mut work = document.clone();
    let mut edits = Edits::new();
    let root = work.root();
    if root.child("uuid").is_none() {
        let element = NewElement::new("uuid").text(uuid.to_string());
        edits.insert(root.id(), element, schema::network_order(""));
    }
    if network.forward.mode.makes_bridge() {
        let name = match &network.bridge.name {
            Some(name) => name.clone(),
            None => (0..MOST)
                .map(|number| format!("{STEM}{number}"))
                .find(|name| !taken(name))
                .unwrap_or_else(|| format!("{STEM}0")),
        };
        let facts = [("name", name.as_str()), ("stp", "on"), ("delay", "0")];
        match root.child("bridge") {
            Some(bridge) => {
                for (attribute, value) in facts {
                    if bridge.attribute(attribute).is_none() {
                        edits.set_attribute(bridge.id(), attribute, value);
                    }
                }
            }
            None => {
                let bridge = facts
                    .into_iter()
                    .fold(NewElement::new("bridge"), |element, (attribute, value)| {
                        element.attribute(attribute, value)
                    });
                edits.insert(root.id(), bridge, schema::network_order(""));
            }
        }
        if network.mac.is_none() {
            let mac = derived_mac(uuid).to_string();
            match root.child("mac") {
                Some(element) => edits.set_attribute(element.id(), "address", &mac),
                None => edits.insert(
                    root.id(),
                    NewElement::new("mac").attribute("address", mac),
                    schema::network_order(""),
                ),
            }
        }
    }
    work.apply(edits)?;
    let (complete, _) = Network::parse(&work)?;
    *document = work;
    *network = complete;
    Ok(())
}

/// QEMU's and libvirt's prefix, and three bytes that follow from the network's UUID.
fn derived_mac(uuid: Uuid) -> MacAddress {
    let hash = Uuid::new_v5(&uuid, b"bridge mac");
    let [a, b, c, ..] = *hash.as_bytes();
    MacAddress([0x52, 0x54, 0x00, a, b, c])
}
